// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func configFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "vpcnet.conf")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestFile checks which of file, variable, flag and further text counts.
func TestFile(t *testing.T) {
	file := configFile(t, "# comment\n\nWARM_IP_TARGET = 1\n MINIMUM_IP_TARGET=1\nMAX_ENI=1\nVPCNET_MAX_PODS=1\nADDITIONAL_ENI_TAGS={\"a\":\"b=c\"}\nCLUSTER_NAME=\n")
	args := []string{"-max-eni=3", "-config=" + file}
	vars := env(map[string]string{"MINIMUM_IP_TARGET": "2", "MAX_ENI": "2", "CLUSTER_NAME": "prod"})
	s, err := Parse(args, vars, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	type values struct{ WarmIP, MinimumIP, MaxENI, MaxPods int }
	of := func(s Settings) values { return values{s.WarmIPTarget, s.minimumIPTarget, s.maxENI, s.MaxPods} }
	if got, want := of(s), (values{1, 2, 3, 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if s.ENITags["a"] != "b=c" || s.Cluster != "prod" || s.policyName() != policyAWS {
		t.Errorf("tags %v, cluster %q, policy %s", s.ENITags, s.Cluster, s.policyName())
	}
	want := []string{file + ":4: MINIMUM_IP_TARGET is overridden by its flag or environment variable", file + ":5: MAX_ENI is overridden by its flag or environment variable"}
	if diff := cmp.Diff(want, s.Warnings()); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	if s, err = parse(args, vars, "MAX_ENI=4\nVPCNET_MAX_PODS=4\nMINIMUM_IP_TARGET=4\n"); err != nil {
		t.Fatal(err)
	}
	if got, want := of(s), (values{1, 4, 4, 4}); got != want {
		t.Errorf("%+v after the texts, want %+v", got, want)
	}
	byEnv, err := Parse(nil, func(name string) string {
		if name == "VPCNET_CONFIG" {
			return file
		}
		return ""
	}, io.Discard)
	if err != nil || byEnv.maxENI != 1 {
		t.Errorf("the maximum of ENIs is %d, %v, want that of the file that VPCNET_CONFIG names", byEnv.maxENI, err)
	}
}

// TestFileMistakes checks that mistakes are named with file and line.
func TestFileMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"WARM_IP_TARGET=1\nrubbish\n":          `:2: "rubbish" is not of the form NAME=value`,
		"=3":                                   ":1: ",
		"\n# x\nWARM_IP_TARGETS=1":             ":3: there is no setting WARM_IP_TARGETS",
		"WARM_IP_TARGET=1\nWARM_IP_TARGET=2":   ":2: WARM_IP_TARGET is in line 1 already",
		"VPCNET_CONFIG=/etc/other":             ":1: a file cannot name another one",
		"\nWARM_IP_TARGET=many":                `:2: WARM_IP_TARGET="many": want a whole number`,
		"ENABLE_IMDS_ONLY_MODE=true":           `ENABLE_IMDS_ONLY_MODE="true": the agent does not have this setting`,
		"POD_MTU=9001\nAWS_VPC_ENI_MTU=1500\n": "-pod-mtu 9001 (POD_MTU) is more than",
		"\x00\x01\x02":                         ":1: ",
		strings.Repeat("x", 1<<20):             ":1: ",
	} {
		file := configFile(t, text)
		_, err := Parse([]string{"-config", file}, noEnv, io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) || strings.HasPrefix(want, ":") && !strings.HasPrefix(err.Error(), file+want) {
			t.Errorf("%.60q: %v, want %s%s", text, err, file, want)
		}
		if err != nil && len(err.Error()) > 500 {
			t.Errorf("%.60q: the error has %d bytes", text, len(err.Error()))
		}
	}
	if _, err := Parse([]string{"-config", "/missing"}, noEnv, io.Discard); err == nil || !strings.Contains(err.Error(), "-config (VPCNET_CONFIG): open /missing") {
		t.Errorf("a missing file: %v", err)
	}
	for text, want := range map[string]string{
		"VPCNET_LAYOUT=per-pod":    "settings:1: VPCNET_LAYOUT takes effect only when the agent starts",
		"CLUSTER_NAME=x":           "settings:1: CLUSTER_NAME takes effect only",
		"nothing":                  "settings:1: ",
		"VPCNET_CONFIG=/etc/other": "settings:1: a file cannot name",
	} {
		if _, err := parse(nil, noEnv, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("text %q: %v, want %s", text, err, want)
		}
	}
}

// FuzzLines checks that no file makes the parser panic, and that what it accepts has a name.
func FuzzLines(f *testing.F) {
	f.Add("A=1\n#c\n\nB = 2 ")
	f.Fuzz(func(t *testing.T, text string) {
		lines, err := parseLines("f", text)
		for _, l := range lines {
			if err != nil || l.name == "" || l.number < 1 || strings.Contains(l.value, "\n") {
				t.Errorf("%q: %+v, %v", text, l, err)
			}
		}
	})
}
