// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"strings"
)

// virtual reports whether l is of a kind that Apply can make out of l alone.
func (l Link) virtual() bool { return l.Kind == "vlan" || l.Kind == "bridge" }

// addition is the text of `ip link add` for a virtual link.
func (l Link) addition() string {
	var b strings.Builder
	b.WriteString("link add")
	if l.Parent != "" {
		fmt.Fprintf(&b, " link %s", l.Parent)
	}
	fmt.Fprintf(&b, " name %s address %s", l.Name, l.MAC)
	if l.MTU != 0 {
		fmt.Fprintf(&b, " mtu %d", l.MTU)
	}
	fmt.Fprintf(&b, " type %s", l.Kind)
	if l.VLAN != 0 {
		fmt.Fprintf(&b, " id %d", l.VLAN)
	}
	return b.String()
}

// ownsLink reports whether a link of the node is p's alone.
func (p Pod) ownsLink(name string) bool {
	return name == p.HostLink() || p.Mode.Branch != nil && name == p.Mode.Branch.Link()
}

// sharesLink reports whether a link of the node is p's and other pods'.
func (p Pod) sharesLink(name string) bool {
	return p.Mode.Bridge != nil && name == p.Mode.Bridge.name()
}

// withFurtherLinks returns wired, pods by host link, with their further links, and
// the links that several of them share.
func withFurtherLinks(wired map[string]Pod) (all map[string]Pod, shared map[string]bool) {
	all, shared = map[string]Pod{}, map[string]bool{}
	for name, p := range wired {
		all[name] = p
		if p.Mode.Branch != nil {
			all[p.Mode.Branch.Link()] = p
		}
		if p.Mode.Bridge != nil {
			shared[p.Mode.Bridge.name()] = true
		}
	}
	return all, shared
}
