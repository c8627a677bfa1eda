// SPDX-License-Identifier: Apache-2.0

package adopt

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// fromAmazon returns the plan by which the node changes over from amazon-vpc-cni-k8s. The error
// is ErrBranchPod for pods that it cannot take over; they must end before.
func fromAmazon(n observed, o Options) (plan, error) {
	p := &fromPlan{observed: n, options: o.withDefaults(), claimed: map[netip.Addr]bool{}}
	p.Desired.Pods = slices.Clone(n.Desired.Pods)
	if err := p.takeBranchPods(); err != nil {
		return plan{}, err
	}
	p.tagENIs()
	p.entries()
	p.strangers()
	p.record()
	p.network()
	p.conflist()
	return p.plan, nil
}

// fromPlan is a plan from amazon-vpc-cni-k8s that is being made.
type fromPlan struct {
	observed
	options Options
	plan    plan
	events  []ipam.Event
	pods    []datapath.Pod // that will be adopted
	// branches are the pods on branch ENIs that will be adopted.
	branches []ipamd.BranchPod
	// claimed are the addresses of entries that are named in the plan or carried out.
	claimed map[netip.Addr]bool
	// gone are the addresses of pods that have ended.
	gone []netip.Addr
}

func (p *fromPlan) note(format string, args ...any) {
	p.plan.Notes = append(p.plan.Notes, fmt.Sprintf(format, args...))
}

func (p *fromPlan) step(s step) { p.plan.Steps = append(p.plan.Steps, s) }

func (p *fromPlan) tagENIs() {
	for _, e := range p.ENIs {
		switch {
		case e.Managed || e.Primary || e.ManagedBy != "":
		case e.Kind == eni.KindTrunk: // it is taken over with its pods
		case adoptable(e, p.Instance):
			p.step(tagENI{e.ID, p.Owner})
		case e.Kind == eni.KindInterface && e.Attachment != "":
			p.note("%s: it lacks the tag %s=%s, or has a tag that forbids it", e.ID, eni.TagInstance, p.Instance)
		}
	}
}

// further begins the names of the second and later interfaces of pods.
const further = "mNicIf"

// entries decides about each entry of the checkpoints.
func (p *fromPlan) entries() {
	holders := map[netip.Addr][]Entry{}
	index := map[[3]string]int{}
	for _, e := range slices.SortedStableFunc(slices.Values(p.Entries), func(a, b Entry) int { return a.Card - b.Card }) {
		key := [3]string{e.NetworkName, e.ContainerID, e.IfName}
		i := index[key]
		index[key]++
		holders[e.addr()] = append(holders[e.addr()], e)
		if len(holders[e.addr()]) == 1 {
			p.claimed[e.addr()] = true
		}
		p.entry(e, i)
	}
	for _, a := range slices.SortedFunc(maps.Keys(holders), netip.Addr.Compare) {
		if len(holders[a]) > 1 {
			p.note("%v: the checkpoints give it to %d pods: %v", a, len(holders[a]), holders[a])
		}
	}
}

// entry decides about one entry, of the index-th interface of its pod.
func (p *fromPlan) entry(e Entry, index int) {
	addr := e.addr()
	at := ipam.Attachment{Network: e.NetworkName, ContainerID: e.ContainerID, IfName: e.IfName}
	if index > 0 {
		at.IfName = fmt.Sprintf("%s%d", further, index)
	}
	duplicate := 0
	for _, o := range p.Entries {
		if o.addr() == addr {
			duplicate++
		}
	}
	link := p.linkTo(addr)
	named := link
	if e.Metadata.Name != "" {
		named = p.linkEnding(linkDigest(e.Metadata.Namespace, e.Metadata.Name, index))
	}
	own, block, known := p.eniOf(addr)
	for _, a := range p.Allocations {
		switch {
		case a.Attachment == at && a.Addr == addr:
			if link != "" {
				p.adoptLink(a, link)
			}
			return
		case a.Addr == addr:
			if duplicate == 1 {
				p.note("%v: our journal has given the address to %v", e, a.Attachment)
			}
			return
		}
	}
	within, inside, found := p.sandboxOf(named, at.IfName, addr)
	switch {
	case link == "" && named == "":
		p.gone = append(p.gone, addr)
		p.note("%v: the pod has ended: its link and the route to its address are gone", e)
	case named == "" || link != named && duplicate == 1:
		p.note("%v: packets to it go to link %q, and the link of its name is %q", e, link, named)
	case link != named: // another entry has the address
	case !known:
		p.note("%v: no ENI of this node that is ours or becomes ours has the address", e)
	case !found:
		p.note("%v: no sandbox in %s has the other end of %s with the address", e, strings.Join(p.options.Sandboxes, ", "), link)
	default:
		p.take(e, at, own, block, link, within, inside)
	}
}

