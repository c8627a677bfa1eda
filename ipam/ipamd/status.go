// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/policy"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
)

// Status is the state of an agent at one moment. Its JSON is what programs publish. It
// does not contain the IDs of sandboxes, because with one of them a process could
// impersonate the runtime.
type Status struct {
	// Ready means that an address could be given to a pod at some time since Run began.
	Ready bool `json:"ready"`
	// Reason says why the agent is not ready, or why no more addresses are available at
	// present. Empty means that there is no problem. Evidence describes the reason.
	Reason   ipam.Reason `json:"reason,omitempty"`
	Evidence string      `json:"evidence,omitempty"`
	// Free is how many addresses can be given to pods now.
	Free int `json:"free"`
	// InFlight describes the tasks under way, and Decisions the latest decision of each
	// network card.
	InFlight  []string `json:"inFlight,omitempty"`
	Decisions []string `json:"decisions,omitempty"`
	// Network has the settings of the node's network.
	Network NetworkStatus `json:"network"`
	// Cards are the network cards with addresses for pods. There are none before the
	// instance is known.
	Cards       []CardStatus `json:"cards,omitempty"`
	ENIs        []ENIStatus  `json:"enis"`
	Allocations []PodStatus  `json:"allocations"`
	// Denied counts the packets that network policies have denied, by class and direction.
	Denied []policy.Denied `json:"denied,omitempty"`
	// Quarantined are addresses that are in use but unknown to the journal.
	Quarantined []QuarantinedStatus `json:"quarantined,omitempty"`
	// Events are the latest events, without the requests of pods.
	Events []agent.Event `json:"events,omitempty"`
}

// CardStatus has the limits of a network card.
type CardStatus struct {
	Card        int `json:"card"`
	MaxENIs     int `json:"maxENIs"`
	SlotsPerENI int `json:"slotsPerENI"`
	// AddressesPerSlot is 1, or the size of a prefix.
	AddressesPerSlot int `json:"addressesPerSlot"`
}

// NetworkStatus has the settings of the node's network.
type NetworkStatus struct {
	Layout          string         `json:"layout"`
	HostLinkPrefix  string         `json:"hostLinkPrefix"`
	ServicePrefixes []netip.Prefix `json:"servicePrefixes,omitempty"`
	ExternalSNAT    bool           `json:"externalSNAT"`
	// Placement is the name of the placement of the pods' ENIs, see [Networks]. It is empty
	// if they are placed as the primary ENI, and before the instance is known.
	Placement string `json:"placement,omitempty"`
	// SNATBackend is the backend of the translation that is in use: nftables, iptables-nft
	// or iptables-legacy. It is empty before the node's network namespace is open.
	SNATBackend string `json:"snatBackend,omitempty"`
	// InUse are addresses of the ENIs that are in use, but not by a pod in
	// Allocations.
	InUse []netip.Addr `json:"inUse,omitempty"`
}

// ENIStatus describes an ENI in the pool and in the node's network.
type ENIStatus struct {
	ID     string         `json:"id"`
	MAC    string         `json:"mac,omitempty"`
	Card   int            `json:"card"`
	Device int            `json:"device"`
	Addrs  []netip.Prefix `json:"addrs,omitempty"`
	// Kind is the kind of the ENI and Subnet the ID of its subnet. They are empty before the
	// instance is known.
	Kind   eni.Kind `json:"kind,omitempty"`
	Subnet string   `json:"subnet,omitempty"`
	// Table is the number of its route table. Mark is the mark on packets of its pods
	// in the flat layout.
	Table  int           `json:"table"`
	Mark   int           `json:"mark"`
	Ready  bool          `json:"ready"`
	Blocks []BlockStatus `json:"blocks"`
}

// QuarantinedStatus is an address that is in use but unknown to the journal.
type QuarantinedStatus struct {
	Addr netip.Addr `json:"addr"`
	ENI  string     `json:"eni"`
	// By says what uses the address.
	By    string    `json:"by"`
	Since time.Time `json:"since"`
}

// BlockStatus counts the addresses of a block.
type BlockStatus struct {
	Prefix netip.Prefix `json:"prefix"`
	// Used includes the quarantined ones.
	Used        int `json:"used"`
	Quarantined int `json:"quarantined,omitempty"`
	Cooling     int `json:"cooling"`
	Free        int `json:"free"`
}

// PodStatus is an address that a pod holds.
type PodStatus struct {
	Addr      netip.Addr `json:"addr"`
	ENI       string     `json:"eni"`
	Namespace string     `json:"namespace,omitempty"`
	Pod       string     `json:"pod,omitempty"`
	// Link is the pod's host link.
	Link string    `json:"link"`
	At   time.Time `json:"at"`
	// Class is the name of the pod's class of network policies, empty if nothing limits it.
	Class string `json:"class,omitempty"`
}

// Status returns the present state. Before Run has opened the pool it has only a reason. After
// Run has returned it is the state at the end.
func (a *Agent) Status() Status {
	n := a.node.Load()
	if n == nil {
		return (&node{cfg: a.config()}).emptyStatus()
	}
	s := n.status()
	a.mu.Lock()
	cfg, parts := a.cfg, a.parts
	a.mu.Unlock()
	if parts != nil {
		parts.describe(&s, &cfg)
	}
	return s
}

