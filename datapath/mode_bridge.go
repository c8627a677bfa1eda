// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"crypto/sha1"
	"net"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// Bridge makes the host sides of pods ports of one bridge, as kubenet does. The node's
// routes and neighbours for its pods are on the bridge, and all of them have the bridge's
// MAC for their gateway. AddPod makes the bridge if it is missing; the bridge stays when the last
// pod goes.
//
// The check of sources distinguishes links only, so pods on one bridge can send with each
// other's addresses. All ports receive broadcasts of the others.
type Bridge struct {
	// Name of the bridge: "enibr0" if empty. It must begin with the pod's
	// HostLinkPrefix or be one of [Node.PodLinks], so that the node's filter takes its packets for
	// those of pods.
	Name string
}

// defaultBridge is the name of the bridge if Bridge.Name is empty.
const defaultBridge = claims.DefaultHostLinkPrefix + "br0"

func (m *Bridge) link() string {
	if m.Name == "" {
		return defaultBridge
	}
	return m.Name
}

// bridgeMAC returns a MAC derived from the name. A bridge without a MAC of its own uses that
// of a port, and changes it when the port is deleted.
func (m *Bridge) bridgeMAC() net.HardwareAddr {
	sum := sha1.Sum([]byte("bridge/" + m.link()))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^0x01 | 0x02
	return mac
}

// bridgeMode is the mode of a pod on a Bridge.
type bridgeMode struct {
	vethMode
	*Bridge
}

func (m *Bridge) asMode() mode { return bridgeMode{Bridge: m} }

func (m bridgeMode) kind() string { return "bridge" }

func (m bridgeMode) links(p Pod) podLinks { return podLinks{peer: p.IfName, shared: m.link()} }

func (m bridgeMode) nodeLink(Pod) string { return m.link() }

// alias names the bridge and the pod's addresses, because the routes of the bridge do
// not tell to which pod they lead.
func (m bridgeMode) alias(p Pod) alias {
	var addrs []string
	for _, a := range p.Addrs {
		addrs = append(addrs, a.Addr.String())
	}
	return alias{owner: p.HostLink(), mode: m.kind(), link: m.link(), addrs: strings.Join(addrs, ",")}
}

func (m bridgeMode) validate(Pod) error { return ValidateLinkName(m.link()) }

func (m bridgeMode) host(p Pod) netstate.State {
	s := p.vethHost()
	for i := range s.Links {
		s.Links[i].Master, s.Links[i].Alias = m.link(), m.alias(p).String()
	}
	for i := range s.Neighbors {
		s.Neighbors[i].Link = m.link()
	}
	for i := range s.Routes {
		s.Routes[i].Link = m.link()
	}
	s.Sysctls = p.hostSysctls(m.link())
	s.Links = append(s.Links, netstate.Link{Name: m.link(), Kind: "bridge", MAC: m.bridgeMAC().String(), Up: true, NoARP: true})
	return s
}

func (m bridgeMode) sandbox(p Pod) netstate.State {
	s := p.vethSandbox()
	for i := range s.Neighbors {
		s.Neighbors[i].MAC = m.bridgeMAC().String()
	}
	return s
}

// remains returns the changes that delete what is on the bridge for p, in either
// layout.
func (m bridgeMode) remains(p Pod) []netstate.Change {
	var changes []netstate.Change
	for _, layout := range []Layout{Flat, PerPod} {
		p.Layout = layout
		s := m.host(p).Canonical()
		for _, r := range s.Routes {
			changes = append(changes, netstate.Change{Op: netstate.OpDelete, Item: r})
		}
		for _, n := range s.Neighbors {
			changes = append(changes, netstate.Change{Op: netstate.OpDelete, Item: n})
		}
	}
	return changes
}

// isBridge reports whether l is a bridge: several pods may share it, and its MTU follows
// its ports.
func isBridge(l netstate.Link) bool { return l.Kind == "bridge" }
