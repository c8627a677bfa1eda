// SPDX-License-Identifier: Apache-2.0

package vpcrules

import (
	"net/netip"
	"slices"
	"time"
)

// Packet is a packet as the rules see it.
type Packet struct {
	Src, Dst netip.Addr
	Protocol int
	// SrcPort and DstPort are the ports of TCP and UDP.
	SrcPort, DstPort uint16
	// Type, Code and ID are those of ICMP and ICMPv6; ID is the identifier of an echo.
	Type, Code uint8
	ID         uint16
	// Opens means that a TCP segment has the flag SYN and not ACK.
	Opens bool
	// Fragment means that the packet is a fragment other than the first.
	Fragment bool
	// Quoted is the packet that an ICMP error quotes.
	Quoted *Packet
}

// Stage is the stage at which the VPC drops a packet.
type Stage string

// The stages, see the package documentation. The zero value means that the packet is
// delivered.
const (
	Delivered        Stage = ""
	SourceCheck      Stage = "source check"
	Routing          Stage = "routing"
	GroupsOut        Stage = "security groups, outbound"
	ACLOut           Stage = "network ACL, outbound"
	Gateway          Stage = "internet gateway"
	DestinationCheck Stage = "destination check"
	ACLIn            Stage = "network ACL, inbound"
	GroupsIn         Stage = "security groups, inbound"
)

// Verdict is the treatment of a packet.
type Verdict struct {
	// To is where the packet goes, also if it is dropped after routing.
	To Target
	// Drop is the stage that drops the packet.
	Drop Stage
	// Logged are the flow log entries of the packet.
	Logged []Logged
}

// Logged is the entry of a packet in the flow log of an ENI.
type Logged struct {
	ENI    string
	Action Action
}

// Judge decides about packets and tracks flows. It is not safe for concurrent use.
type Judge struct {
	network Network
	tracked map[flow]time.Time // end of the tracking
}

// NewJudge returns a Judge that tracks no flow.
func NewJudge(n Network) *Judge { return &Judge{network: n, tracked: map[flow]time.Time{}} }

// SetNetwork replaces the network. Tracked flows remain tracked.
func (j *Judge) SetNetwork(n Network) { j.network = n }

// Forward decides about a packet that an ENI has sent or that comes from the internet
// or from the peer network.
func (j *Judge) Forward(now time.Time, from Target, p Packet) (v Verdict) {
	n := j.network
	sender, subnet := ENI{}, ""
	if from.Kind == ToENI {
		sender, _ = n.eni(from.ENI)
		subnet = sender.Subnet
		if !sender.Unchecked && !(n.owner(p.Src) == from) {
			v.Drop = SourceCheck
			return v
		}
	}
	if from.Kind == Internet && !n.public(p.Dst) {
		v.Drop = Gateway
		return v
	}
	if v.To = n.Route(subnet, p.Dst); v.To.Kind == Blackhole {
		v.Drop = Routing
		return v
	}
	receiver, _ := n.eni(v.To.ENI)
	sameSubnet := from.Kind == ToENI && v.To.Kind == ToENI && sender.Subnet == receiver.Subnet
	if from.Kind == ToENI {
		switch {
		case !j.groups(now, sender, p, true):
			v.Drop = GroupsOut
		case !sameSubnet && !n.acl(sender.Subnet, p, true):
			v.Drop = ACLOut
		}
		if v.log(sender); v.Drop != Delivered {
			return v
		}
	}
	if v.Drop = n.deliver(v.To, p); v.Drop != Delivered {
		return v
	}
	if v.To.Kind == ToENI {
		switch {
		case !sameSubnet && !n.acl(receiver.Subnet, p, false):
			v.Drop = ACLIn
		case !j.groups(now, receiver, p, false):
			v.Drop = GroupsIn
		}
		v.log(receiver)
	}
	return v
}

func (v *Verdict) log(e ENI) {
	action := Accept
	if v.Drop != Delivered {
		action = Reject
	}
	v.Logged = append(v.Logged, Logged{e.ID, action})
}

// public reports whether the internet gateway passes the address.
func (n Network) public(a netip.Addr) bool { return a.Is6() || slices.Contains(n.Public, a) }

// deliver passes the internet gateway and the destination check.
func (n Network) deliver(to Target, p Packet) Stage {
	receiver, _ := n.eni(to.ENI)
	switch {
	case to.Kind == Internet && !n.public(p.Src):
		return Gateway
	case to.Kind == ToENI && !receiver.Unchecked && !receiver.owns(p.Dst):
		return DestinationCheck
	}
	return Delivered
}

// peer returns the address that rules of one direction compare.
func (p Packet) peer(out bool) netip.Addr {
	if out {
		return p.Dst
	}
	return p.Src
}

// decide returns the first match that selects the packet, and whether there is one.
func (n Network) decide(all []Match, p Packet, out bool) (Match, bool) {
	peer := p.peer(out)
	answer := p
	answer.DstPort = p.SrcPort
	i := slices.IndexFunc(all, func(m Match) bool {
		if m.Answer && !m.selects(answer) || !m.Answer && !m.selects(p) {
			return false
		}
		if m.Group == "" {
			return m.Prefix.Contains(peer)
		}
		return slices.ContainsFunc(n.Members(m.Group), func(q netip.Prefix) bool { return q.Contains(peer) })
	})
	if i < 0 {
		return Match{}, false
	}
	return all[i], true
}

// acl reports whether the network ACL of the subnet allows the packet.
func (n Network) acl(subnet string, p Packet, out bool) bool {
	f, ok := n.SubnetFilter(subnet)
	if !ok || p.Fragment {
		return true
	}
	m, ok := n.decide(f.Direction(out), p, out)
	return ok && m.Allow
}

// groups reports whether the security groups of the ENI allow the packet. It tracks the
// flow of the packet.
func (j *Judge) groups(now time.Time, e ENI, p Packet, out bool) bool {
	f, ok := j.network.GroupFilter(e.Groups)
	if !ok || p.Fragment {
		return true
	}
	if q := p.Quoted; q != nil {
		if key, ok := flowOf(e.ID, *q, !out); ok && now.Before(j.tracked[key]) {
			return true
		}
	}
	key, trackable := flowOf(e.ID, p, out)
	if trackable && !p.Opens && now.Before(j.tracked[key]) {
		j.tracked[key] = now.Add(Timeout(p.Protocol))
		return true
	}
	m, ok := j.network.decide(f.Direction(out), p, out)
	if ok && m.Tracked && trackable && p.begins() {
		j.tracked[key] = now.Add(Timeout(p.Protocol))
	}
	return ok
}
