// SPDX-License-Identifier: Apache-2.0

//go:build linux

package fabric_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/isolate"
	"github.com/vpcnet/vpcnet/snat"
)

// The suite wires two nodes with datapath and snat as an agent does, and sends
// packets from every kind of pod to every kind of place, in both layouts and
// both families. Each row says what source the far side sees and by which ENI the
// packets pass.

var layouts = []datapath.Layout{datapath.Flat, datapath.PerPod}

// host is a node of the suite. Its pods are by kind.
type host struct {
	name  string
	ns    *fabric.Netns
	path  *datapath.Handle
	node  datapath.Node
	addrs [2]netip.Addr // IPv4, IPv6
	pods  map[string]*suitePod
}

type suitePod struct {
	ns    *fabric.Netns
	pod   datapath.Pod
	addrs [2]netip.Addr
	link  string // of the ENI that owns the addresses
}

// podKinds are the places a pod's addresses can come from.
var podKinds = []struct {
	name, eni, link string
	offset          int // of the IPv4 address in the subnet, and of the IPv6 one
	device          int
}{
	{"primary", "eni-%d0", "ens5", 0x0b, 0},
	{"second", "eni-%d1", "ens6", 0x15, 1},
	{"prefix", "eni-%d1", "ens6", 0x23, 1},
}

type suite struct {
	*fabric.Fabric
	hosts []*host
}

func newSuite(t *testing.T, layout datapath.Layout) *suite {
	t.Helper()
	isolate.Require(t)
	f, err := fabric.New(t.Context(), vpcConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &suite{Fabric: f}
	for n := 1; n <= 2; n++ {
		s.hosts = append(s.hosts, s.host(t, n, layout))
	}
	err = f.ServeMetadata(func(instance string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, instance) })
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func in4(n, offset int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(n), byte(offset)}) }

func in6(n, offset int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:1:%d::%x", n, offset))
}

// host attaches a primary and a second ENI to a new instance, and wires them.
func (s *suite) host(t *testing.T, n int, layout datapath.Layout) *host {
	t.Helper()
	h := &host{name: fmt.Sprintf("node-%d", n), addrs: [2]netip.Addr{in4(n, 0x0a), in6(n, 0x0a)}, pods: map[string]*suitePod{}}
	subnet := []string{"subnet-a", "subnet-b"}[n-1]
	ns, err := s.AddInstance(h.name)
	if err != nil {
		t.Fatal(err)
	}
	h.ns = ns
	full := func(list ...netip.Addr) (all []netip.Prefix) {
		for _, a := range list {
			all = append(all, netip.PrefixFrom(a, a.BitLen()))
		}
		return all
	}
	block4, block6 := netip.PrefixFrom(in4(n, 0x20), 28), netip.MustParsePrefix(fmt.Sprintf("2001:db8:1:%d:f::/80", n))
	enis := []fabric.ENI{
		{ID: fmt.Sprintf("eni-%d0", n), Addr: h.addrs[0], Addrs: []netip.Addr{h.addrs[1], in4(n, 0x0b), in6(n, 0x0b)}, Public: true},
		{ID: fmt.Sprintf("eni-%d1", n), Addr: in4(n, 0x14), Addrs: []netip.Addr{in6(n, 0x14), in4(n, 0x15), in6(n, 0x15)}, Prefixes: []netip.Prefix{block4, block6}, Device: 1},
	}
	h.node.Layout = layout
	for i, e := range enis {
		e.Instance, e.Subnet, e.MAC = h.name, subnet, net.HardwareAddr{2, 0, 0, 0, byte(n), byte(i)}
		if err := s.Attach(e); err != nil {
			t.Fatal(err)
		}
		d := datapath.ENI{
			ID: e.ID, MAC: e.MAC, Device: e.Device, MTU: 9001,
			Addrs:   []netip.Prefix{netip.PrefixFrom(e.Addr, 24), netip.PrefixFrom(in6(n, 0x0a+0x0a*i), 64)},
			Sources: slices.Concat(full(e.Addrs[1:]...), e.Prefixes),
		}
		h.node.ENIs = append(h.node.ENIs, d)
	}
	if err := s.Boot(t.Context(), h.name); err != nil {
		t.Fatal(err)
	}
	s.wire(t, h, n)
	return h
}

