// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

func TestMain(m *testing.M) { isolatetest.Test(m) }

// pluginsDir returns the directory of ptp and host-local. It looks in PATH and where
// distributions and nodes install them.
func pluginsDir(t *testing.T) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/lib/cni", "/opt/cni/bin") {
		_, ptp := os.Stat(filepath.Join(dir, "ptp"))
		_, hostLocal := os.Stat(filepath.Join(dir, "host-local"))
		if ptp == nil && hostLocal == nil {
			return dir
		}
	}
	t.Skip("needs ptp and host-local: apt-get install containernetworking-plugins")
	return ""
}

// TestMeasure measures all contenders with few pods and checks that the report has
// every figure.
func TestMeasure(t *testing.T) {
	isolatetest.Require(t)
	dir := t.TempDir()
	if err := build(t.Context(), dir, pluginsDir(t)); err != nil {
		t.Fatal(err)
	}
	if err := link(filepath.Join(dir, "vpc-cni"), filepath.Join(dir, "before")); err != nil {
		t.Fatal(err)
	}
	o := options{rounds: 2, burst: 5, bursts: 1, pods: []int{0, 3}, bin: dir, before: "before"}
	if _, err := exec.LookPath("strace"); err == nil {
		o.slowDisk = 3 * time.Millisecond
	}
	r, err := measure(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for _, table := range r.Tables {
		bursts := table.Scenario != "IPv4, 3 pods"
		for _, w := range table.Rows {
			shown[w.Name] = true
			if w.Add.Min <= 0 || w.Del.Min <= 0 || w.ToFloor.Add <= 0 || w.AddUse.CPU <= 0 || w.DelUse.Faults <= 0 || w.ToFloor.Del <= 0 || about[w.Name] == "" ||
				bursts != (w.BurstAdd > 0 && w.BurstDel > 0 && w.ToFloor.BurstAdd > 0 && w.ToFloor.BurstDel > 0) {
				t.Errorf("%s: row of %s is %+v, want no figure to be 0 but those of bursts without bursts", table.Scenario, w.Name, *w)
			}
		}
	}
	want := len(about)
	if o.slowDisk == 0 {
		want--
	}
	if len(r.Tables) != 5 || len(shown) != want {
		t.Errorf("%d tables with %d contenders, want 5 with %d", len(r.Tables), len(shown), want)
	}
	if o.slowDisk > 0 { // strace is there
		var parts bytes.Buffer
		if err := measureParts(t.Context(), o, &parts); err != nil || strings.Count(parts.String(), "agent: connect") != 6 {
			t.Errorf("parts: %v\n%s\nwant an agent in each of 6 tables", err, parts.String())
		}
	}
	var table, text bytes.Buffer
	if err := r.print(&table, "table"); err != nil || !strings.Contains(table.String(), "5 ADDs") {
		t.Errorf("table: %v\n%s", err, table.String())
	}
	var ratios bytes.Buffer
	if err := r.print(&ratios, "ratios"); err != nil || strings.Count(ratios.String(), "\n| IPv6 | ") != 4 {
		t.Errorf("ratios: %v\n%s", err, ratios.String())
	}
	if err := r.print(&text, "json"); err != nil {
		t.Fatal(err)
	}
	var again report
	if err := json.Unmarshal(text.Bytes(), &again); err != nil || len(again.Tables) != len(r.Tables) {
		t.Errorf("JSON: %v\n%s", err, text.String())
	}
}

func TestArguments(t *testing.T) {
	for _, args := range [][]string{{"-rounds", "0"}, {"-o", "xml"}, {"-burst", "-1"}, {"-pods", "0,x"}, {"-pods", "10001"}} {
		if err := run(t.Context(), &bytes.Buffer{}, args); err == nil {
			t.Errorf("run accepts %v, want an error", args)
		}
	}
}

// TestParts checks the division of a command into parts.
func TestParts(t *testing.T) {
	var events []event
	for _, line := range strings.Split(`1.000 execve("/x", [], 0x1 /* 7 vars */) = 0 <0.000200>
1.001 read(3</proc/self/cgroup>, "\x39\x3a"..., 65536) = 151 <0.000010>
1.003 read(0<pipe:[1]>, "{\"a\":1}"..., 512) = 268 <0.000010>
1.004 read(0<pipe:[1]>, "", 256) = 0 <0.000010>
1.005 connect(9<UNIX-STREAM:[2]>, {sa_family=AF_UNIX, sun_path="\x2f\x72"}, 27) = 0 <0.000100>
1.006 write(9<UNIX-STREAM:[2->3]>, "POST /v1"..., 222) = 222 <0.000100>
1.008 write(12<NETLINK:[ROUTE:7]>, "\xa0\x00\x00\x00\x10\x00\x01\x06"..., 220) = 220 <0.000500>
1.009 write(13<NETLINK:[4]>, "\x20\x00\x00\x00\x13\x00\x01\x00"..., 240) = 240 <0.000200>
1.010 write(5</proc/sys/net/ipv6/conf/eni1/accept_ra>, "0", 1) = 1 <0.000300>
1.011 write(1<pipe:[5]>, "{\n    \"c"..., 748) = 748 <0.000100>
1.012 exit_group(0) = ?
1.015 +++ exited with 0 +++`, "\n") {
		e, ok := parseEvent(line)
		if !ok {
			t.Errorf("line is not understood: %s", line)
		}
		events = append(events, e)
	}
	var out bytes.Buffer
	if err := printParts(&out, [][]part{partsOf(events)}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"part ms in its system calls",
		"process start: exec, runtime, packages 3.00 0.21",
		"configuration: read, parse; lock, namespaces 2.00 0.02",
		"agent: connect, request, answer 3.00 0.20",
		"node: RTM_NEWLINK, batch of 220 bytes 1.00 0.50",
		"sandbox: RTM_SETLINK, batch of 240 bytes 1.00 0.20",
		"setting accept_ra 1.00 0.30",
		"result 1.00 0.10",
		"exit 3.00 0.00",
		"all 15.00",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("parts (-want +got):\n%s", diff)
	}
}
