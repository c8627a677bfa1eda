// SPDX-License-Identifier: Apache-2.0

package adopt

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// ErrBranchPod means that the node has pods on branch ENIs that cannot be taken over.
var ErrBranchPod = errors.New("a pod on a branch ENI cannot be taken over")

// Names, priorities and tables of pods on branch ENIs. The host link of such a pod begins with
// branchPrefix under strict, and its table has the number branchTables plus the VLAN ID.
const (
	priorityBranch = 10
	branchTables   = 100
	branchPrefix   = "vlan"
	maxVLAN        = 4094
)

// branchPod is what the kernel has of a pod on a branch ENI.
type branchPod struct {
	VLAN int
	// Link is the VLAN link, "" if there is none.
	Link string
	// Host are the links of veth pairs that lead to the pod, and Addrs its addresses.
	Host  []string
	Addrs []netip.Addr
}

// String returns what the kernel tells, as in "VLAN 7 (link vlan.eth.7, host link
// vlan0123456789a, 10.0.0.9)".
func (b *branchPod) String() string {
	link := b.Link
	if link == "" {
		link = "none"
	}
	words := []string{"link " + link}
	for _, h := range b.Host {
		words = append(words, "host link "+h)
	}
	for _, a := range b.Addrs {
		words = append(words, a.String())
	}
	return fmt.Sprintf("VLAN %d (%s)", b.VLAN, strings.Join(words, ", "))
}

// vlanOf returns the VLAN ID of the branch ENI that has a route table.
func vlanOf(table int) (int, bool) {
	return table - branchTables, table > branchTables && table <= branchTables+maxVLAN &&
		(table < netstate.TableDefault || table > netstate.TableLocal)
}

// branchPods returns the pods on branch ENIs of which the kernel has anything, by VLAN ID.
func (n *observed) branchPods() []*branchPod {
	found := map[int]*branchPod{}
	at := func(vlan int) *branchPod {
		if found[vlan] == nil {
			found[vlan] = &branchPod{VLAN: vlan}
		}
		return found[vlan]
	}
	add := func(vlan int, link string, addr netip.Addr) {
		b := at(vlan)
		if n.hasLink(link) && !slices.Contains(b.Host, link) {
			b.Host = append(b.Host, link)
		}
		if addr.IsValid() && !slices.Contains(b.Addrs, addr) {
			b.Addrs = append(b.Addrs, addr)
		}
	}
	for _, l := range n.State.Links {
		if l.Kind == "vlan" {
			at(l.VLAN).Link = l.Name
		}
	}
	for _, r := range n.State.Routes { // under strict, the way to the pod
		if vlan, ok := vlanOf(r.Table); ok && r.Dst.IsSingleIP() && n.hasLink(r.Link) {
			add(vlan, r.Link, r.Dst.Addr())
		}
	}
	for _, r := range n.State.Rules {
		vlan, ok := vlanOf(r.Table)
		switch {
		case !ok:
		case r.Priority == priorityBranch && n.hasLink(r.IIF):
			add(vlan, r.IIF, netip.Addr{})
		case r.Priority == priorityFromPod && r.From.IsSingleIP():
			add(vlan, n.linkTo(r.From.Addr()), r.From.Addr())
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b *branchPod) int { return a.VLAN - b.VLAN })
}

// takeBranchPods decides about the pods on branch ENIs. It returns ErrBranchPod with the names of
// those of which the sources do not tell everything. A link without a pod is noted.
func (p *fromPlan) takeBranchPods() error {
	var errs []error
	held := map[string]bool{}
	for _, b := range p.branchPods() {
		for _, h := range b.Host {
			held[h] = true
		}
		if len(b.Host) == 0 {
			p.note("link %s of VLAN %d: no pod has it", b.Link, b.VLAN)
			continue
		}
		errs = append(errs, p.takeBranchPod(b))
	}
	for _, l := range p.State.Links {
		if l.Kind == "veth" && strings.HasPrefix(l.Name, branchPrefix) && !held[l.Name] && !p.ourLink(l.Name) {
			errs = append(errs, fmt.Errorf("%w: link %s has the name of its host link, and nothing else of it is there", ErrBranchPod, l.Name))
		}
	}
	return errors.Join(errs...)
}

// takeBranchPod adds a pod on a branch ENI to the plan.
func (p *fromPlan) takeBranchPod(b *branchPod) error {
	if i := slices.IndexFunc(p.Desired.Pods, func(o datapath.Pod) bool { return o.Mode.Branch != nil && o.Mode.Branch.VLAN == b.VLAN }); i >= 0 {
		p.markBranch(i, b.Host[0]) // an earlier run has recorded it
		return nil
	}
	r, found := p.resultOf(b)
	name := r.Attachment.String()
	switch {
	case !found:
		return fmt.Errorf("%w: %v: no result in %s has its host link and its VLAN ID", ErrBranchPod, b, p.options.Results)
	case r.Pod.Name != "":
		name = r.Pod.Namespace + "/" + r.Pod.Name
	}
	of, trunk, missing := p.branchOf(b)
	missing = append(missing, p.differences(b, r, of)...)
	within, inside, found := p.sandboxOf(b.Host[0], r.Attachment.IfName, r.Addrs[0])
	if !found {
		missing = append(missing, fmt.Sprintf("no sandbox in %s has the other end of %s with %v", strings.Join(p.options.Sandboxes, ", "), b.Host[0], r.Addrs[0]))
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: %s, %v: %s", ErrBranchPod, name, b, strings.Join(missing, "; "))
	}
	for _, e := range []eni.ENI{trunk, of.ENI} {
		tag := tagENI{e.ID, p.Owner}
		if e.Tags[eni.TagOwner] != p.Owner && !slices.Contains(p.plan.Steps, step(tag)) {
			p.step(tag)
		}
	}
	mode := of.Mode
	pod := datapath.Pod{
		ContainerID: r.Attachment.ContainerID, IfName: r.Attachment.IfName, Netns: within.Path, MTU: p.MTU,
		Layout: p.Desired.Node.Layout, HostLinkPrefix: p.Desired.Node.HostLinkPrefix, Mode: datapath.Mode{Branch: &mode},
	}
	pod.MAC, _ = net.ParseMAC(inside.MAC) // the kernel has it
	for _, a := range r.Addrs {
		pod.Addrs = append(pod.Addrs, datapath.PodAddr{Addr: a})
		p.claimed[a] = true
	}
	p.branches = append(p.branches, ipamd.BranchPod{Attachment: r.Attachment, Pod: r.Pod, Sandbox: within.ID, At: p.Now, Branch: of.Branch, Wiring: pod})
	p.Desired.Pods = append(p.Desired.Pods, pod)
	p.markBranch(len(p.Desired.Pods)-1, b.Host[0])
	return nil
}

