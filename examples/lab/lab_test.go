// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

// TestLab runs the whole walk. Every check must succeed, the report must be complete,
// and nothing may be left behind.
func TestLab(t *testing.T) {
	for _, layout := range []string{layoutFlat, layoutPerPod} {
		t.Run(layout, func(t *testing.T) {
			isolatetest.Require(t)
			w, err := newWorld(t.Context(), small(layout), os.Getenv(programsEnv))
			if err != nil {
				t.Fatal(err)
			}
			w.o.JSON = true
			var text, jsonText bytes.Buffer
			ok := explore(t.Context(), w, &printer{out: &text, status: &text}, &jsonText)
			if err := w.close(); err != nil {
				t.Errorf("close: %v", err)
			}
			if !ok {
				t.Errorf("a check failed:\n%s", text.String())
			}
			var r report
			if err := json.Unmarshal(jsonText.Bytes(), &r); err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, c := range r.Checks {
				names = append(names, c.Name)
			}
			want := checkNames()
			slices.Sort(want)
			slices.Sort(names)
			if diff := cmp.Diff(want, names); diff != "" {
				t.Errorf("checks (-want +got):\n%s", diff)
			}
			if len(r.Nodes) != 2 || len(r.Nodes[0].ENIs) < 2 || len(r.Nodes[0].Pods) < 4 || r.EC2Calls["CreateNetworkInterface"] == 0 {
				t.Errorf("report lacks nodes, ENIs, pods or calls: %s", jsonText.String())
			}
			if !strings.Contains(text.String(), `comment "leave by ens6"`) {
				t.Error("the replies of connections to the second ENI do not leave by it")
			}
			if strings.Contains(text.String(), "\x1b") {
				t.Error("the output has escape sequences although it is not a terminal")
			}
			nothingLeft(t)
		})
	}
}

// nothingLeft checks that no namespace, file or process of a lab is left.
func nothingLeft(t *testing.T) {
	t.Helper()
	for _, pattern := range []string{"/run/netns/*", "/run/lab-*"} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
	}
	if left := agents(); len(left) > 0 {
		t.Errorf("left over: processes %q", left)
	}
}

// agents returns the command lines of all running agents.
func agents() []string {
	var found []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if cmdline, err := os.ReadFile(f); err == nil && bytes.Contains(cmdline, []byte("/ipamd\x00")) {
			found = append(found, string(cmdline))
		}
	}
	return found
}

// TestReportJSON checks the format of -json.
func TestReportJSON(t *testing.T) {
	r := report{
		Checks: []check{{Name: "host-to-pod", OK: true, Detail: "seen"}},
		Nodes: []nodeReport{{
			Name: "node-1", InstanceType: "t3.medium",
			ENIs: []eniReport{{ID: "eni-1", MAC: "02:00:00:00:00:01", Table: 254, Primary: true, Addresses: []string{"192.168.0.4"}}},
			Pods: []podReport{{Name: "pod-1-1", IP: "192.168.0.5", ENI: "eni-1", Node: "node-1", IfName: "eth0"}},
		}},
		EC2Calls:       map[string]int{"AssignPrivateIpAddresses": 1},
		ElapsedSeconds: 1.5,
	}
	got, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"checks":[{"name":"host-to-pod","ok":true,"detail":"seen"}],` +
		`"nodes":[{"name":"node-1","instanceType":"t3.medium",` +
		`"enis":[{"id":"eni-1","mac":"02:00:00:00:00:01","device":0,"table":254,"primary":true,"addresses":["192.168.0.4"]}],` +
		`"pods":[{"name":"pod-1-1","ip":"192.168.0.5","eni":"eni-1","node":"node-1","ifname":"eth0"}]}],` +
		`"ec2Calls":{"AssignPrivateIpAddresses":1},"elapsedSeconds":1.5}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

func TestReportOfStoppedLab(t *testing.T) {
	r := report{Checks: []check{{Name: "host-to-pod", OK: true}}}
	if r.finish(context.Canceled) {
		t.Error("finish reports success for a lab that stopped early")
	}
	if len(r.Checks) != len(checkNames()) {
		t.Errorf("%d checks, want %d", len(r.Checks), len(checkNames()))
	}
	for _, c := range r.Checks {
		if c.Name == "host-to-pod" {
			continue
		}
		if c.OK || !strings.HasPrefix(c.Detail, "not reached") {
			t.Errorf("check that was not reached: %+v, want a failure", c)
		}
	}
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		args string
		want string // part of the message; empty means success
	}{
		{"", ""},
		{"-nodes 2 -pods 13 -instance-type t3.medium -layout per-pod -json -keep", ""},
		{"-nodes 1", "want 2 to 16"},
		{"-nodes 17", "want 2 to 16"},
		{"-pods 0", "want 1 to 13"},
		{"-pods 14", "want 1 to 13"},
		{"-layout ring", "want flat or per-pod"},
		{"-instance-type t3.gigantic", "not a known EC2 instance type"},
		{"-instance-type t3.nano", "too few ENIs or addresses"},
		{"-ayout flat", "not defined: -ayout"},
		{"now", `unexpected argument "now"`},
	} {
		var stderr bytes.Buffer
		_, err := parseOptions(strings.Fields(c.args), &stderr)
		if (err == nil) != (c.want == "") || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("lab %s: %v and %q, want %q", c.args, err, stderr.String(), c.want)
		}
	}
}

func TestAgentEnv(t *testing.T) {
	got := agentEnv([]string{"PATH=/bin", "AWS_PROFILE=work", "AWS_ENDPOINT_URL_EC2=http://real", "AWS_VPC_K8S_CNI_EXTERNALSNAT=true", "WARM_IP_TARGET=2"})
	want := []string{
		"PATH=/bin", "AWS_VPC_K8S_CNI_EXTERNALSNAT=true", "WARM_IP_TARGET=2", "IP_COOLDOWN_PERIOD=2", "CLUSTER_NAME=lab",
		"AWS_ENDPOINT_URL_EC2=http://198.51.100.1", "AWS_ACCESS_KEY_ID=lab", "AWS_SECRET_ACCESS_KEY=lab",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("agent's environment (-want +got):\n%s", diff)
	}
}
