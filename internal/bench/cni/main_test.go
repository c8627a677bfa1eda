// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
	r, err := measure(t.Context(), options{rounds: 2, burst: 5, bursts: 1, pods: []int{0, 3}, bin: dir})
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for _, table := range r.Tables {
		bursts := table.Scenario != "IPv4, 3 pods"
		for _, w := range table.Rows {
			shown[w.Name] = true
			if w.Add.Min <= 0 || w.Del.Min <= 0 || w.ToFloor.Add <= 0 || w.ToFloor.Del <= 0 || about[w.Name] == "" ||
				bursts != (w.BurstAdd > 0 && w.BurstDel > 0 && w.ToFloor.BurstAdd > 0 && w.ToFloor.BurstDel > 0) {
				t.Errorf("%s: row of %s is %+v, want no figure to be 0 but those of bursts without bursts", table.Scenario, w.Name, *w)
			}
		}
	}
	if len(r.Tables) != 4 || len(shown) != len(about) {
		t.Errorf("%d tables with %d contenders, want 4 with %d", len(r.Tables), len(shown), len(about))
	}
	var table, text bytes.Buffer
	if err := r.print(&table, "table"); err != nil || !strings.Contains(table.String(), "5 ADDs") {
		t.Errorf("table: %v\n%s", err, table.String())
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
