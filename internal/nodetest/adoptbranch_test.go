// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/eni/vpctest"
	"github.com/vpcnet/vpcnet/ipam/ipamd/adopt"
)

// wireTrunk makes what the other agent makes on a node for pods on branch ENIs.
func (a *amazon) wireTrunk(t *testing.T) {
	t.Helper()
	if a.shape.branch == "standard" {
		return
	}
	in(t, a.Host, func(h *netlink.Handle) error {
		late, first := a.shape.rule(20, unix.RT_TABLE_LOCAL), a.shape.rule(0, unix.RT_TABLE_LOCAL)
		var err error
		if a.shape.ipv6 {
			router := a.shape.rule(0, unix.RT_TABLE_LOCAL)
			router.Src, router.IPProto = single(a.gateway()), unix.IPPROTO_ICMPV6
			err = h.RuleAdd(router)
		}
		return errors.Join(err, h.RuleAdd(late), h.RuleDel(first), os.WriteFile("/proc/sys/net/ipv4/ip_early_demux", []byte("0"), 0o644))
	})
}

// addBranchPod adds a pod on a branch ENI as amazon-vpc-cni-k8s and the controller of the VPC do.
func (a *amazon) addBranchPod(t *testing.T, vlan int) *amazonPod {
	t.Helper()
	id := a.createENI(t, a.shape.address()...)
	a.vpc.EC2(t, "AssociateTrunkInterface", "BranchInterfaceId", id, "TrunkInterfaceId", a.trunk, "VlanId", fmt.Sprint(vlan))
	i := slices.IndexFunc(a.vpc.Cloud.ENIs(), func(e enitest.ENI) bool { return e.ID == id })
	e := a.vpc.Cloud.ENIs()[i]
	addr := a.shape.addrOf(e)
	p := &amazonPod{Pod: &Pod{Pod: a.Pod(t), node: a.Node}, table: 100 + vlan, nics: []nic{{addr: addr, table: 100 + vlan}}, vlan: vlan}
	p.link = podLinkName(p.Name(), 0)
	if a.shape.branch == "strict" {
		p.link = "vlan" + strings.TrimPrefix(p.link, "eni")
	}
	sum := sha1.Sum([]byte(p.Name() + "/container"))
	p.entry = adopt.Entry{NetworkName: "aws-cni", ContainerID: hex.EncodeToString(sum[:]), IfName: "eth0"}
	if p.entry.IPv4 = addr; a.shape.ipv6 {
		p.entry.IPv4, p.entry.IPv6 = netip.Addr{}, addr
	}
	p.Addrs = []netip.Addr{addr}
	a.wirePod(t, p, 0)
	in(t, a.Host, func(h *netlink.Handle) error { return a.wireBranch(h, p, e) })
	p.Echo(t, netip.AddrPortFrom(addr, vpctest.EchoPort))
	a.cache(t, p)
	a.pods = append(a.pods, p)
	return p
}

// wireBranch makes the VLAN link of a pod, its table, and under strict its rules.
func (a *amazon) wireBranch(h *netlink.Handle, p *amazonPod, e enitest.ENI) error {
	i := slices.IndexFunc(a.ENIs(), func(e enitest.ENI) bool { return e.ID == a.trunk })
	trunk, err := h.LinkByName(vpctest.Link(a.ENIs()[i]))
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = fmt.Sprintf("vlan.eth.%d", p.vlan), trunk.Attrs().Index
	attrs.HardwareAddr, _ = net.ParseMAC(e.MAC)
	link := &netlink.Vlan{LinkAttrs: attrs, VlanId: p.vlan}
	if err := errors.Join(h.LinkAdd(link), h.LinkSetUp(link)); err != nil {
		return err
	}
	gw, addr := a.gateway(), p.Addrs[0]
	err = errors.Join(
		h.RouteReplace(&netlink.Route{LinkIndex: link.Index, Dst: single(gw), Scope: netlink.SCOPE_LINK, Table: p.table}),
		h.RouteReplace(&netlink.Route{LinkIndex: link.Index, Dst: a.shape.everywhere(), Gw: gw.AsSlice(), Table: p.table}),
	)
	host, hostErr := h.LinkByName(p.link)
	if a.shape.branch != "strict" || err != nil || hostErr != nil {
		return errors.Join(err, hostErr)
	}
	to, from := a.shape.rule(512, 254), a.shape.rule(1536, p.table)
	to.Dst, from.Src = single(addr), single(addr)
	in, out := a.shape.rule(10, p.table), a.shape.rule(10, p.table)
	in.IifName, out.IifName = attrs.Name, p.link
	route := netlink.Route{LinkIndex: host.Attrs().Index, Dst: single(addr), Scope: netlink.SCOPE_LINK}
	late := route
	late.Table = p.table
	return errors.Join(h.RuleDel(to), h.RuleDel(from), h.RouteDel(&route), h.RouteReplace(&late), h.RuleAdd(in), h.RuleAdd(out))
}

