// SPDX-License-Identifier: Apache-2.0

package adopt

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// ErrUnsupported means that amazon-vpc-cni-k8s has no way to serve a pod of this node.
var ErrUnsupported = errors.New("amazon-vpc-cni-k8s cannot serve the pod")

// toAmazon returns the plan by which the node changes over to amazon-vpc-cni-k8s. The error is
// ErrUnsupported for pods that it cannot serve: those with another mode than a veth pair, and
// those with addresses of both families. They must end before.
func toAmazon(n observed, o Options) (plan, error) {
	p := &toPlan{observed: n, options: o.withDefaults(), entries: map[string][]Entry{}}
	if len(n.Journal.ENIs) == 0 && len(n.Allocations) == 0 {
		return p.plan, nil
	}
	if err := p.findPods(); err != nil {
		return plan{}, err
	}
	p.restore()
	p.checkpoints()
	p.remove()
	p.giveBack()
	return p.plan, nil
}

// toPlan is a plan to amazon-vpc-cni-k8s that is being made.
type toPlan struct {
	observed
	options Options
	plan    plan
	pods    []returning
	entries map[string][]Entry // by path
}

// returning is a pod that goes back.
type returning struct {
	pod datapath.Pod
	// link is its host link now, and name the one that it gets.
	link, name string
}

// keepsNeighbor reports whether the neighbour entry of the pod stays, until its link ends: the
// host links of our plugin have no link-local address, without which the kernel cannot ask
// for the MAC of an IPv6 address.
func (r returning) keepsNeighbor() bool {
	return r.pod.Adopted.Link == "" && r.pod.Addrs[0].Addr.Is6()
}

func (p *toPlan) step(s step) { p.plan.Steps = append(p.plan.Steps, s) }

func (p *toPlan) findPods() error {
	held := map[ipam.Attachment][]ipam.Allocation{}
	cards := map[string]map[int]bool{}
	for _, a := range p.Allocations {
		held[a.Attachment] = append(held[a.Attachment], a)
		if cards[a.ContainerID] == nil {
			cards[a.ContainerID] = map[int]bool{}
		}
		cards[a.ContainerID][a.Card] = true
	}
	for _, pod := range p.Desired.Pods {
		if pod.Mode != (datapath.Mode{Branch: pod.Mode.Branch}) || len(pod.Addrs) != 1 {
			return fmt.Errorf("%w: %s/%s has the mode %v and %d addresses, want a veth pair or a branch ENI, and one address", ErrUnsupported, pod.ContainerID, pod.IfName, pod.Mode, len(pod.Addrs))
		}
	}
	for at, all := range sortedAttachments(held) {
		i := slices.IndexFunc(p.Desired.Pods, func(o datapath.Pod) bool { return o.ContainerID == at.ContainerID && o.IfName == at.IfName })
		if i < 0 {
			return fmt.Errorf("%w: %v has no veth pair", ErrUnsupported, at)
		}
		pod, _ := p.Desired.Pods[i].Resolve(p.State.Links) // a pod without ENIs of its own always resolves
		p.findPod(pod, all[0], len(cards[at.ContainerID]))
	}
	for _, b := range p.BranchPods {
		if err := p.findBranchPod(b); err != nil {
			return err
		}
	}
	return nil
}

// findBranchPod adds a pod on a branch ENI that exists. No checkpoint has it.
func (p *toPlan) findBranchPod(b ipamd.BranchPod) error {
	pod, err := b.Wiring.Resolve(p.State.Links)
	if err != nil {
		return err
	}
	prefix := p.Translation.HostLinkPrefix
	if pod.Mode.Branch.Enforcement == datapath.Strict {
		prefix = branchPrefix
	}
	r := returning{pod: pod, link: pod.HostLink()}
	r.name = r.link
	if b.Pod.Name != "" {
		r.name = prefix + linkDigest(b.Pod.Namespace, b.Pod.Name, 0)
	}
	p.add(r, b.Attachment, pod.Addrs[0].Addr)
	return nil
}

