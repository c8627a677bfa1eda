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
var linkSettings = [...]struct {
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

// acceptRA is the place of accept_ra in linkSettings.
const acceptRA = 3

// decodeLinkSettings decodes IFLA_AF_SPEC: an attribute for each family, with the
// arrays of the family's settings. The keys are parts of one string, because a node has six
// settings for each of hundreds of links.
func decodeLinkSettings(link string, spec []byte) []netstate.Sysctl {
	link = strings.ReplaceAll(link, ".", "/")
	var values [len(linkSettings)]string // "" if the link lacks the setting
	hasIPv6 := false
	for family, arrays := range attributes(spec) {
		hasIPv6 = hasIPv6 || family == unix.AF_INET6
		for array, v := range attributes(arrays) {
			for i, s := range linkSettings {
				if s.family == family && s.array == array && len(v) >= 4*s.place+4 {
					values[i] = strconv.Itoa(int(int32(binary.NativeEndian.Uint32(v[4*s.place:]))))
				}
			}
		}
	}
	if !hasIPv6 {
		values[acceptRA] = "0" // a link without IPv6 accepts no router advertisements
	}
	var keys strings.Builder
	size := 0
	for _, s := range linkSettings {
		size += len(s.prefix) + len(link) + len(s.name)
	}
	keys.Grow(size)
	settings := make([]netstate.Sysctl, 0, len(linkSettings))
	for i, s := range linkSettings {
		if values[i] == "" {
			continue
		}
		begin := keys.Len()
		keys.WriteString(s.prefix)
		keys.WriteString(link)
		keys.WriteString(s.name)
		settings = append(settings, netstate.Sysctl{Key: keys.String()[begin:], Value: values[i]})
	}
	return settings
}
