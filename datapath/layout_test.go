// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

func TestNodeState(t *testing.T) {
	for _, layout := range []datapath.Layout{datapath.Flat, datapath.PerPod} {
		golden(t, "node-"+string(layout), testNode(layout).State().String())
		n := testNode(layout)
		n.ServicePrefixes = prefixes("198.51.100.0/24")
		n.RefuseMetadata, n.Accelerate = true, true
		golden(t, "node-"+string(layout)+"-options", n.State().String())
	}
}

func TestPodState(t *testing.T) {
	for _, layout := range []datapath.Layout{datapath.Flat, datapath.PerPod} {
		p := testPod(layout, 2)
		golden(t, "pod-"+string(layout), "# host\n"+p.HostState().String()+"# sandbox\n"+p.SandboxState().String())
	}
	p := testPod(datapath.Flat, netstate.TableMain)
	p.IfName, p.Index = "eth1", 1
	p.PathMTUs = []datapath.PathMTU{
		{Prefix: netip.MustParsePrefix("0.0.0.0/0"), MTU: 1500},
		{Prefix: netip.MustParsePrefix("10.0.0.0/16"), MTU: 9001},
	}
	golden(t, "pod-second-interface", "# host\n"+p.HostState().String()+"# sandbox\n"+p.SandboxState().String())
}

// TestTable checks the table numbers of amazon-vpc-cni-k8s: device+1 on card 0, and
// 10000+100*card+device on other cards.
func TestTable(t *testing.T) {
	for _, c := range []struct{ card, device, want int }{
		{0, 0, 254}, {0, 1, 2}, {0, 14, 15}, {1, 0, 10100}, {1, 1, 10101}, {31, 1, 13101},
	} {
		if got := datapath.Table(c.card, c.device); got != c.want {
			t.Errorf("Table(%d, %d) = %d, want %d", c.card, c.device, got, c.want)
		}
	}
}

// TestNumber checks that numbers are distinct and in range for each number of cards, and
// of interfaces on each card, that an instance type has.
func TestNumber(t *testing.T) {
	for _, shape := range [][2]int{{1, 16}, {2, 16}, {4, 16}, {7, 16}, {8, 8}, {16, 7}, {32, 2}, {32, 3}} {
		seen := map[int][2]int{}
		for card := range shape[0] {
			for device := range shape[1] {
				n := datapath.Number(card, device)
				if card+device == 0 {
					continue
				}
				if n < 1 || n > claims.MarkENI {
					t.Errorf("Number(%d, %d) = %d, want 1 to %d", card, device, n, claims.MarkENI)
				}
				if other, ok := seen[n]; ok {
					t.Errorf("shape %v: %v and %v both have number %d", shape, other, [2]int{card, device}, n)
				}
				seen[n] = [2]int{card, device}
			}
		}
	}
}

func TestHostLinkName(t *testing.T) {
	p := testPod(datapath.Flat, 0)
	if got, want := p.HostLink(), "eni10ee1923d96"; got != want {
		t.Errorf("HostLink() = %q, want %q", got, want)
	}
	if got := p.HostMAC(); len(got) != 6 || got[0]&3 != 2 {
		t.Errorf("HostMAC() = %v, want a locally administered unicast address", got)
	}
	if p.HostMAC().String() == p.SandboxMAC().String() {
		t.Error("both ends of the veth pair have the same MAC")
	}
}

func TestValidate(t *testing.T) {
	for name, change := range map[string]func(*datapath.Node){
		"unknown layout":        func(n *datapath.Node) { n.Layout = "x" },
		"long prefix":           func(n *datapath.Node) { n.HostLinkPrefix = "abcde" },
		"prefix with a star":    func(n *datapath.Node) { n.HostLinkPrefix = "e*" },
		"no primary ENI":        func(n *datapath.Node) { n.ENIs = n.ENIs[1:] },
		"card and device twice": func(n *datapath.Node) { n.ENIs[2].Card = 0 },
		"MAC twice":             func(n *datapath.Node) { n.ENIs[2].MAC = n.ENIs[1].MAC },
		"no MAC":                func(n *datapath.Node) { n.ENIs[2].MAC = nil },
		"number twice":          func(n *datapath.Node) { n.ENIs[2].Number = 1 },
		"number too big":        func(n *datapath.Node) { n.ENIs[2].Number = 128 },
		"source twice":          func(n *datapath.Node) { n.ENIs[2].Sources = n.ENIs[1].Sources },
		"source within another": func(n *datapath.Node) {
			n.ENIs[2].Sources = append(n.ENIs[2].Sources, netip.MustParsePrefix("10.0.0.120/29"))
		},
		"invalid source":         func(n *datapath.Node) { n.ENIs[2].Sources = []netip.Prefix{{}} },
		"invalid address":        func(n *datapath.Node) { n.ENIs[2].Addrs = []netip.Prefix{{}} },
		"invalid service prefix": func(n *datapath.Node) { n.ServicePrefixes = []netip.Prefix{{}} },
		"negative MTU":           func(n *datapath.Node) { n.ENIs[2].MTU = -1 },
		"MTU too small":          func(n *datapath.Node) { n.ENIs[1].MTU = 1279 },
		"MTU too big":            func(n *datapath.Node) { n.ENIs[2].MTU = 65536 },
		"table default":          func(n *datapath.Node) { n.ENIs[2].Card, n.ENIs[2].Device = 0, 252 },
		"table beyond local":     func(n *datapath.Node) { n.ENIs[2].Card, n.ENIs[2].Device = 0, 300 },
		"negative card":          func(n *datapath.Node) { n.ENIs[2].Card = -1 },
		"card 100":               func(n *datapath.Node) { n.ENIs[2].Card = 100 },
		"device 100":             func(n *datapath.Node) { n.ENIs[2].Device = 100 },
	} {
		n := testNode(datapath.Flat)
		if err := n.Validate(); err != nil {
			t.Fatal(err)
		}
		if change(&n); n.Validate() == nil {
			t.Errorf("%s: Validate() = nil, want an error", name)
		}
	}
}