// wire does what the agent and the plugin do.
func (s *suite) wire(t *testing.T, h *host, n int) {
	t.Helper()
	var err error
	if h.path, err = datapath.Open(h.ns.Path()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.path.Close() })
	if err := h.path.EnsureNode(t.Context(), h.node); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitUp(t.Context(), h.node.ENIs[1].ID); err != nil {
		t.Fatal(err)
	}
	rules, err := snat.Config{NodeAddrs: h.addrs[:], PrimaryLink: "ens5", VPC: vpcConfig.VPC, NodePort: true}.Ruleset()
	if err != nil {
		t.Fatal(err)
	}
	nft, err := snat.Open(h.ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer nft.Close()
	if _, err := nft.Apply(t.Context(), rules); err != nil {
		t.Fatal(err)
	}
	for _, k := range podKinds {
		addrs := [2]netip.Addr{in4(n, k.offset), in6(n, k.offset)}
		if k.name == "prefix" {
			addrs[1] = netip.MustParseAddr(fmt.Sprintf("2001:db8:1:%d:f::%x", n, k.offset))
		}
		h.pods[k.name] = h.pod(t, k.name, k.link, addrs, datapath.Table(0, k.device))
	}
	for _, a := range h.addrs {
		echo(t, h.ns, a)
	}
}

func (h *host) pod(t *testing.T, kind, link string, addrs [2]netip.Addr, table int) *suitePod {
	t.Helper()
	ns, err := fabric.CreateNetns("/run/netns/" + h.name + "-" + kind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Delete(); err != nil {
			t.Error(err)
		}
	})
	p := &suitePod{ns: ns, addrs: addrs, link: link, pod: datapath.Pod{
		ContainerID: h.name + kind, IfName: "eth0", Netns: ns.Path(), Layout: h.node.Layout, MTU: 9001,
	}}
	for _, a := range addrs {
		p.pod.Addrs = append(p.pod.Addrs, datapath.PodAddr{Addr: a, Table: table})
	}
	if _, err := h.path.AddPod(t.Context(), p.pod); err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		echo(t, ns, a)
	}
	return p
}

// place is a destination of the suite.
type place struct {
	name string
	to   netip.Addr
	want netip.Addr // the source the far side sees
	eni  string     // the ENI of the sender's node that the packets pass; "" for none
}

// places are the destinations of a pod on hosts[0].
func (s *suite) places(p *suitePod, family int) []place {
	own := p.addrs[family]
	outside, outsideENI := own, p.link
	if family == 0 {
		outside, outsideENI = s.hosts[0].addrs[0], "ens5"
	}
	all := []place{
		{"own node", s.hosts[0].addrs[family], own, ""},
		{"other node", s.hosts[1].addrs[family], own, p.link},
		{"internet", outsideAddrs[family], outside, outsideENI},
		{"peer", peerAddrs[family], outside, outsideENI},
	}
	for _, k := range podKinds {
		all = append(all, place{"other node's " + k.name + " pod", s.hosts[1].pods[k.name].addrs[family], own, p.link})
		if near := s.hosts[0].pods[k.name]; near != p {
			all = append(all, place{"same node's " + k.name + " pod", near.addrs[family], own, ""})
		}
	}
	return all
}

func TestEveryWay(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			s := newSuite(t, layout)
			enis := map[string]*fabric.Capture{"ens5": capture(t, s.hosts[0].ns, "ens5"), "ens6": capture(t, s.hosts[0].ns, "ens6")}
			rows := 0
			for _, k := range podKinds {
				p := s.hosts[0].pods[k.name]
				for family := range 2 {
					for _, to := range s.places(p, family) {
						rows++
						t.Run(fmt.Sprintf("IPv%d/%s pod to %s", 4+2*family, k.name, to.name), func(t *testing.T) {
							s.check(t, p, family, to, enis)
						})
					}
				}
			}
			if want := len(podKinds) * 2 * (4 + 2*len(podKinds) - 1); rows != want {
				t.Errorf("%d rows, want %d", rows, want)
			}
			s.inward(t)
			for id, n := range spoofed(t, s.Fabric) {
				if n != 0 {
					t.Errorf("the VPC dropped %d packets of %s for their source", n, id)
				}
			}
		})
	}
}

// check asks over both protocols and looks at the ENIs meanwhile.
func (s *suite) check(t *testing.T, p *suitePod, family int, to place, enis map[string]*fabric.Capture) {
	t.Helper()
	before := map[string]int{}
	for link, c := range enis {
		before[link] = len(flows(t, c, to.to))
	}
	asks(t, p.ns, p.addrs[family], to.to, to.want)
	for link, c := range enis {
		seen := flows(t, c, to.to)[before[link]:]
		if (link == to.eni) != (len(seen) > 0) {
			t.Errorf("packets on %s, want them on %q:\n%s", link, to.eni, strings.Join(seen, "\n"))
		}
	}
}

// flows returns the packets from or for the address.
func flows(t *testing.T, c *fabric.Capture, a netip.Addr) (all []string) {
	t.Helper()
	packets, err := c.Packets()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packets {
		if f, ok := p.Flow(); ok && f.Protocol != 58 && (f.Src.Addr() == a || f.Dst.Addr() == a) {
			all = append(all, p.String())
		}
	}
	return all
}

