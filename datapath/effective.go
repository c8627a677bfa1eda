// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// A node may lack a family: its kernel was built or booted without IPv6, or IPv6 is off by
// sysctl. Then only the other family is of interest, and settings of the family that is off
// stay as they are. A program in a container may also be unable to write settings, so it
// wants no setting that changes nothing.

// lacksIPv6 reports whether the kernel of a namespace with the state have is without IPv6:
// otherwise every link lo has settings for it.
func lacksIPv6(have netstate.State) bool {
	_, known := have.Link("lo")
	return known && have.Sysctl(enableIPv6("lo").Key) == ""
}

// on returns n as far as the kernel of a namespace with the state have can carry it:
// without IPv6 if the kernel has none.
func (n Node) on(have netstate.State) Node {
	if !lacksIPv6(have) {
		return n
	}
	n.ENIs = slices.Clone(n.ENIs)
	for i := range n.ENIs {
		n.ENIs[i].Addrs = filtered(n.ENIs[i].Addrs, func(p netip.Prefix) bool { return p.Addr().Is4() })
		n.ENIs[i].Sources = filtered(n.ENIs[i].Sources, func(p netip.Prefix) bool { return p.Addr().Is4() })
	}
	return n
}

// settings are the settings of a namespace by key.
type settings map[string]string

func settingsOf(list []netstate.Sysctl) settings {
	s := settings{}
	for _, x := range list {
		s[x.Key] = x.Value
	}
	return s
}

// effective returns want without settings that refuse router advertisements where the
// kernel accepts none anyway, according to s: on a link without IPv6, and on one that
// forwards, unless the setting is 2.
func (s settings) effective(want netstate.State) netstate.State {
	want.Sysctls = slices.DeleteFunc(slices.Clone(want.Sysctls), func(x netstate.Sysctl) bool {
		conf, ok := strings.CutSuffix(x.Key, ".accept_ra")
		if !ok || x.Value != "0" {
			return false
		}
		off := conf + ".disable_ipv6"
		if s[off] == "1" && !slices.Contains(want.Sysctls, netstate.Sysctl{Key: off, Value: "0"}) {
			return true
		}
		return s[conf+".forwarding"] == "1" && s[x.Key] == "1"
	})
	return want
}