func TestValidatePod(t *testing.T) {
	for name, change := range map[string]func(*datapath.Pod){
		"negative MTU":            func(p *datapath.Pod) { p.MTU = -5 },
		"MTU too big":             func(p *datapath.Pod) { p.MTU = 65536 },
		"MTU too small":           func(p *datapath.Pod) { p.MTU = 1000 },
		"path MTU without prefix": func(p *datapath.Pod) { p.PathMTUs = []datapath.PathMTU{{MTU: 1500}} },
		"path MTU 0":              func(p *datapath.Pod) { p.PathMTUs = []datapath.PathMTU{{Prefix: netip.MustParsePrefix("0.0.0.0/0")}} },
		"path MTU negative": func(p *datapath.Pod) {
			p.PathMTUs = []datapath.PathMTU{{Prefix: netip.MustParsePrefix("::/0"), MTU: -1}}
		},
		"negative table": func(p *datapath.Pod) { p.Addrs[0].Table = -3 },
		"table default":  func(p *datapath.Pod) { p.Addrs[0].Table = 253 },
		"table local":    func(p *datapath.Pod) { p.Addrs[0].Table = 255 },
		"table of pods":  func(p *datapath.Pod) { p.Addrs[0].Table = claims.TablePods },
		"interface 251":  func(p *datapath.Pod) { p.Index = 251 },
	} {
		p := testPod(datapath.Flat, 2)
		if err := p.Validate(); err != nil {
			t.Fatal(err)
		}
		if change(&p); p.Validate() == nil {
			t.Errorf("%s: Validate() = nil, want an error", name)
		}
	}
}

// TestOwned checks which rules and routes belong to the node, and which only resemble
// those of the node.
func TestOwned(t *testing.T) {
	n := testNode(datapath.Flat)
	host := netip.MustParsePrefix("10.0.0.101/32")
	for _, c := range []struct {
		name string
		have netstate.State
		want bool
	}{
		{"rule", netstate.State{Rules: []netstate.Rule{{Priority: 1024, Table: 77, Protocol: 2}}}, true},
		{"rule of another protocol", netstate.State{Rules: []netstate.Rule{{Priority: 1024, Table: 77, Protocol: 4}}}, false},
		{"rule of another priority", netstate.State{Rules: []netstate.Rule{{Priority: 1025, Table: 77, Protocol: 2}}}, false},
		{"rule with a selector that our rules never have", netstate.State{Rules: []netstate.Rule{{Priority: 1024, Table: 77, Protocol: 2, Other: "uidrange 1-2"}}}, false},
		{"route to a pod", netstate.State{Routes: []netstate.Route{{Dst: host, Link: "eni0", Table: claims.TablePods, Protocol: 118}}}, false},
		{"route to a pod in another table", netstate.State{Routes: []netstate.Route{{Dst: host, Link: "eni0", Table: 77, Protocol: 118}}}, true},
		{"route of another program in the table of pods", netstate.State{Routes: []netstate.Route{{Dst: host, Link: "ens5", Table: claims.TablePods, Protocol: 4}}}, true},
		{"route of another program", netstate.State{Routes: []netstate.Route{{Dst: host, Link: "ens5", Table: 77, Protocol: 4}}}, false},
	} {
		if got := !reflect.DeepEqual(n.Owned(c.have), netstate.State{}.Canonical()); got != c.want {
			t.Errorf("%s: Owned contains it: %t, want %t", c.name, got, c.want)
		}
	}
}

// TestServicePrefix checks that a prefix may have bits after its length.
func TestServicePrefix(t *testing.T) {
	n := testNode(datapath.Flat)
	n.ServicePrefixes = []netip.Prefix{netip.MustParsePrefix("10.1.2.3/16")}
	if got := n.State().String(); !strings.Contains(got, "to 10.1.0.0/16 lookup main") {
		t.Errorf("the state has no rule to 10.1.0.0/16:\n%s", got)
	}
}