// take adds the events for an entry, and its pod.
func (p *fromPlan) take(e Entry, at ipam.Attachment, own agent.ENI, block netip.Prefix, link string, within sandbox, inside sandboxLink) {
	p.events = append(p.events, ipam.Event{
		Kind: ipam.EventAllocated, At: time.Unix(0, e.Timestamp), Attachment: at, Addrs: []netip.Addr{e.addr()},
		Pod: ipam.PodRef{Namespace: e.Metadata.Namespace, Name: e.Metadata.Name}, Netns: within.Path, Sandbox: within.ID, MAC: inside.MAC,
	})
	p.adoptLink(ipam.Allocation{
		Attachment: at, Addr: e.addr(), Block: block, ENI: own.ID, Card: own.Card, Device: own.Device, Netns: within.Path, MAC: inside.MAC,
	}, link)
}

// adoptLink adds the pod of an allocation. If its link has no mark yet, the plan marks it.
func (p *fromPlan) adoptLink(a ipam.Allocation, link string) {
	l, _ := p.State.Link(link)
	pod := datapath.Pod{
		ContainerID: a.ContainerID, IfName: a.IfName, Netns: a.Netns, MTU: p.MTU,
		Layout: p.Desired.Node.Layout, HostLinkPrefix: p.Desired.Node.HostLinkPrefix,
		Addrs: []datapath.PodAddr{{Addr: a.Addr, Table: datapath.Table(a.Card, a.Device)}},
	}
	if pod.HostLink() == link {
		return // our own plugin has wired it
	}
	pod.Adopted = datapath.HostSide{Link: link, MAC: l.MAC}
	pod.MAC, _ = net.ParseMAC(a.MAC) // the kernel has it
	i := slices.IndexFunc(p.Desired.Pods, func(o datapath.Pod) bool { return o.ContainerID == a.ContainerID && o.IfName == a.IfName })
	if i >= 0 {
		p.Desired.Pods[i] = pod
	} else {
		p.Desired.Pods = append(p.Desired.Pods, pod)
	}
	if l.Alias != pod.AdoptedAlias() {
		p.pods = append(p.pods, pod)
	}
}

// strangers names links of pods that no checkpoint and no journal knows.
func (p *fromPlan) strangers() {
	held := map[netip.Addr]bool{}
	for _, a := range p.Allocations {
		held[a.Addr] = true
	}
	for _, r := range p.State.Routes {
		if !r.Dst.IsSingleIP() || r.Type != "" || !p.hasLink(r.Link) || !strings.HasPrefix(r.Link, p.Translation.HostLinkPrefix) {
			continue
		}
		if a := r.Dst.Addr(); !p.claimed[a] && !held[a] {
			p.note("link %s: it leads to %v, which no checkpoint has", r.Link, a)
		}
	}
}

// record adds the events for the ENIs and blocks that the journal lacks.
func (p *fromPlan) record() {
	known, blocks := map[string]bool{}, map[netip.Prefix]bool{}
	for _, e := range p.Journal.ENIs {
		known[e.ID] = true
		for _, b := range e.Blocks {
			blocks[b.Prefix] = true
		}
	}
	var events []ipam.Event
	for _, e := range p.Pool {
		if e.NoPods {
			continue
		}
		if !known[e.ID] {
			events = append(events, ipam.Event{Kind: ipam.EventENISet, At: p.Now, ENI: e.ID, Card: e.Card, Device: e.Device})
		}
		for _, b := range e.Blocks {
			if !blocks[b] {
				events = append(events, ipam.Event{Kind: ipam.EventBlockAdded, At: p.Now, ENI: e.ID, Block: b})
			}
		}
	}
	if len(p.events) > 0 {
		p.step(recordEvents{append(events, p.events...)})
	}
	if len(p.branches) > 0 {
		p.step(recordBranches{p.branches})
	}
	for _, pod := range p.pods {
		p.step(markLink{pod})
	}
	if dir := p.options.PluginDir; p.Files[filepath.Join(dir, amazonPlugin)] && !p.PluginCopied {
		p.step(copyFile{filepath.Join(dir, ownPlugin), filepath.Join(dir, amazonPlugin), filepath.Join(dir, amazonPlugin) + saved})
	}
}

