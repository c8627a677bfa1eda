// SPDX-License-Identifier: Apache-2.0

//go:build linux

package fabric_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
	"github.com/vpcnet/vpcnet/snat"
)

// The suite configures two nodes with datapath and snat as an agent does, and sends
// packets from every kind of pod to every kind of destination, in both layouts, both
// families and each enforcement. It checks which source the destination sees, and
// which ENIs the packets pass.

// setting holds the configuration of a node other than its ENIs.
type setting struct {
	layout      datapath.Layout
	enforcement datapath.Enforcement
}

func (s setting) String() string {
	return strings.Trim(string(s.layout)+"-"+string(s.enforcement), "-")
}

func TestSuite(t *testing.T) {
	for _, layout := range []datapath.Layout{datapath.Flat, datapath.PerPod} {
		for _, enforcement := range []datapath.Enforcement{"", datapath.Standard, datapath.Strict} {
			with := setting{layout, enforcement}
			t.Run(with.String(), func(t *testing.T) {
				s := newSuite(t, with)
				t.Run("no drift", s.noDrift)
				t.Run("every path", s.everyPath)
				t.Run("services", s.nodePorts)
				t.Run("path MTUs", s.pathMTUs)
				t.Run("metadata", s.metadata)
				t.Run("spoofed sources", s.spoofedSources)
				t.Run("held addresses", s.heldAddrs)
				t.Run("deleted pods", s.deletedPods)
				t.Run("without filter", s.withoutFilter)
			})
		}
	}
}

// end is a source or destination of packets: a pod, a node, or a host outside the
// VPC, which has neither host nor ENI.
type end struct {
	name  string
	ns    *fabric.Netns
	addrs [2]netip.Addr // IPv4, IPv6
	host  *host
	eni   string // ID of the ENI that owns the addresses
	kind  podKind
}

// host is a node of the suite. Its pods are listed by the name of their kind.
type host struct {
	end
	number int
	path   *datapath.Handle
	node   datapath.Node
	pods   map[string]*suitePod
}

type suitePod struct {
	end
	pod datapath.Pod
}

type suite struct {
	*fabric.Fabric
	setting
	kinds          []podKind
	hosts          []*host
	internet, peer *end
}

func newSuite(t *testing.T, with setting) *suite {
	t.Helper()
	isolatetest.Require(t)
	f, err := fabric.New(t.Context(), vpcConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &suite{
		Fabric: f, setting: with,
		internet: &end{name: "internet", ns: f.Internet(), addrs: outsideAddrs},
		peer:     &end{name: "peer", ns: f.Peer(), addrs: peerAddrs},
	}
	missing := missingLinkKinds(t)
	for _, k := range podKinds() {
		if !slices.Contains(missing, k.needs) && (k.needs != "vlan" || with.enforcement != "") {
			s.kinds = append(s.kinds, k)
		}
	}
	for n := 1; n <= 2; n++ {
		s.hosts = append(s.hosts, s.newHost(t, n))
	}
	err = f.ServeMetadata(func(instance string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, instance) })
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newHost adds an instance, attaches all ENIs that its pods need, and configures it.
func (s *suite) newHost(t *testing.T, n int) *host {
	t.Helper()
	h := &host{number: n, pods: map[string]*suitePod{}, node: datapath.Node{Layout: s.layout, Enforcement: s.enforcement}}
	h.end = end{name: fmt.Sprintf("node-%d", n), addrs: [2]netip.Addr{in4(n, 10), in6(n, 10)}, host: h, eni: eniID(n, primary)}
	var err error
	if h.ns, err = s.AddInstance(h.name); err != nil {
		t.Fatal(err)
	}
	for i, k := range eniKinds {
		if k.vlan != 0 && !s.has("branch") {
			continue
		}
		if err := s.Attach(fabricENI(n, i)); err != nil {
			t.Fatal(err)
		}
		if i != podENI && k.vlan == 0 {
			h.node.ENIs = append(h.node.ENIs, h.describe(i))
		}
	}
	if err := s.Boot(t.Context(), h.name); err != nil {
		t.Fatal(err)
	}
	s.wire(t, h)
	return h
}

func (s *suite) has(kind string) bool {
	return slices.ContainsFunc(s.kinds, func(k podKind) bool { return k.name == kind })
}

// wire configures the host as the agent and the plugin do, with all its pods.
func (s *suite) wire(t *testing.T, h *host) {
	t.Helper()
	var err error
	if h.path, err = datapath.Open(h.ns.Path()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.path.Close() })
	if err := h.path.EnsureNode(t.Context(), h.node); err != nil {
		t.Fatal(err)
	}
	for _, e := range h.node.ENIs {
		if err := s.WaitUp(t.Context(), e.ID); err != nil {
			t.Fatal(err)
		}
	}
	cfg := snat.Config{NodeAddrs: h.addrs[:], PrimaryLink: "ens5", VPC: vpcConfig.VPC, NodePort: true, ReturnMask: datapath.MarkENI}
	for _, e := range h.node.ENIs[1:] {
		link := fabric.ENI{Card: e.Card, Device: e.Device}.Link()
		cfg.Returns = append(cfg.Returns, snat.Return{Link: link, Mark: uint32(datapath.Number(e.Card, e.Device))})
	}
	rules, err := cfg.Ruleset()
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
	for _, k := range s.kinds {
		s.add(t, h, k, k.name)
	}
	for _, a := range h.addrs {
		echo(t, h.ns, a)
	}
}

// add adds the pod of a kind in a new sandbox, or as the second interface of another
// pod.
func (s *suite) add(t *testing.T, h *host, k podKind, sandbox string) {
	t.Helper()
	p := &suitePod{
		end: end{name: k.name + " pod", addrs: k.addrs(h.number), host: h, eni: eniID(h.number, k.eni), kind: k},
		pod: datapath.Pod{ContainerID: h.name + sandbox, IfName: "eth0", Layout: s.layout, MTU: 9001},
	}
	if k.beside != "" {
		first := h.pods[k.beside]
		p.ns, p.pod.ContainerID, p.pod.IfName, p.pod.Index = first.ns, first.pod.ContainerID, "eth1", 1
	} else {
		p.ns = createNetns(t, h.name+"-"+sandbox)
	}
	p.pod.Netns = p.ns.Path()
	if k.mode != nil {
		p.pod.Mode = k.mode(h)
	}
	for _, a := range p.addrs {
		p.pod.Addrs = append(p.pod.Addrs, datapath.PodAddr{Addr: a, Table: datapath.Table(eniKinds[k.eni].card, eniKinds[k.eni].device)})
	}
	if _, err := h.path.AddPod(t.Context(), p.pod); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	for _, a := range p.addrs {
		echo(t, p.ns, a)
	}
	h.pods[k.name] = p
}

func createNetns(t *testing.T, name string) *fabric.Netns {
	t.Helper()
	ns, err := fabric.CreateNetns("/run/netns/" + name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Delete(); err != nil {
			t.Error(err)
		}
	})
	return ns
}
