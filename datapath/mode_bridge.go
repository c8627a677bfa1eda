// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"crypto/sha1"
	"fmt"
	"net"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// Bridge makes the host sides of pods ports of one bridge, as kubenet does: the
// node's routes and neighbours of its pods are on the bridge, whose MAC is the
// gateway's for all of them. AddPod makes the bridge if need be; it stays.
//
// The check of sources knows only links, so that pods of one bridge can send with
// each other's addresses; and the ports see each other's broadcasts.
type Bridge struct {
	// Name of the bridge, which must begin with the pod's HostLinkPrefix so that
	// the node's filter takes it for pods: "enibr0" if empty.
	Name string
}

// DefaultBridge is the name of the bridge.
const DefaultBridge = claims.DefaultHostLinkPrefix + "br0"

func (m *Bridge) LinkName() string {
	if m.Name == "" {
		return DefaultBridge
	}
	return m.Name
}

// mac derives from the name: a bridge without a MAC of its own takes that of a
// port, and another one when the port goes.
func (m *Bridge) mac() net.HardwareAddr {
	sum := sha1.Sum([]byte("bridge/" + m.LinkName()))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^0x01 | 0x02
	return mac
}

func (m *Bridge) enis() []*ENI { return nil }

func (m *Bridge) validate(p Pod) error {
	if !strings.HasPrefix(m.LinkName(), p.prefix()) {
		return fmt.Errorf("bridge %q does not begin with the host link prefix %q", m.LinkName(), p.prefix())
	}
	return ValidateLinkName(m.LinkName())
}

func (m *Bridge) host(p Pod) netstate.State {
	s := p.routedHost()
	for i := range s.Links {
		s.Links[i].Master = m.LinkName()
	}
	for i := range s.Neighbors {
		s.Neighbors[i].Link = m.LinkName()
	}
	for i := range s.Routes {
		s.Routes[i].Link = m.LinkName()
	}
	s.Sysctls = p.hostSysctls(m.LinkName())
	s.Links = append(s.Links, netstate.Link{Name: m.LinkName(), Kind: "bridge", MAC: m.mac().String(), Up: true})
	return s
}

func (m *Bridge) sandbox(p Pod) netstate.State {
	s := p.routedSandbox()
	for i := range s.Neighbors {
		s.Neighbors[i].MAC = m.mac().String()
	}
	return s
}

// remains returns what is on the bridge for p.
func (m *Bridge) remains(p Pod) []netstate.Change {
	p.Mode = Mode{Bridge: m}
	var changes []netstate.Change
	for _, layout := range []Layout{Flat, PerPod} {
		p.Layout = layout
		s := p.HostState()
		for _, r := range s.Routes {
			changes = append(changes, netstate.Change{Op: netstate.OpDelete, Item: r})
		}
		for _, n := range s.Neighbors {
			changes = append(changes, netstate.Change{Op: netstate.OpDelete, Item: n})
		}
	}
	return changes
}