// TestAdoptBranches changes a node with pods on branch ENIs over from amazon-vpc-cni-k8s and
// back. No connection of a pod ends. A pod of which the runtime has no result is refused by
// name, and nothing changes. If this kernel has no VLAN links, the test of internal/vm runs it
// on one that does.
func TestAdoptBranches(t *testing.T) {
	if lacking := lackingKind(t, vpctest.New(t).Node(t, "t3.small")); lacking != "" {
		if inVM() {
			t.Fatalf("this kernel has no links of kind %s", lacking)
		}
		t.Logf("no links of kind %s here: internal/vm runs this test", lacking)
		return
	}
	t.Run("strict", func(t *testing.T) { testAdoptBranches(t, shape{layout: "flat", branch: "strict"}) })
	t.Run("standard", func(t *testing.T) { testAdoptBranches(t, shape{layout: "per-pod", branch: "standard"}) })
	t.Run("IPv6 strict", func(t *testing.T) {
		testAdoptBranches(t, shape{layout: "flat", branch: "strict", ipv6: true, prefixes: true})
	})
	t.Run("IPv6 standard", func(t *testing.T) {
		testAdoptBranches(t, shape{layout: "per-pod", branch: "standard", ipv6: true, prefixes: true})
	})
}

func testAdoptBranches(t *testing.T, s shape) {
	vpc := vpctest.New(t)
	a := newAmazon(t, vpc, s)
	far := vpc.Node(t, "t3.small")
	farAddr := s.of(far.Addr, far.Addr6)
	farPort := netip.AddrPortFrom(farAddr, vpctest.EchoPort)
	far.Echo(t, farPort)
	a.addPods(t)
	pods := []*amazonPod{a.addBranchPod(t, 1), a.addBranchPod(t, 7), a.addBranchPod(t, 9)}
	tr := &traffic{lines: map[string]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer tr.wait.Wait()
	defer cancel()
	for i, p := range pods[:2] {
		tr.open(ctx, fmt.Sprintf("branch pod %d to VPC", i), p.Dial(t, "tcp", farPort), p.Addrs[0])
		tr.open(ctx, fmt.Sprintf("VPC to branch pod %d", i), far.Dial(t, "tcp", p.At(0)), farAddr)
		tr.open(ctx, fmt.Sprintf("branch pod %d to the other", i), p.Dial(t, "tcp", pods[1-i].At(0)), p.Addrs[0])
		tr.open(ctx, fmt.Sprintf("pod to branch pod %d", i), a.pods[0].Dial(t, "tcp", p.At(0)), a.pods[0].Addrs[0])
	}
	tr.alive(t, "before")
	before, tags := a.inKernel(t), a.tags()
	unchanged := func(how string) {
		t.Helper()
		if diff := cmp.Diff(before, a.inKernel(t)); diff != "" {
			t.Fatalf("%s changes the node (-want +got):\n%s", how, diff)
		}
	}

	cached := a.File("cache/results/aws-cni-" + pods[1].entry.ContainerID + "-eth0")
	text := read(t, cached)
	if err := os.Remove(cached); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-dry-run"}, nil} {
		out, err := a.tryAdopt(t, append([]string{"-from", adopt.AmazonVPCCNI}, args...)...)
		if err == nil || !strings.Contains(out, "VLAN 7 (link vlan.eth.7, host link "+pods[1].link) || !strings.Contains(out, "no result in") {
			t.Errorf("adopt %v without a result: %v, want an error that names the pod:\n%s", args, err, out)
		}
		unchanged("a refused change-over")
	}
	a.write(t, cached, text)

	plan := a.adopt(t, "-from", adopt.AmazonVPCCNI, "-dry-run")
	if strings.Contains(plan, "left alone") || !strings.Contains(plan, "VLAN 7, for default/"+pods[1].Name()) {
		t.Errorf("the plan is not for pod %s:\n%s", pods[1].Name(), plan)
	}
	unchanged("a dry run")
	a.adopt(t, "-from", adopt.AmazonVPCCNI)
	tr.alive(t, "over")
	if got := a.adopt(t, "-from", adopt.AmazonVPCCNI); !strings.Contains(got, "nothing to do") {
		t.Errorf("a second run has something to do:\n%s", got)
	}
	a.Run(t)
	a.WaitReady(t)
	tr.alive(t, "with our agent")
	a.wantAllocations(t)

	ended := pods[2]
	branch := eniAt(t, vpc, ended.Addrs[0])
	a.del(t, ended)
	a.forget(ended)
	a.wantAllocations(t)
	a.Eventually(t, func() error { return gone(vpc, branch.ID) })
	conf := PodConfig{
		Conflist: read(t, a.File("net.d/10-vpcnet.conflist")), Args: map[string]string{"K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": "ours"},
		Capabilities: map[string]any{"securityGroups": a.ENIs()[0].Groups},
	}
	added := a.AddPodWith(t, conf)
	if got := added.Ask(t, "tcp", farPort).Addr(); got != added.Addrs[0] || eniAt(t, vpc, got).Trunk == nil {
		t.Errorf("the VPC sees %v, want %v of a branch ENI", got, added.Addrs[0])
	}
	tr.alive(t, "after DEL and ADD")

	a.Agent.Stop(t)
	a.adopt(t, "-to", adopt.AmazonVPCCNI)
	tr.alive(t, "back")
	if got := a.adopt(t, "-to", adopt.AmazonVPCCNI); !strings.Contains(got, "nothing to do") {
		t.Errorf("a second run back has something to do:\n%s", got)
	}
	if got := added.Ask(t, "tcp", farPort).Addr(); got != added.Addrs[0] {
		t.Errorf("the VPC sees %v from our pod, want %v", got, added.Addrs[0])
	}
	a.wantBranchesBack(t, before, ended, added)
	for _, e := range a.ENIs() { // our agent may have deleted one that no pod needs
		if _, theirs := tags[e.ID]; theirs && e.Tags[eni.TagOwner] == "vpcnet" {
			t.Errorf("%s has our owner tag", e.ID)
		}
	}
	cancel()
	tr.wait.Wait()
	wantNoDrops(t, vpc)
}

