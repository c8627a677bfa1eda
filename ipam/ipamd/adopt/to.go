// SPDX-License-Identifier: Apache-2.0

package adopt

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/ipam"
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
		if pod.Mode != (datapath.Mode{}) || len(pod.Addrs) != 1 {
			return fmt.Errorf("%w: %s/%s has the mode %v and %d addresses, want a veth pair and one", ErrUnsupported, pod.ContainerID, pod.IfName, pod.Mode, len(pod.Addrs))
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
	return nil
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
	if !p.hasLink(r.link) && p.hasLink(r.name) && p.linkTo(a.Addr) == r.name {
		r.link = r.name // an earlier run has renamed it
	}
	switch {
	case !p.hasLink(r.link):
		p.plan.Notes = append(p.plan.Notes, fmt.Sprintf("%v with %v: its link %s is gone, so the pod has ended", a.Attachment, a.Addr, r.link))
		return
	case r.name != r.link && p.hasLink(r.name):
		p.plan.Notes = append(p.plan.Notes, fmt.Sprintf("link %s: its name cannot become %s, which another link has", r.link, r.name))
		r.name = r.link
	}
	p.pods = append(p.pods, r)
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
	want := nodeState(node, p.Families)
	var links []netstate.Change
	for _, r := range p.pods {
		if r.link != r.name {
			p.step(renameLink{r.link, r.name})
		}
		for _, a := range r.pod.Addrs {
			want.Routes = append(want.Routes, podRoute(a.Addr, r.name))
			want.Rules = append(want.Rules, podRules(a)...)
		}
		if l, _ := p.State.Link(r.link); l.NoARP && !r.keepsNeighbor() {
			l.Name, l.NoARP, l.Alias = r.name, false, ""
			links = append(links, netstate.Change{Op: netstate.OpAdd, Item: l})
		}
	}
	changes := links
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
	theirs := nodeState(node, p.Families)
	for _, r := range p.pods {
		host := r.pod.HostState()
		ours = netstate.Join(ours, host)
		for _, a := range r.pod.Addrs {
			theirs.Rules = append(theirs.Rules, podRules(a)...)
			theirs.Routes = append(theirs.Routes, podRoute(a.Addr, r.name))
		}
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
		if r.pod.Adopted.Link != "" {
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
	p.step(forget{})
}