// network adds the steps that make our network, and those that remove the other agent's.
func (p *fromPlan) network() {
	state := p.State
	state.Links = slices.Clone(state.Links)
	for _, pod := range p.pods {
		for i := range state.Links {
			if state.Links[i].Name == pod.Adopted.Link {
				state.Links[i].Alias = pod.AdoptedAlias()
			}
		}
	}
	bridge := p.bridgeAddrs()
	for _, c := range bridge {
		state.Addresses = append(slices.Clone(state.Addresses), c.Item.(netstate.Address))
	}
	var removals []step
	for _, v := range slices.Sorted(maps.Keys(p.Tables)) {
		texts := removal(p.Tables[v])
		for _, table := range slices.Sorted(maps.Keys(texts)) {
			removals = append(removals, restoreChains{"remove chains of the other agent", v, "*" + table + "\n" + texts[table] + "COMMIT\n"})
		}
	}
	if p.Table {
		removals = append(removals, deleteAmazonTable{})
	}
	if rules := p.oldRules(); len(rules) > 0 {
		removals = append(removals, applyChanges{"remove rules of the other agent", rules})
	}
	p.Desired.Node.InUse = p.inUse()
	changes := p.Desired.Drift(state)
	if len(changes)+len(removals) == 0 {
		return
	}
	// The other agent's rules lead to its routes, so they must end before these.
	beside, rest := besideTheirs(changes)
	if len(beside) > 0 {
		p.step(applyChanges{"make our network, beside that of the other agent", beside})
	}
	p.step(translate{translationText(p.Translation)})
	for _, s := range removals {
		p.step(s)
	}
	if len(bridge) > 0 {
		p.step(applyChanges{"add a second address, so that the kernel drops no route while the first changes", bridge})
	}
	p.step(ensureNetwork{rest})
}

// besideTheirs returns the changes that take nothing from the other agent, and the others.
func besideTheirs(changes []netstate.Change) (beside, rest []netstate.Change) {
	for _, c := range changes {
		if _, addr := c.Item.(netstate.Address); c.Op == netstate.OpAdd && !addr {
			beside = append(beside, c)
		} else {
			rest = append(rest, c)
		}
	}
	return beside, rest
}

// inUse returns the addresses of the pool that lead to a link although no pod that is or
// becomes ours has them.
func (p *fromPlan) inUse() (addrs []netip.Addr) {
	for _, r := range p.State.Routes {
		a := r.Dst.Addr()
		if !r.Dst.IsSingleIP() || r.Type != "" || r.Via.IsValid() || r.Link == "" || slices.Contains(addrs, a) {
			continue
		}
		ours := slices.ContainsFunc(p.Desired.Pods, func(o datapath.Pod) bool { return o.Addrs[0].Addr == a })
		if _, _, known := p.eniOf(a); known && !ours {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// bridgeAddrs returns the addition of a second address to each ENI whose address has to
// change: without any address the kernel would drop the routes by the ENI.
func (p *fromPlan) bridgeAddrs() (changes []netstate.Change) {
	for _, e := range p.resolvedNode().ENIs {
		for _, a := range e.Addrs {
			if !e.Primary() && a.Addr().Is4() && slices.Contains(p.State.Addresses, netstate.Address{Link: e.Link, Prefix: a}) {
				second := netstate.Address{Link: e.Link, Prefix: netstate.HostPrefix(a.Addr()), NoPrefixRoute: true}
				changes = append(changes, netstate.Change{Op: netstate.OpAdd, Item: second})
			}
		}
	}
	return changes
}

// oldRules returns the deletion of the other agent's rules that ours replace, and of those of
// pods that have ended.
func (p *fromPlan) oldRules() (changes []netstate.Change) {
	var replaced []netstate.Rule
	for _, pod := range p.Desired.Pods {
		replaced = append(replaced, amazonRules(pod, pod.HostLink())...)
	}
	node := p.resolvedNode()
	replaced = append(replaced, p.nodeState(node).Rules...)
	ours := node.State().Rules
	for _, pod := range p.Desired.Pods {
		ours = append(ours, pod.HostState().Rules...)
	}
	for _, r := range p.State.Rules {
		plain := r
		plain.Protocol = 0
		of := r.To.Addr()
		if r.From.IsValid() {
			of = r.From.Addr()
		}
		ended := (r.Priority == priorityToPod || r.Priority == priorityFromPod) && slices.Contains(p.gone, of)
		if !slices.Contains(ours, r) && (ended || slices.Contains(replaced, plain)) {
			changes = append(changes, netstate.Change{Op: netstate.OpDelete, Item: r})
		}
	}
	return changes
}

// conflist adds the steps that make runtimes read our configuration.
func (p *fromPlan) conflist() {
	if p.Conflist == "" || !p.Files[p.options.Conflist] {
		return
	}
	p.step(announce{p.Conflist})
	p.step(moveFile{p.options.Conflist, p.options.Conflist + saved})
}
