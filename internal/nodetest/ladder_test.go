// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// rungs is a node, one in each layout. Its own subnet and another one for pods have one free
// /28 each.
type rungs struct {
	*Node
	own, other enitest.Subnet
	pods       []*Pod
	before     string
}

// ladder starts a node in each layout, each in a zone of its own, so that it has its two
// subnets for itself.
func ladder(t *testing.T) (*vpctest.VPC, []*rungs) {
	t.Helper()
	role := map[string]string{"kubernetes.io/role/cni": "1"}
	vpc := vpctest.NewWith(t, vpctest.Config{
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), podBlock},
		Subnets: []enitest.SubnetInput{
			{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Zone: "us-west-2a", MapPublic: true},
			{Prefix: netip.MustParsePrefix("10.0.1.0/24"), Zone: "us-west-2b", MapPublic: true},
			{Prefix: netip.MustParsePrefix("100.64.0.0/24"), Zone: "us-west-2a", Tags: role},
			{Prefix: netip.MustParsePrefix("100.64.1.0/24"), Zone: "us-west-2b", Tags: role},
		},
	})
	for _, s := range vpc.Subnets[:4] {
		for block := range 16 {
			if block != wholeBlock {
				occupy(t, vpc, s, 16*block+8)
			}
		}
	}
	var nodes []*rungs
	for i, layout := range layouts {
		env := map[string]string{
			"VPCNET_LAYOUT": layout, "ENABLE_PREFIX_DELEGATION": "true", "ENABLE_SUBNET_DISCOVERY": "true",
			"WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "1", "MINIMUM_IP_TARGET": "0",
		}
		node := Start(t, vpc.NodeIn(t, enitest.InstanceInput{Subnet: vpc.Subnets[i].ID, Type: "t3.small"}), Config{Env: env})
		nodes = append(nodes, &rungs{Node: node, own: vpc.Subnets[i], other: vpc.Subnets[i+2], before: kernelOf(t, node)})
	}
	return vpc, nodes
}

// wholeBlock is the /28 of each subnet that is free, and laterBlock one that becomes free.
const wholeBlock, laterBlock = 14, 12

// at returns address n of a subnet.
func at(s enitest.Subnet, n int) netip.Addr {
	a := s.Prefix.Addr().As4()
	a[3] += byte(n)
	return netip.AddrFrom4(a)
}

func occupy(t *testing.T, vpc *vpctest.VPC, s enitest.Subnet, n int) {
	t.Helper()
	if err := vpc.Cloud.Occupy(s.ID, at(s, n)); err != nil {
		t.Fatal(err)
	}
}

// slash28 returns a /28 of a subnet.
func slash28(s enitest.Subnet, block int) netip.Prefix { return netip.PrefixFrom(at(s, 16*block), 28) }

// prefixOf returns the delegated prefix, of an ENI of the node, that has an address. It is
// invalid if the address is a single one.
func (r *rungs) prefixOf(a netip.Addr) netip.Prefix {
	for _, e := range r.ENIs() {
		for _, p := range e.Prefixes {
			if p.Contains(a) {
				return p
			}
		}
	}
	return netip.Prefix{}
}

// add adds n pods, and checks by packets that they have their own addresses in the VPC and
// the node's beyond it. It returns the delegated prefixes of the new pods.
func (r *rungs) add(t *testing.T, n int, peer *Pod) (prefixes []netip.Prefix) {
	t.Helper()
	for range n {
		p := r.AddPod(t)
		r.pods = append(r.pods, p)
		prefixes = append(prefixes, r.prefixOf(p.Addrs[0]))
		talk(t, p, peer)
	}
	return prefixes
}

// talk checks by packets that a pod and a peer have their own addresses in the VPC, and the
// pod the node's beyond it.
func talk(t *testing.T, p, peer *Pod) {
	t.Helper()
	if got := p.Ask(t, "udp", peer.At(0)).Addr(); got != p.Addrs[0] {
		t.Errorf("%v sees %v, want %v", peer.Addrs[0], got, p.Addrs[0])
	}
	if got := peer.Ask(t, "udp", p.At(0)).Addr(); got != peer.Addrs[0] {
		t.Errorf("%v sees %v, want %v", p.Addrs[0], got, peer.Addrs[0])
	}
	if got := p.Ask(t, "tcp", netip.AddrPortFrom(vpctest.InternetAddr, vpctest.EchoPort)).Addr(); got != p.node.Addr {
		t.Errorf("the internet sees %v from %v, want %v", got, p.Addrs[0], p.node.Addr)
	}
}

// TestPrefixLadder fills a node's subnets: pods get the only free prefix of the node's own
// subnet, then that of the other subnet, then single addresses of /28s that are not whole,
// and prefixes again when /28s have become whole. All of them work together, also after the
// agent was killed, and DEL leaves nothing behind.
func TestPrefixLadder(t *testing.T) {
	t.Parallel()
	vpc, nodes := ladder(t)
	peer := Start(t, vpc.NodeIn(t, enitest.InstanceInput{Subnet: vpc.Subnets[0].ID, Type: "t3.small"}), Config{}).AddPod(t)
	const perPrefix = 16
	for _, r := range nodes {
		for _, s := range []enitest.Subnet{r.own, r.other} {
			for i, p := range r.add(t, perPrefix, peer) {
				if want := slash28(s, wholeBlock); p != want {
					t.Errorf("%s: pod %d has an address of the prefix %v, want %v", r.Name(), i, p, want)
				}
			}
		}
		for i, p := range r.add(t, 3, peer) {
			if p.IsValid() {
				t.Errorf("%s: pod %d has an address of the prefix %v, want a single one", r.Name(), i, p)
			}
		}
		for _, s := range []enitest.Subnet{r.own, r.other} {
			if err := vpc.Cloud.Vacate(s.ID, at(s, 16*laterBlock+8)); err != nil {
				t.Fatal(err)
			}
		}
	}
	time.Sleep(2*time.Minute + time.Second) // the agent does not ask earlier for what EC2 has refused
	for _, r := range nodes {
		again := 0
		for _, p := range r.add(t, 4, peer) { // those that are ready are single addresses
			if p == slash28(r.own, laterBlock) || p == slash28(r.other, laterBlock) {
				again++
			}
		}
		if again == 0 {
			t.Errorf("%s: no pod has an address of a prefix after /28s became whole", r.Name())
		}
		r.Restart(t, syscall.SIGKILL)
		for _, p := range r.pods {
			talk(t, p, peer)
			p.Check(t)
		}
		for _, p := range r.pods {
			p.Delete(t)
		}
		r.Eventually(t, func() error { return differs(r.before, kernelOf(t, r.Node)) })
		wantNoAllocations(t, r.Node)
	}
	wantNoDrops(t, vpc)
}
