// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"
	"strconv"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// linkSettings are the settings of a link that a State shows, with their places in the
// arrays IFLA_INET_CONF (from 1, linux/ip.h) and IFLA_INET6_CONF (from 0,
// linux/ipv6.h). A dump of links has them all; to read them from /proc/sys would take
// one file for each.
var linkSettings = []struct {
	family, array uint16
	place         int
	prefix, name  string
}{
	{unix.AF_INET, unix.IFLA_INET_CONF, 0, "net.ipv4.conf.", ".forwarding"},
	{unix.AF_INET, unix.IFLA_INET_CONF, 7, "net.ipv4.conf.", ".rp_filter"},
	{unix.AF_INET6, unix.IFLA_INET6_CONF, 0, "net.ipv6.conf.", ".forwarding"},
	{unix.AF_INET6, unix.IFLA_INET6_CONF, 3, "net.ipv6.conf.", ".accept_ra"},
	{unix.AF_INET6, unix.IFLA_INET6_CONF, 26, "net.ipv6.conf.", ".disable_ipv6"},
	{unix.AF_INET6, unix.IFLA_INET6_CONF, 27, "net.ipv6.conf.", ".accept_dad"},
}

// decodeLinkSettings decodes IFLA_AF_SPEC: an attribute for each family, with the
// arrays of the family's settings.
func decodeLinkSettings(link string, spec []byte) []netstate.Sysctl {
	link = strings.ReplaceAll(link, ".", "/")
	var settings []netstate.Sysctl
	hasIPv6 := false
	for family, arrays := range attributes(spec) {
		hasIPv6 = hasIPv6 || family == unix.AF_INET6
		for array, v := range attributes(arrays) {
			for _, s := range linkSettings {
				if s.family != family || s.array != array || len(v) < 4*s.place+4 {
					continue
				}
				value := int32(binary.NativeEndian.Uint32(v[4*s.place:]))
				settings = append(settings, netstate.Sysctl{Key: s.prefix + link + s.name, Value: strconv.Itoa(int(value))})
			}
		}
	}
	if !hasIPv6 {
		// A link without IPv6 accepts no router advertisements.
		settings = append(settings, netstate.Sysctl{Key: "net.ipv6.conf." + link + ".accept_ra", Value: "0"})
	}
	return settings
}
