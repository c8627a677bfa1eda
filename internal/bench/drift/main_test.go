// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

func TestMain(m *testing.M) { isolatetest.Test(m) }

func TestRun(t *testing.T) {
	isolatetest.Require(t)
	// The bound is far beyond what a busy machine needs: the test judges no time.
	o := options{duration: 2 * time.Second, bound: 3 * time.Second, format: "json", layouts: []datapath.Layout{datapath.Flat, datapath.PerPod}}
	var out bytes.Buffer
	if err := run(t.Context(), &out, o); err != nil {
		t.Errorf("run returns %v, want no error\n%s", err, out.String())
	}
	var r report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || len(r.Rows) != 2 {
		t.Fatalf("%v: %s", err, out.String())
	}
	for _, x := range r.Rows {
		if x.Damages == 0 || x.Packets == 0 || x.Repair.P50 <= 0 || x.Total.P99 <= 0 || x.Passing.P50 <= 0 {
			t.Errorf("row is %+v, want no figure to be 0", x)
		}
	}
}

// TestEveryDamage checks that damages has a damage for each kind of item in the
// state of a node.
func TestEveryDamage(t *testing.T) {
	isolatetest.Require(t)
	n, err := newNode(t.Context(), datapath.Flat)
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	kinds := map[string]int{}
	for _, d := range damages(n.want) {
		switch d.Item.(type) {
		case netstate.Link:
			kinds["link"]++
		case netstate.Address:
			kinds["address"]++
		case netstate.Route:
			kinds["route"]++
		case netstate.Rule:
			kinds["rule"]++
		case netstate.Neighbor:
			kinds["neighbor"]++
		case netstate.Sysctl:
			kinds["sysctl"]++
		case netstate.Source:
			kinds["source"]++
		case netstate.Filter:
			kinds["filter"]++
		}
	}
	for _, k := range []string{"link", "address", "route", "rule", "neighbor", "sysctl", "filter", "source"} {
		if kinds[k] == 0 {
			t.Errorf("numbers of damages by kind are %v, want some to a %s", kinds, k)
		}
	}
	t.Log(kinds)
}

func TestLost(t *testing.T) {
	base := time.Now()
	at := func(ms int) time.Time { return base.Add(time.Duration(ms) * time.Millisecond) }
	f := &flow{answered: map[int]bool{0: true, 3: true}}
	for _, ms := range []int{0, 10, 20, 30, 40, 50} {
		f.sent = append(f.sent, at(ms))
	}
	windows := []window{{at(5), at(25), "a"}, {at(45), at(60), "b"}}
	if within, after := f.lost(windows); within != 3 || len(after) != 1 || after[0] != `15ms after the time for "a"` {
		t.Errorf("lost = %d, %q, want 3 within and 1 after 15ms", within, after)
	}
}

func TestArguments(t *testing.T) {
	for _, args := range [][]string{{"-for", "0s"}, {"-o", "xml"}, {"-layout", "round"}, {"-bound", "-1s"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("parse accepts %v, want an error", args)
		}
	}
}