// add adds a pod if its host link exists, and reports whether it does.
func (p *toPlan) add(r returning, at ipam.Attachment, addr netip.Addr) bool {
	if !p.hasLink(r.link) && p.hasLink(r.name) && p.linkTo(addr) == r.name {
		r.link = r.name // an earlier run has renamed it
	}
	switch {
	case !p.hasLink(r.link):
		p.plan.Notes = append(p.plan.Notes, fmt.Sprintf("%v with %v: its link %s is gone, so the pod has ended", at, addr, r.link))
		return false
	case r.name != r.link && p.hasLink(r.name):
		p.plan.Notes = append(p.plan.Notes, fmt.Sprintf("link %s: its name cannot become %s, which another link has", r.link, r.name))
		r.name = r.link
	}
	p.pods = append(p.pods, r)
	return true
}

// sortedAttachments returns the allocations in the order of their attachments.
func sortedAttachments(held map[ipam.Attachment][]ipam.Allocation) func(func(ipam.Attachment, []ipam.Allocation) bool) {
	return func(yield func(ipam.Attachment, []ipam.Allocation) bool) {
		order := slices.SortedFunc(maps.Keys(held), func(a, b ipam.Attachment) int { return strings.Compare(a.String(), b.String()) })
		for _, at := range order {
			if !yield(at, held[at]) {
				return
			}
		}
	}
}

// findPod adds a pod that exists, and its entry.
func (p *toPlan) findPod(pod datapath.Pod, a ipam.Allocation, interfaces int) {
	r := returning{pod: pod, link: pod.HostLink()}
	index, ifName := 0, a.IfName
	if number, ok := strings.CutPrefix(a.IfName, further); ok {
		index, _ = strconv.Atoi(number) // our agent has named it
		ifName = "eth0"
	}
	r.name = r.link
	if a.Pod.Name != "" {
		r.name = p.Translation.HostLinkPrefix + linkDigest(a.Pod.Namespace, a.Pod.Name, index)
	}
	if !p.add(r, a.Attachment, a.Addr) {
		return
	}
	e := Entry{
		NetworkName: a.Network, ContainerID: a.ContainerID, IfName: ifName, Timestamp: a.At.UnixNano(),
		Metadata: Metadata{Namespace: a.Pod.Namespace, Name: a.Pod.Name, Interfaces: interfaces},
	}
	if a.Addr.Is4() {
		e.IPv4 = a.Addr
	} else {
		e.IPv6 = a.Addr
	}
	path := checkpointPath(p.options.Checkpoint, a.Card)
	p.entries[path] = append(p.entries[path], e)
}

// restore adds the steps that make the other agent's routes, rules and chains.
func (p *toPlan) restore() {
	node := p.resolvedNode()
	// An ENI with its link down was not set up yet, and has no pods: the other agent does it.
	node.ENIs = slices.DeleteFunc(slices.Clone(node.ENIs), func(e datapath.ENI) bool {
		l, ok := p.State.Link(e.Link)
		return !ok || !l.Up
	})
	want := p.nodeState(node)
	var links []netstate.Change
	for _, r := range p.pods {
		rules := amazonRules(r.pod, r.name)
		if r.link != r.name {
			if rules := p.lacking(netstate.State{Rules: rules}); r.pod.Mode.Branch != nil && len(rules) > 0 {
				p.step(applyChanges{"make rules for links that will get their names", rules})
			}
			p.step(renameLink{r.link, r.name})
		}
		want.Rules = append(want.Rules, rules...)
		want.Routes = append(want.Routes, amazonRoutes(r.pod, r.name)...)
		if l, _ := p.State.Link(r.link); l.NoARP && !r.keepsNeighbor() {
			l.Name, l.NoARP, l.Alias = r.name, false, ""
			links = append(links, netstate.Change{Op: netstate.OpAdd, Item: l})
		}
	}
	changes := append(links, p.lacking(want)...)
	if len(changes) > 0 {
		p.step(applyChanges{"make links, routes and rules of the other agent", changes})
	}
	have := removal(p.Tables[p.Variant])
	texts := translation(p.Translation)
	if !slices.Contains(p.Families, ipam.IPv4) {
		texts = nil // it translates for IPv4 clusters only
	}
	for _, table := range slices.Sorted(maps.Keys(texts)) {
		if have[table] == "" && p.Variant != "" {
			p.step(restoreChains{"make chains of the other agent", p.Variant, "*" + table + "\n" + texts[table] + "COMMIT\n"})
		}
	}
}