// Ready returns a channel that is closed when [Status].Ready becomes true, which costs less
// than to look at the status again and again.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// describe adds what EC2 and the instance type say.
func (p *started) describe(s *Status, cfg *Config) {
	inv := p.manager.Inventory()
	for i, e := range s.ENIs {
		if known, ok := inv.ENI(e.ID); ok {
			s.ENIs[i].Kind, s.ENIs[i].Subnet = known.Kind, known.SubnetID
		}
	}
	limits := cfg.limits(p.limits, p.cards)
	for _, card := range p.cards {
		l := limits[card]
		s.Cards = append(s.Cards, CardStatus{card, l.MaxENIs, l.SlotsPerENI, l.AddressesPerSlot})
	}
	if networks, ok := cfg.Subnets.(Networks); ok {
		s.Network.Placement = networks.choose(inv.Instance.Zone)
	}
}

// Intents returns the operations on ENIs that are under way or that an earlier process left
// unfinished, oldest first. There are none before the instance is known. It makes no calls to
// EC2.
func (a *Agent) Intents(ctx context.Context) ([]eni.Intent, error) {
	a.mu.Lock()
	parts := a.parts
	a.mu.Unlock()
	if parts == nil {
		return nil, nil
	}
	return parts.manager.Unfinished(ctx)
}

// View returns the state of the pool, which is empty before Run has opened it.
func (a *Agent) View() ipam.View {
	n := a.node.Load()
	if n == nil {
		return ipam.View{}
	}
	return n.pool.View()
}

func (n *node) emptyStatus() Status {
	return Status{
		Reason: ipam.ReasonAgentStarting, ENIs: []ENIStatus{}, Allocations: []PodStatus{},
		Network: NetworkStatus{
			Layout: string(n.cfg.Layout), HostLinkPrefix: n.cfg.HostLinkPrefix,
			ServicePrefixes: n.cfg.ServicePrefixes, ExternalSNAT: n.cfg.ExternalSNAT,
		},
	}
}

func (n *node) status() Status {
	n.reading.RLock()
	defer n.reading.RUnlock()
	out, network := n.emptyStatus(), n.links.Node()
	out.Network.InUse, out.Network.SNATBackend = network.InUse, n.links.snatBackend()
	view := n.pool.View()
	if a := n.backend.agent.Load(); a != nil {
		s := a.Status()
		view = s.Pool
		out.Ready, out.Reason, out.Evidence = s.Ready, s.Reason, s.Evidence
		out.Free, out.InFlight, out.Decisions = s.Free, s.InFlight, s.Decisions
	}
	out.ENIs = withLinks(eniStatuses(view), network)
	for _, q := range view.Quarantined {
		out.Quarantined = append(out.Quarantined, QuarantinedStatus{q.Addr, q.ENI, q.By, q.Since})
	}
	out.Events = withoutSandboxes(n.events.list())
	hostLink := n.links.hostLinks()
	for a := range n.pool.Allocations() {
		out.Allocations = append(out.Allocations, PodStatus{
			a.Addr, a.ENI, a.Pod.Namespace, a.Pod.Name,
			hostLink(datapath.Pod{ContainerID: a.ContainerID, IfName: a.IfName, HostLinkPrefix: n.cfg.HostLinkPrefix}), a.At, "",
		})
	}
	for _, r := range n.own.all() {
		for _, a := range r.Response.Addresses {
			if r.Kind != kindIPVLAN { // the pool has its addresses
				out.Allocations = append(out.Allocations, PodStatus{a.Addr, a.ENI, r.Pod.Namespace, r.Pod.Name, hostLink(r.wiring()), r.At, ""})
			}
		}
	}
	if n.policies != nil {
		n.policies.describe(&out)
	}
	return out
}

// eniStatuses returns the ENIs of the pool with their blocks.
func eniStatuses(view ipam.View) []ENIStatus {
	all := []ENIStatus{}
	for _, e := range view.ENIs {
		es := ENIStatus{ID: e.ID, Card: e.Card, Device: e.Device, Ready: e.Ready, Blocks: []BlockStatus{}}
		for _, bv := range e.Blocks {
			es.Blocks = append(es.Blocks, BlockStatus{bv.Prefix, bv.Used, bv.Quarantined, bv.Cooling, bv.Free})
		}
		all = append(all, es)
	}
	return all
}

// withoutSandboxes removes the IDs of sandboxes from events.
func withoutSandboxes(list []agent.Event) []agent.Event {
	for i := range list {
		list[i].Attachment = ipam.Attachment{}
	}
	return list
}

// withLinks adds the MACs and addresses of the ENIs in n, and the ENIs that are not
// in the pool.
func withLinks(enis []ENIStatus, n datapath.Node) []ENIStatus {
	for _, e := range n.ENIs {
		i := slices.IndexFunc(enis, func(s ENIStatus) bool { return s.ID == e.ID })
		if i < 0 {
			i, enis = len(enis), append(enis, ENIStatus{ID: e.ID, Card: e.Card, Device: e.Device, Blocks: []BlockStatus{}})
		}
		enis[i].MAC, enis[i].Addrs = e.MAC.String(), e.Addrs
	}
	for i, e := range enis {
		enis[i].Table, enis[i].Mark = datapath.Table(e.Card, e.Device), datapath.Number(e.Card, e.Device)
	}
	return enis
}
