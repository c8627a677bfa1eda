// SPDX-License-Identifier: Apache-2.0

package datapath

import "strings"

// aliasOwner begins the aliases of links by which DelPod, with nothing but the
// pod's key, finds what belongs to the pod beside a plain veth pair. An alias goes
// with its link from one namespace to another, and ends with it.
const aliasOwner = "vpcnet"

// alias is what the alias of a link says: the host link's name, which stands for
// the pod; the kind of its mode; and the name of its further link: of the VLAN, of
// the bridge, and of a whole ENI before it became the pod's.
type alias struct{ owner, mode, link string }

func (a alias) String() string {
	if a == (alias{}) {
		return ""
	}
	return strings.Join([]string{aliasOwner, a.owner, a.mode, a.link}, " ")
}

// parseAlias returns the zero alias for one that somebody else set.
func parseAlias(s string) alias {
	f := strings.Fields(s)
	if len(f) != 4 || f[0] != aliasOwner {
		return alias{}
	}
	return alias{f[1], f[2], f[3]}
}

// aliasOf returns the alias of p's links.
func aliasOf(p Pod) alias {
	a := alias{owner: p.HostLink()}
	switch m := p.Mode; {
	case m.IPVLAN != nil:
		a.mode, a.link = "ipvlan", p.IfName
	case m.Whole != nil:
		a.mode, a.link = "eni", m.Whole.ENI.Link
	case m.Branch != nil:
		a.mode, a.link = "branch", m.Branch.Link()
	case m.Bridge != nil:
		a.mode, a.link = "bridge", m.Bridge.name()
	}
	return a
}