// lacking returns the additions of routes and rules that the kernel lacks.
func (p *toPlan) lacking(want netstate.State) (changes []netstate.Change) {
	for _, c := range want.Additions() {
		switch i := c.Item.(type) {
		case netstate.Route:
			if slices.Contains(p.State.Routes, i) {
				continue
			}
		case netstate.Rule:
			if slices.Contains(p.State.Rules, i) {
				continue
			}
		}
		changes = append(changes, c)
	}
	return changes
}

// checkpoints adds the steps that write the checkpoints.
func (p *toPlan) checkpoints() {
	first := p.options.Checkpoint
	if _, ok := p.entries[first]; !ok {
		p.entries[first] = nil
	}
	for _, path := range slices.Sorted(maps.Keys(p.entries)) {
		if text := FormatCheckpoint(p.entries[path]); p.Checkpoints[path] != string(text) {
			p.step(writeFile{path, text})
		}
	}
}

// remove adds the steps that remove what is ours in the kernel.
func (p *toPlan) remove() {
	node := p.resolvedNode()
	ours := node.State()
	var changes []netstate.Change
	if f := p.State.Filter; len(f.Chains)+len(f.Sources) > 0 {
		changes = append(changes, netstate.Change{Op: netstate.OpDelete, Item: netstate.Filter{}})
	}
	owned := node.Owned(p.State)
	theirs := p.nodeState(node)
	for _, r := range p.pods {
		host := r.pod.HostState()
		ours = netstate.Join(ours, host)
		theirs.Rules = append(theirs.Rules, amazonRules(r.pod, r.name)...)
		theirs.Routes = append(theirs.Routes, amazonRoutes(r.pod, r.name)...)
		for _, x := range host.Neighbors {
			if slices.Contains(p.State.Neighbors, x) && !r.keepsNeighbor() {
				x.Link = r.name
				changes = append(changes, netstate.Change{Op: netstate.OpDelete, Item: x})
			}
		}
	}
	for _, r := range p.State.Rules {
		if (slices.Contains(ours.Rules, r) || slices.Contains(owned.Rules, r)) && !slices.Contains(theirs.Rules, r) {
			changes = append(changes, netstate.Change{Op: netstate.OpDelete, Item: r})
		}
	}
	keeps := map[netstate.RouteKey]bool{}
	for _, r := range theirs.Routes {
		keeps[r.Key()] = true
	}
	for _, r := range p.State.Routes {
		if (slices.Contains(ours.Routes, r) || slices.Contains(owned.Routes, r)) && !keeps[r.Key()] {
			i := slices.IndexFunc(p.pods, func(x returning) bool { return x.link == r.Link })
			if i >= 0 {
				r.Link = p.pods[i].name
			}
			changes = append(changes, netstate.Change{Op: netstate.OpDelete, Item: r})
		}
	}
	if len(changes) > 0 {
		p.step(applyChanges{"remove our nftables table, rules and routes", changes})
	}
	p.step(removeTranslation{})
	for _, r := range p.pods {
		if r.pod.Adopted.Link != "" || r.pod.Mode.Branch != nil {
			r.pod.Adopted.Link = r.name
			p.step(unmarkLink{r.pod})
		}
	}
}

// giveBack adds the steps that give files and ENIs to the other agent.
func (p *toPlan) giveBack() {
	if o := p.options.Conflist; p.Files[o+saved] {
		p.step(moveFile{o + saved, o})
	}
	if p.Conflist != "" && p.Files[p.Conflist] {
		p.step(removeFile{p.Conflist})
	}
	if plugin := filepath.Join(p.options.PluginDir, amazonPlugin); p.Files[plugin+saved] {
		p.step(moveFile{plugin + saved, plugin})
	}
	for _, e := range p.ENIs {
		if e.Managed && !e.Primary && adoptable(e, p.Instance) {
			p.step(tagENI{e.ID, AmazonVPCCNI})
		}
	}
	for _, r := range p.pods {
		if i := slices.IndexFunc(p.BranchPods, func(b ipamd.BranchPod) bool {
			return b.Wiring.ContainerID == r.pod.ContainerID && b.Wiring.IfName == r.pod.IfName
		}); i >= 0 {
			p.step(tagENI{p.BranchPods[i].Branch.ENI, AmazonVPCCNI})
		}
	}
	p.step(forget{})
}
