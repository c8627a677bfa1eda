// SPDX-License-Identifier: Apache-2.0

package adopt

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/netstate"
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

// branchPods returns the pods on branch ENIs of which the kernel has anything, but for those
// that our agent knows, by VLAN ID.
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
	for _, p := range n.Desired.Pods {
		if m := p.Mode.Branch; m != nil {
			delete(found, m.VLAN)
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b *branchPod) int { return a.VLAN - b.VLAN })
}

// refuseBranchPods returns ErrBranchPod with the names of the pods on branch ENIs. A link
// without a pod is noted.
func (p *fromPlan) refuseBranchPods() error {
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
		errs = append(errs, fmt.Errorf("%w: %v", ErrBranchPod, b))
	}
	for _, l := range p.State.Links {
		if l.Kind == "veth" && strings.HasPrefix(l.Name, branchPrefix) && !held[l.Name] && !p.ourLink(l.Name) {
			errs = append(errs, fmt.Errorf("%w: link %s has the name of its host link, and nothing else of it is there", ErrBranchPod, l.Name))
		}
	}
	return errors.Join(errs...)
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
