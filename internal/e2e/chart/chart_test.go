// SPDX-License-Identifier: Apache-2.0

// Package chart tests the Helm chart of examples/deploy with the real helm.
package chart

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/vpcnet/vpcnet/internal/e2e/programs"
)

var (
	update = flag.Bool("update", false, "rewrite the manifest")
	_      = flag.Bool("long", false, "change nothing: the tests are the same in both tiers")
)

const (
	chartDir = "../../../examples/deploy/chart"
	// manifest is what the chart makes of its own values.
	manifest = "../../../examples/deploy/vpcnet.yaml"
	// service is the unit of systemd.
	service = "../../../examples/deploy/vpcnet.service"
	// settings is the page with all settings of the agent.
	settings = "../../../docs/settings.md"
)

// helm runs helm without a cluster.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	dir, err := programs.Build("../helm", "helm.sh/helm/v4/cmd/helm")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, "helm"), args...)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "HOME="+home, "KUBECONFIG="+filepath.Join(home, "none"))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("helm %v: %w\n%s%s", args, err, out.String(), errs.String())
	}
	return out.String(), nil
}

// render returns the manifest of the chart with the given values.
func render(t *testing.T, values ...string) string {
	t.Helper()
	text, err := template(t, values...)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// template returns the manifest of the chart, or the error of helm.
func template(t *testing.T, values ...string) (string, error) {
	t.Helper()
	args := []string{"template", "vpcnet", chartDir, "--namespace", "kube-system"}
	for _, v := range values {
		args = append(args, "--set", v)
	}
	return helm(t, args...)
}

func TestLint(t *testing.T) {
	if _, err := helm(t, "lint", "--strict", chartDir); err != nil {
		t.Error(err)
	}
}

// TestManifest compares the plain manifest with what the chart makes.
func TestManifest(t *testing.T) {
	got := "# SPDX-License-Identifier: Apache-2.0\n#\n# `go test ./chart -args -update` in internal/e2e makes this file from the chart.\n"
	for line := range strings.Lines(render(t)) {
		if !strings.Contains(line, "# Source: ") && !strings.Contains(line, "managed-by: Helm") {
			got += line
		}
	}
	if *update {
		if err := os.WriteFile(manifest, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs from the chart, rewrite it with -update (-want +got):\n%s", manifest, diff)
	}
}

// container is the part of a container that the tests look at.
type container struct {
	Name, Image     string
	Env             []variable
	VolumeMounts    []mount
	SecurityContext struct {
		Privileged, AllowPrivilegeEscalation *bool
		ReadOnlyRootFilesystem               bool
		Capabilities                         struct{ Add, Drop []string }
	}
}

type variable struct{ Name, Value string }

type mount struct{ Name, MountPath string }

// containers returns the containers of a manifest.
func containers(t *testing.T, manifest string) (all []container) {
	t.Helper()
	for _, doc := range strings.Split(manifest, "\n---\n") {
		var o struct {
			Kind string
			Spec struct {
				Template struct {
					Spec struct{ InitContainers, Containers []container }
				}
			}
		}
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatal(err)
		}
		all = append(append(all, o.Spec.Template.Spec.InitContainers...), o.Spec.Template.Spec.Containers...)
	}
	if len(all) != 2 {
		t.Fatalf("%d containers, want 2", len(all))
	}
	return all
}

// TestRights checks that no container is privileged, and that each has the capabilities of the
// unit of systemd and no others. TestCapabilities and TestInstall of internal/nodetest run the
// agent and the installation with these and without each of them.
func TestRights(t *testing.T) {
	unit, err := os.ReadFile(service)
	if err != nil {
		t.Fatal(err)
	}
	var proven []string
	for name := range strings.FieldsSeq(string(regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindSubmatch(unit)[1])) {
		proven = append(proven, strings.TrimPrefix(name, "CAP_"))
	}
	for _, c := range containers(t, render(t)) {
		s := c.SecurityContext
		if s.Privileged != nil && *s.Privileged || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || !s.ReadOnlyRootFilesystem || !slices.Equal(s.Capabilities.Drop, []string{"ALL"}) {
			t.Errorf("%s has %+v", c.Name, s)
		}
		if !slices.Equal(s.Capabilities.Add, proven) {
			t.Errorf("%s has the capabilities %v, want %v", c.Name, s.Capabilities.Add, proven)
		}
	}
}

// own are the settings that the chart makes of its mounts.
var own = []string{
	"VPCNET_ROOT", "VPCNET_PREFLIGHT", "HOST_CNI_BIN_PATH", "VPCNET_CONFLIST", "VPCNET_STATE_DIR", "VPCNET_SOCKET", "VPCNET_STATUS_SOCKET",
}

// TestSettings checks that the schema has all settings of the agent but those of the chart, and
// that both containers get them.
func TestSettings(t *testing.T) {
	page, err := os.ReadFile(settings)
	if err != nil {
		t.Fatal(err)
	}
	var known, values []string
	for _, m := range regexp.MustCompile("(?m)^\\| `-[a-z0-9-]+` \\| `([A-Za-z0-9_]+)`").FindAllSubmatch(page, -1) {
		if name := string(m[1]); !slices.Contains(own, name) {
			known = append(known, name)
			values = append(values, "env."+name+"=x")
		}
	}
	slices.Sort(known)
	text, err := os.ReadFile(filepath.Join(chartDir, "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Definitions struct {
			Env struct{ PropertyNames struct{ Enum []string } }
		}
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(known, schema.Definitions.Env.PropertyNames.Enum); diff != "" {
		t.Errorf("settings in the schema (-want +got):\n%s", diff)
	}
	for _, c := range containers(t, render(t, values...)) {
		for _, name := range known {
			if !slices.Contains(c.Env, variable{name, "x"}) {
				t.Errorf("%s lacks %s=x", c.Name, name)
			}
		}
	}
}

// TestValues checks what values do that are not copied as they are.
func TestValues(t *testing.T) {
	text := render(t, "env.ENABLE_IPv6=false", "init.env.ENABLE_IPv6=true", "env.AWS_VPC_ENI_MTU=1500", "extraEnv[0].name=AWS_REGION", "extraEnv[0].value=eu-west-1",
		"extraVolumes[0].name=policies", "extraVolumes[0].configMap.name=policies", "extraVolumeMounts[0].name=policies", "extraVolumeMounts[0].mountPath=/policies",
		"image.repository=localhost/agent", "image.tag=v7", "serviceAccount.name=other", "netnsDir=/run/docker/netns")
	for _, c := range containers(t, text) {
		six := variable{"ENABLE_IPv6", "false"}
		if c.Name == "install" {
			six.Value = "true"
		}
		for _, want := range []variable{six, {"AWS_VPC_ENI_MTU", "1500"}, {"AWS_REGION", "eu-west-1"}} {
			if !slices.Contains(c.Env, want) {
				t.Errorf("%s lacks %v", c.Name, want)
			}
		}
		if c.Image != "localhost/agent:v7" {
			t.Errorf("%s has the image %s", c.Name, c.Image)
		}
		if !slices.Contains(c.VolumeMounts, mount{"policies", "/policies"}) {
			t.Errorf("%s has no mount of the further volume", c.Name)
		}
		if c.Name == "agent" && !slices.Contains(c.VolumeMounts, mount{"netns", "/var/run/docker/netns"}) {
			t.Errorf("the agent has the mounts %v", c.VolumeMounts)
		}
	}
	for _, want := range []string{"kind: ServiceAccount\nmetadata:\n  name: other\n", "serviceAccountName: other\n", "path: /run/docker/netns\n", "- configMap:\n            name: policies\n          name: policies\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("the manifest lacks %q", want)
		}
	}
}

// TestIptablesBackend checks that the agent has what the programs of iptables need, and only
// with that backend.
func TestIptablesBackend(t *testing.T) {
	lock := mount{"xtables-lock", "/run/xtables.lock"}
	for backend, want := range map[string]bool{"nftables": false, "iptables": true} {
		text := render(t, "env.VPCNET_SNAT_BACKEND="+backend)
		for _, c := range containers(t, text) {
			raw, locked := slices.Contains(c.SecurityContext.Capabilities.Add, "NET_RAW"), slices.Contains(c.VolumeMounts, lock)
			if has := want && c.Name == "agent"; raw != has || locked != has {
				t.Errorf("%s with the backend %s: NET_RAW %t, the lock %t", c.Name, backend, raw, locked)
			}
		}
		if strings.Contains(text, "type: FileOrCreate") != want {
			t.Errorf("the volume of the lock with the backend %s: %t", backend, !want)
		}
	}
}

// TestRefusedValues checks that the schema refuses what the chart does not know.
func TestRefusedValues(t *testing.T) {
	for _, wrong := range []string{
		"env.WARM_IP_TARGETS=1", "env.VPCNET_SOCKET=/run/other.sock", "env.WARM_IP_TARGET=1000000", "init.env.WARM_IP_TARGETS=1", "image.repo=x", "replicas=2",
		"updateStrategy.type=Recreate", "image.pullPolicy=Sometimes", "tolerations=all", "livenessProbe.periodSeconds=0",
	} {
		if _, err := template(t, wrong); err == nil {
			t.Errorf("%s is permitted", wrong)
		}
	}
}