// inward asks pods: from their node, from another node, and from the peer
// network, to which no answer may be translated.
func (s *suite) inward(t *testing.T) {
	for family := range 2 {
		for _, from := range []struct {
			ns   *fabric.Netns
			addr netip.Addr
		}{
			{s.hosts[0].ns, s.hosts[0].addrs[family]},
			{s.hosts[1].ns, s.hosts[1].addrs[family]},
			{s.Peer(), peerAddrs[family]},
		} {
			for _, k := range podKinds {
				t.Run(fmt.Sprintf("IPv%d/%s to %s pod", 4+2*family, from.ns.Name(), k.name), func(t *testing.T) {
					asks(t, from.ns, from.addr, s.hosts[0].pods[k.name].addrs[family], from.addr)
				})
			}
		}
	}
}

// TestSpoofedSources lets each pod send what it does not own. Nothing of it may
// leave the node, by any ENI, so that the VPC has nothing to drop.
func TestSpoofedSources(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			s := newSuite(t, layout)
			near, far := s.hosts[0], s.hosts[1]
			arrived := capture(t, far.ns, "ens5")
			outside := capture(t, s.Internet(), "eth0")
			for _, k := range podKinds {
				for family, from := range [][]netip.Addr{
					{near.pods["primary"].addrs[0], near.pods["second"].addrs[0], near.addrs[0], in4(1, 0x14), ip("10.0.1.99"), ip("192.0.2.1")},
					{near.pods["primary"].addrs[1], near.pods["prefix"].addrs[1], near.addrs[1], in6(1, 0x14), ip("2001:db8:1:1::99"), ip("2001:db8:9::1")},
				} {
					for _, a := range from {
						if a != near.pods[k.name].addrs[family] {
							s.forge(t, near.pods[k.name], a, far.addrs[family], outsideAddrs[family])
						}
					}
				}
				// Behind the honest one there are no forged ones on their way.
				asks(t, near.pods[k.name].ns, netip.Addr{}, far.addrs[0], near.pods[k.name].addrs[0])
			}
			for _, c := range []*fabric.Capture{arrived, outside} {
				if got := lines(t, c, ".666 >"); len(got) != 0 {
					t.Errorf("forged packets arrived:\n%s", strings.Join(got, "\n"))
				}
			}
			for id, n := range spoofed(t, s.Fabric) {
				if n != 0 {
					t.Errorf("%d forged packets left by %s", n, id)
				}
			}
		})
	}
}

func (s *suite) forge(t *testing.T, p *suitePod, from netip.Addr, to ...netip.Addr) {
	t.Helper()
	for _, a := range to {
		if err := p.ns.Send(netip.AddrPortFrom(from, 666), netip.AddrPortFrom(a, fabric.EchoPort), []byte("forged")); err != nil {
			t.Errorf("send from %v to %v: %v", from, a, err)
		}
	}
}

// TestMetadataFromPods: a pod is told about its node, whichever ENI it is on.
func TestMetadataFromPods(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			s := newSuite(t, layout)
			for _, h := range s.hosts {
				for _, k := range podKinds {
					for _, url := range []string{"http://169.254.169.254/", "http://[fd00:ec2::254]/"} {
						if status, body := get(t, h.pods[k.name].ns, url); status != http.StatusOK || body != h.name {
							t.Errorf("%s pod of %s is told %d %q by %s", k.name, h.name, status, body, url)
						}
					}
				}
			}
		})
	}
}

// TestDeletedPod: nobody answers for a pod that is gone.
func TestDeletedPod(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			s := newSuite(t, layout)
			p := s.hosts[0].pods["second"]
			asks(t, s.hosts[1].ns, s.hosts[1].addrs[0], p.addrs[0], s.hosts[1].addrs[0])
			if err := s.hosts[0].path.DelPod(t.Context(), p.pod); err != nil {
				t.Fatal(err)
			}
			for family := range 2 {
				ctx, cancel := context.WithTimeout(t.Context(), silence)
				if seen, err := s.hosts[1].ns.Ask(ctx, "udp", netip.AddrPort{}, netip.AddrPortFrom(p.addrs[family], fabric.EchoPort)); err == nil {
					t.Errorf("%v still answers: %v", p.addrs[family], seen)
				}
				cancel()
			}
			// The address comes back in another sandbox.
			again := s.hosts[0].pod(t, "again", p.link, p.addrs, datapath.Table(0, 1))
			for family := range 2 {
				asks(t, again.ns, p.addrs[family], s.hosts[1].addrs[family], p.addrs[family])
			}
		})
	}
}
