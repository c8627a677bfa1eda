// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"flag"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

var update = flag.Bool("update", false, "write the golden files again")

// golden compares got with a file under testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

func mac(s string) net.HardwareAddr {
	m, err := net.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

func prefixes(s ...string) []netip.Prefix {
	var p []netip.Prefix
	for _, s := range s {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

// testNode has a primary ENI, a secondary one, and one on card 1, in both
// families.
func testNode(layout datapath.Layout) datapath.Node {
	return datapath.Node{
		Layout: layout,
		ENIs: []datapath.ENI{{
			ID: "eni-0a", MAC: mac("06:00:00:00:00:05"), Link: "ens5",
			Addrs:   prefixes("10.0.0.10/24", "2001:db8:0:1::10/64"),
			Sources: prefixes("10.0.0.100/32", "2001:db8:0:1:a::/80"),
		}, {
			ID: "eni-0b", MAC: mac("06:00:00:00:00:06"), Link: "ens6", Device: 1, MTU: 9001,
			Addrs:   prefixes("10.0.0.20/24", "2001:db8:0:1::20/64"),
			Sources: prefixes("10.0.0.101/32", "10.0.0.112/28", "10.0.0.128/28", "2001:db8:0:1:b::/80"),
		}, {
			ID: "eni-0c", MAC: mac("06:00:00:00:00:07"), Link: "ens7", Card: 1, Device: 1,
			Addrs:   prefixes("10.0.1.30/24"),
			Sources: prefixes("10.0.1.101/32"),
		}},
	}
}

func testPod(layout datapath.Layout, table int) datapath.Pod {
	return datapath.Pod{
		ContainerID: "0123456789abcdef", IfName: "eth0", Layout: layout, MTU: 9001,
		Addrs: []datapath.PodAddr{
			{Addr: netip.MustParseAddr("10.0.0.101"), Table: table},
			{Addr: netip.MustParseAddr("2001:db8:0:1:b::1"), Table: table},
		},
	}
}

func TestNodeState(t *testing.T) {
	for _, layout := range []datapath.Layout{datapath.Flat, datapath.PerPod} {
		golden(t, "node-"+string(layout), testNode(layout).State().String())
		n := testNode(layout)
		n.ServicePrefixes = prefixes("198.51.100.0/24")
		n.RefuseMetadata = true
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

// The numbers are those of amazon-vpc-cni-k8s: device+1 on card 0, and
// 10000+100*card+device elsewhere.
func TestTable(t *testing.T) {
	for _, c := range []struct{ card, device, want int }{
		{0, 0, 254}, {0, 1, 2}, {0, 14, 15}, {1, 0, 10100}, {1, 1, 10101}, {31, 1, 13101},
	} {
		if got := datapath.Table(c.card, c.device); got != c.want {
			t.Errorf("Table(%d, %d) = %d, want %d", c.card, c.device, got, c.want)
		}
	}
}

// TestNumber goes through every shape of instance: cards and interfaces a card.
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
					t.Errorf("Number(%d, %d) = %d, out of range", card, device, n)
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
		t.Error("both ends have one MAC")
	}
}

func TestValidate(t *testing.T) {
	for name, change := range map[string]func(*datapath.Node){
		"unknown layout":   func(n *datapath.Node) { n.Layout = "x" },
		"long prefix":      func(n *datapath.Node) { n.HostLinkPrefix = "abcde" },
		"odd prefix":       func(n *datapath.Node) { n.HostLinkPrefix = "e*" },
		"no primary":       func(n *datapath.Node) { n.ENIs = n.ENIs[1:] },
		"one place twice":  func(n *datapath.Node) { n.ENIs[2].Card = 0 },
		"one MAC twice":    func(n *datapath.Node) { n.ENIs[2].MAC = n.ENIs[1].MAC },
		"no MAC":           func(n *datapath.Node) { n.ENIs[2].MAC = nil },
		"one number twice": func(n *datapath.Node) { n.ENIs[2].Number = 1 },
		"big number":       func(n *datapath.Node) { n.ENIs[2].Number = 128 },
		"one source twice": func(n *datapath.Node) { n.ENIs[2].Sources = n.ENIs[1].Sources },
		"source in another": func(n *datapath.Node) {
			n.ENIs[2].Sources = append(n.ENIs[2].Sources, netip.MustParsePrefix("10.0.0.120/29"))
		},
		"no source":          func(n *datapath.Node) { n.ENIs[2].Sources = []netip.Prefix{{}} },
		"no address":         func(n *datapath.Node) { n.ENIs[2].Addrs = []netip.Prefix{{}} },
		"no service prefix":  func(n *datapath.Node) { n.ServicePrefixes = []netip.Prefix{{}} },
		"negative MTU":       func(n *datapath.Node) { n.ENIs[2].MTU = -1 },
		"MTU too small":      func(n *datapath.Node) { n.ENIs[1].MTU = 1279 },
		"MTU too big":        func(n *datapath.Node) { n.ENIs[2].MTU = 65536 },
		"table default":      func(n *datapath.Node) { n.ENIs[2].Card, n.ENIs[2].Device = 0, 252 },
		"table beyond local": func(n *datapath.Node) { n.ENIs[2].Card, n.ENIs[2].Device = 0, 300 },
		"negative card":      func(n *datapath.Node) { n.ENIs[2].Card = -1 },
		"card 100":           func(n *datapath.Node) { n.ENIs[2].Card = 100 },
		"device 100":         func(n *datapath.Node) { n.ENIs[2].Device = 100 },
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
		"negative MTU":   func(p *datapath.Pod) { p.MTU = -5 },
		"MTU too big":    func(p *datapath.Pod) { p.MTU = 65536 },
		"MTU too small":  func(p *datapath.Pod) { p.MTU = 1000 },
		"no destination": func(p *datapath.Pod) { p.PathMTUs = []datapath.PathMTU{{MTU: 1500}} },
		"path MTU 0":     func(p *datapath.Pod) { p.PathMTUs = []datapath.PathMTU{{Prefix: netip.MustParsePrefix("0.0.0.0/0")}} },
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

// TestOwned holds what of a state that resembles ours belongs to the node.
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
		{"rule by what ours never know", netstate.State{Rules: []netstate.Rule{{Priority: 1024, Table: 77, Protocol: 2, Other: "uidrange 1-2"}}}, false},
		{"route to a pod", netstate.State{Routes: []netstate.Route{{Dst: host, Link: "eni0", Table: claims.TablePods, Protocol: 118}}}, false},
		{"route to a pod in no table of pods", netstate.State{Routes: []netstate.Route{{Dst: host, Link: "eni0", Table: 77, Protocol: 118}}}, true},
		{"route of another in the table of pods", netstate.State{Routes: []netstate.Route{{Dst: host, Link: "ens5", Table: claims.TablePods, Protocol: 4}}}, true},
		{"route of another", netstate.State{Routes: []netstate.Route{{Dst: host, Link: "ens5", Table: 77, Protocol: 4}}}, false},
	} {
		if got := !reflect.DeepEqual(n.Owned(c.have), netstate.State{}.Canonical()); got != c.want {
			t.Errorf("%s: owned %t, want %t", c.name, got, c.want)
		}
	}
}

// TestServicePrefix: a prefix may be given by any address of it.
func TestServicePrefix(t *testing.T) {
	n := testNode(datapath.Flat)
	n.ServicePrefixes = []netip.Prefix{netip.MustParsePrefix("10.1.2.3/16")}
	if got := n.State().String(); !strings.Contains(got, "to 10.1.0.0/16 lookup main") {
		t.Errorf("no rule to 10.1.0.0/16:\n%s", got)
	}
}
