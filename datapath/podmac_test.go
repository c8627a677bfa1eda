// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"encoding/json"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vpcnet/vpcnet/datapath"
)

// TestPodMACInJSON: the JSON form of a pod has its MAC as text, and no MAC if it has none.
func TestPodMACInJSON(t *testing.T) {
	for _, mac := range []net.HardwareAddr{nil, {2, 0, 0, 0, 0, 10}} {
		p := testPod(datapath.PerPod, 0)
		p.MAC = mac
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(b), `"MAC":"02:00:00:00:00:0a"`); got != (mac != nil) || strings.Contains(string(b), `"MAC":""`) {
			t.Errorf("JSON %s of a pod with MAC %q", b, mac)
		}
		var again datapath.Pod
		if err := json.Unmarshal(b, &again); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(p, again, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
}

// TestValidatePodMAC lists MACs that an interface cannot have.
func TestValidatePodMAC(t *testing.T) {
	for want, change := range map[string]func(*datapath.Pod){
		"has 5 bytes, want 6":    func(p *datapath.Pod) { p.MAC = net.HardwareAddr{2, 0, 0, 0, 0} },
		"is a multicast address": func(p *datapath.Pod) { p.MAC = net.HardwareAddr{3, 0, 0, 0, 0, 1} },
		"is zero":                func(p *datapath.Pod) { p.MAC = make(net.HardwareAddr, 6) },
		"want none, because the mode decides": func(p *datapath.Pod) {
			p.MAC, p.Mode = net.HardwareAddr{2, 0, 0, 0, 0, 1}, datapath.Mode{Bridge: &datapath.Bridge{}}
		},
	} {
		p := testPod(datapath.Flat, 0)
		change(&p)
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", p.MAC, err, want)
		}
	}
}
