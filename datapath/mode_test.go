// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net/netip"
	"testing"

	"github.com/vpcnet/vpcnet/datapath"
)

func TestModeState(t *testing.T) {
	for name, mode := range modes() {
		p := testPod(datapath.Flat, 2)
		p.Mode = mode
		if mode.Branch != nil {
			p.Addrs = branchAddrs()
		}
		if err := p.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		golden(t, "mode-"+name, "# host\n"+p.HostState().String()+"# sandbox\n"+p.SandboxState().String())
	}
}

// TestIPVLANPathMTUs has MTUs for all of the VPC, for a part of it, for the node, and for
// everything else, which includes a peered network.
func TestIPVLANPathMTUs(t *testing.T) {
	p := testPod(datapath.Flat, 2)
	p.Addrs = p.Addrs[:1]
	p.Mode = modes()["ipvlan"]
	p.Mode.IPVLAN.Direct = append(p.Mode.IPVLAN.Direct, netip.MustParsePrefix("192.168.0.0/16"))
	for _, m := range []struct {
		prefix string
		mtu    int
	}{{"0.0.0.0/0", 1500}, {"10.0.0.0/16", 9001}, {"10.0.7.1/24", 1400}, {"10.0.0.10/32", 1300}, {"172.16.0.0/12", 1200}} {
		p.PathMTUs = append(p.PathMTUs, datapath.PathMTU{Prefix: netip.MustParsePrefix(m.prefix), MTU: m.mtu})
	}
	golden(t, "mode-ipvlan-path-mtus", p.SandboxState().String())
}

func TestEnforcementState(t *testing.T) {
	for _, e := range []datapath.Enforcement{datapath.Standard, datapath.Strict} {
		n := testNode(datapath.PerPod)
		n.Enforcement = e
		golden(t, "node-"+string(e), n.State().String())
	}
}

func TestValidateMode(t *testing.T) {
	for name, change := range map[string]func(*datapath.Pod){
		"two modes":       func(p *datapath.Pod) { p.Mode.Bridge, p.Mode.Whole = &datapath.Bridge{}, modes()["eni"].Whole },
		"no MAC":          func(p *datapath.Pod) { p.Mode.Whole = &datapath.WholeENI{} },
		"no subnet":       func(p *datapath.Pod) { p.Mode = modes()["eni"]; p.Mode.Whole.ENI.Addrs = nil },
		"VLAN 0":          func(p *datapath.Pod) { p.Mode = modes()["branch-strict"]; p.Mode.Branch.VLAN = 0 },
		"table main":      func(p *datapath.Pod) { p.Mode = modes()["branch-strict"]; p.Mode.Branch.VLAN = 154 },
		"odd enforcement": func(p *datapath.Pod) { p.Mode = modes()["branch-strict"]; p.Mode.Branch.Enforcement = "x" },
		"branch MAC":      func(p *datapath.Pod) { p.Mode = modes()["branch-strict"]; p.Mode.Branch.ENI.MAC = nil },
		"bridge's name":   func(p *datapath.Pod) { p.Mode.Bridge = &datapath.Bridge{Name: "cbr/0"} },
		"ipvlan's name":   func(p *datapath.Pod) { p.Mode = modes()["ipvlan"]; p.IfName = "node0" },
	} {
		p := testPod(datapath.Flat, 2)
		if change(&p); p.Validate() == nil {
			t.Errorf("%s: Validate() = nil, want an error", name)
		}
	}
	n := testNode(datapath.Flat)
	if n.Enforcement = "x"; n.Validate() == nil {
		t.Error("Validate() of a node with an odd enforcement = nil, want an error")
	}
}