// wantBranchesBack checks that the other agent finds what it left, but for a pod that has ended
// and one that our agent has added.
func (a *amazon) wantBranchesBack(t *testing.T, before string, ended *amazonPod, added *Pod) {
	t.Helper()
	own := eniAt(t, a.vpc, added.Addrs[0]).Trunk.VLANID
	of := func(vlan int, addr netip.Addr, link string) []string {
		return []string{addr.String(), link, link + "@if2:", "vlan.eth." + fmt.Sprint(vlan), fmt.Sprint(100 + vlan)}
	}
	digits := podLinkName("ours", 0)
	if a.shape.branch == "strict" {
		digits = "vlan" + strings.TrimPrefix(digits, "eni")
	}
	without := func(text string, words []string) (keep []string) {
		for line := range strings.SplitSeq(text, "\n") {
			if !slices.ContainsFunc(words, func(w string) bool {
				return slices.Contains(strings.Fields(line), w) || strings.HasPrefix(line, w+"@")
			}) {
				keep = append(keep, line)
			}
		}
		return keep
	}
	after := a.inKernel(t)
	if diff := cmp.Diff(without(before, of(ended.vlan, ended.Addrs[0], ended.link)), without(after, of(own, added.Addrs[0], digits))); diff != "" {
		t.Errorf("the node is not as it was (-want +got):\n%s", diff)
	}
	if !strings.Contains(after, digits+"@if") || strings.Contains(after, datapath.HostLinkName("vlan", added.rt.ContainerID, "eth0")) {
		t.Errorf("the link of our pod does not have the name %s:\n%s", digits, after)
	}
}
