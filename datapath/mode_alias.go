// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"strings"
)

// aliasOwner begins the aliases of links by which DelPod, with nothing but the
// pod's key, finds what belongs to the pod beside a plain veth pair. An alias goes
// with its link from one namespace to another, and ends with it.
const aliasOwner = "vpcnet"

// alias is what the alias of a link says: the host link's name, which stands for
// the pod; the kind of its mode; the name of its further link: of the VLAN, of
// the bridge, and of a whole ENI before it became the pod's; and the pod's addresses
// where they are on the bridge.
type alias struct{ owner, mode, link, addrs string }

// altName is the alternative name of a further link, by which it is found without
// a look at all others.
func (a alias) altName() string { return altName(a.owner) }

func altName(owner string) string { return aliasOwner + "." + owner }

func (a alias) String() string {
	if a == (alias{}) {
		return ""
	}
	return strings.TrimSuffix(strings.Join([]string{aliasOwner, a.owner, a.mode, a.link, a.addrs}, " "), " ")
}

// parseAlias returns the zero alias for one that somebody else set.
func parseAlias(s string) alias {
	f := strings.Fields(s)
	if len(f) < 4 || len(f) > 5 || f[0] != aliasOwner {
		return alias{}
	}
	return alias{owner: f[1], mode: f[2], link: f[3], addrs: strings.Join(f[4:], "")}
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
		a.mode, a.link = "bridge", m.Bridge.LinkName()
		var addrs []string
		for _, x := range p.Addrs {
			addrs = append(addrs, x.Addr.String())
		}
		a.addrs = strings.Join(addrs, ",")
	}
	return a
}

// podAddrs returns the addresses that the alias names.
func (a alias) podAddrs() []PodAddr {
	var addrs []PodAddr
	for s := range strings.SplitSeq(a.addrs, ",") {
		if x, err := netip.ParseAddr(s); err == nil {
			addrs = append(addrs, PodAddr{Addr: x})
		}
	}
	return addrs
}
