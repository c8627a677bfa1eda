// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"strings"
)

// aliasOwner begins the aliases of links by which DelPod, with nothing but the pod's
// key, finds what belongs to the pod beside a plain veth pair. An alias stays with its
// link when the link moves to another namespace, and ends with it.
const aliasOwner = "vpcnet"

// alias is the content of the alias of a link. The zero value is no alias of this
// package.
type alias struct {
	// owner is the name of the host link, which stands for the pod.
	owner string
	// mode is the kind of the pod's mode.
	mode string
	// link is the name of the further link: the VLAN link, the bridge, or the name that
	// the link of a whole ENI had on the node.
	link string
	// addrs are the pod's addresses, with commas, if they are on a link that it shares.
	addrs string
	// host is the name of the host link of a pod that another program has wired, in the alias
	// of a further link.
	host string
}

// altName is the alternative name of a further link, by which the kernel finds it
// without a look at all other links.
func (a alias) altName() string { return altName(a.owner) }

func altName(owner string) string { return aliasOwner + "." + owner }

func (a alias) String() string {
	if a == (alias{}) {
		return ""
	}
	words := []string{aliasOwner, a.owner, a.mode, a.link, a.addrs}
	if a.host != "" {
		words[4] = hostWord + a.host
	}
	return strings.TrimSuffix(strings.Join(words, " "), " ")
}

// hostWord begins the last word of an alias with the name of a host link. No address has it.
const hostWord = "host="

// parseAlias returns the zero alias for a text that another program has set.
func parseAlias(s string) alias {
	f := strings.Fields(s)
	if len(f) < 4 || len(f) > 5 || f[0] != aliasOwner {
		return alias{}
	}
	a := alias{owner: f[1], mode: f[2], link: f[3]}
	last := strings.Join(f[4:], "")
	host, found := strings.CutPrefix(last, hostWord)
	if a.host = host; !found {
		a.addrs, a.host = last, ""
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
