// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/datapath"
)

// TestUnopenedHandle calls every method of a Handle that is zero or closed.
func TestUnopenedHandle(t *testing.T) {
	handles := map[string]*datapath.Handle{"zero": new(datapath.Handle)}
	if h, err := datapath.Open(""); err == nil {
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		handles["closed"] = h
	}
	for name, h := range handles {
		v := reflect.ValueOf(h)
		for i := range v.NumMethod() {
			args := []reflect.Value{}
			for j := range v.Method(i).Type().NumIn() {
				in := v.Method(i).Type().In(j)
				if in == reflect.TypeFor[context.Context]() {
					args = append(args, reflect.ValueOf(t.Context()))
					continue
				}
				args = append(args, reflect.Zero(in))
			}
			out := v.Method(i).Call(args)
			if err, _ := out[len(out)-1].Interface().(error); !errors.Is(err, os.ErrClosed) {
				t.Errorf("%s of a Handle that is %s: %v, want an error that wraps os.ErrClosed", v.Type().Method(i).Name, name, err)
			}
		}
	}
}

// TestZeroWatch checks that Watch refuses a WatchConfig without Desired.
func TestZeroWatch(t *testing.T) {
	h, err := datapath.Open("")
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.Watch(t.Context(), datapath.WatchConfig{}); err == nil || !strings.Contains(err.Error(), "WatchConfig.Desired is nil") {
		t.Errorf("Watch = %v, want an error that names Desired", err)
	}
}

// TestOddLinkNames checks names that the kernel would change or refuse.
func TestOddLinkNames(t *testing.T) {
	for name, want := range map[string]string{
		"eth%d": "percent sign", "%": "percent sign", "100%": "percent sign", "": "0 bytes", "..": "reserved", "a b": "white space", "eth\u00e0": "white space",
		strings.Repeat("e", 1<<20): "1048576 bytes", "eth0": "", "e\u00e9": "", "a-b_c.d@e": "",
	} {
		switch err := datapath.ValidateLinkName(name); {
		case (err == nil) != (want == ""), err != nil && !strings.Contains(err.Error(), want), err != nil && len(err.Error()) > 400:
			t.Errorf("ValidateLinkName(%.20q) = %v, want %q", name, err, want)
		}
	}
}

// TestMACsInJSON checks that MACs are text in JSON, and that the values can be read back.
func TestMACsInJSON(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	sameAddr := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	samePrefix := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	n := datapath.Node{ENIs: []datapath.ENI{
		{ID: "eni-1", MAC: mac, Link: "ens5", Card: 1, Device: 2, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.1.5/24")}},
		{ID: "eni-2"},
	}}
	b, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(b); !strings.Contains(got, `"MAC":"02:00:00:00:00:01"`) || strings.Count(got, `"MAC"`) != 2 {
		t.Errorf("JSON %s, want one MAC as text for each ENI", got)
	}
	var node datapath.Node
	if err := json.Unmarshal(b, &node); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(n.ENIs, node.ENIs, sameAddr, samePrefix); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	w := datapath.Pod{ContainerID: "c1", IfName: "eth0", Addrs: []datapath.PodAddr{{Addr: netip.MustParseAddr("10.0.1.5")}}}.Wiring()
	if b, err = json.Marshal(w); err != nil {
		t.Fatal(err)
	}
	if got := string(b); !strings.Contains(got, `"HostMAC":"`+w.HostMAC.String()+`"`) || !strings.Contains(got, `"SandboxMAC":"`+w.SandboxMAC.String()+`"`) {
		t.Errorf("JSON %s, want the MACs as text", got)
	}
	var again datapath.Wiring
	if err := json.Unmarshal(b, &again); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(w, again, sameAddr, samePrefix); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if err := json.Unmarshal([]byte(`{"MAC":"AgAAAAAB"}`), new(datapath.ENI)); err == nil {
		t.Error("a MAC in base64 is accepted")
	}
}