// markBranch makes a link the host link of the i-th pod. If the link has no mark yet, the plan
// marks it.
func (p *fromPlan) markBranch(i int, link string) {
	pod := p.Desired.Pods[i]
	l, _ := p.State.Link(link)
	for _, a := range pod.Addrs {
		p.claimed[a.Addr] = true
	}
	if pod.HostLink() == link {
		return // our own plugin has wired it
	}
	pod.Adopted = datapath.HostSide{Link: link, MAC: l.MAC}
	p.Desired.Pods[i] = pod
	if l.Alias != pod.AdoptedAlias() {
		p.pods = append(p.pods, pod)
	}
}

// resultOf returns the cached result of a pod.
func (n *observed) resultOf(b *branchPod) (branchResult, bool) {
	i := slices.IndexFunc(n.Results, func(r branchResult) bool { return r.VLAN == b.VLAN && r.HostLink == b.Host[0] })
	if i < 0 {
		return branchResult{}, false
	}
	return n.Results[i], true
}

// branchOf returns the branch ENI of a pod and its trunk, and what tells against taking them
// over.
func (n *observed) branchOf(b *branchPod) (of ipamd.BranchENI, trunk eni.ENI, missing []string) {
	l, _ := n.State.Link(b.Link)
	parent, _ := n.State.Link(l.Parent)
	i := slices.IndexFunc(n.Branches, func(e ipamd.BranchENI) bool {
		return e.Branch.VLANID == b.VLAN && e.Mode.ENI.MAC.String() == l.MAC && e.Mode.Trunk.MAC.String() == parent.MAC
	})
	if i < 0 {
		return of, trunk, []string{fmt.Sprintf("EC2 has no branch ENI with that VLAN ID, the MAC %q of the VLAN link and the MAC %q of its trunk", l.MAC, parent.MAC)}
	}
	of = n.Branches[i]
	trunk = of.Trunk
	switch {
	case !trunk.Managed && !adoptable(trunk, n.Instance):
		missing = append(missing, fmt.Sprintf("the trunk %s lacks the tag %s=%s, or has a tag that forbids it", trunk.ID, eni.TagInstance, n.Instance))
	case of.ENI.ManagedBy != "" || of.ENI.Tags[eni.TagNoManage] == "true":
		missing = append(missing, of.ENI.ID+" has a tag that forbids it, or belongs to a service")
	case of.ENI.SubnetID != trunk.SubnetID:
		missing = append(missing, of.ENI.ID+" is in another subnet than its trunk")
	case !of.ENI.Subnet.IsValid() && !of.ENI.Subnet6.IsValid():
		missing = append(missing, fmt.Sprintf("the prefix of %s is unknown, because the metadata service does not show it now", of.ENI.SubnetID))
	}
	return of, trunk, missing
}

// differences returns what the sources disagree about.
func (n *observed) differences(b *branchPod, r branchResult, of ipamd.BranchENI) (missing []string) {
	add := func(format string, args ...any) { missing = append(missing, fmt.Sprintf(format, args...)) }
	if len(b.Host) > 1 {
		add("it has %d host links, want one", len(b.Host))
	}
	if r.Pod.Name != "" && !strings.HasSuffix(r.HostLink, linkDigest(r.Pod.Namespace, r.Pod.Name, 0)) {
		add("the name of its host link is not that of %s/%s", r.Pod.Namespace, r.Pod.Name)
	}
	for _, a := range b.Addrs {
		if !slices.Contains(r.Addrs, a) {
			add("the cached result lacks %v", a)
		}
	}
	for _, a := range r.Addrs {
		if len(of.Mode.ENI.Addrs) > 0 && !slices.ContainsFunc(of.Mode.ENI.Addrs, func(x netip.Prefix) bool { return x.Addr() == a }) {
			add("%s lacks %v", of.ENI.ID, a)
		}
	}
	mode := datapath.Standard
	if strings.HasPrefix(b.Host[0], branchPrefix) {
		mode = datapath.Strict
	}
	switch have := n.Desired.Node.Enforcement; have {
	case mode:
	case "":
		add("our agent is configured to give no pods branch ENIs; ENABLE_POD_ENI=true permits it")
	default:
		add("it has the enforcing mode %s, and our agent is configured for %s; POD_SECURITY_GROUP_ENFORCING_MODE sets it", mode, have)
	}
	return missing
}

// ourLink reports whether a link is the host link of a pod of our agent.
func (n *observed) ourLink(name string) bool {
	for _, p := range n.Desired.Pods {
		if r, _ := p.Resolve(n.State.Links); r.HostLink() == name {
			return true
		}
	}
	return false
}
