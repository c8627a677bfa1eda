// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// legacyFamily is how the kernel's iptables of a family, which is no part of nftables, is
// read: https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/netfilter_ipv4/ip_tables.h
// and netfilter_ipv6/ip6_tables.h.
type legacyFamily struct {
	name   string
	tables string // file with the names of the tables that are in use
	domain int
	level  int
	// offset is where an entry has the offset of its target.
	offset int
}

var legacyFamilies = []legacyFamily{
	{"ip", "/proc/thread-self/net/ip_tables_names", unix.AF_INET, unix.SOL_IP, 84 + 4},
	{"ip6", "/proc/thread-self/net/ip6_tables_names", unix.AF_INET6, unix.SOL_IPV6, 136 + 4},
}

const (
	legacyFilter  = "filter"
	legacyForward = "FORWARD"

	// Options of getsockopt(2).
	legacyInfo    = 64 // IPT_SO_GET_INFO
	legacyEntries = 65 // IPT_SO_GET_ENTRIES

	legacyNameSize  = 32                        // of the name that begins both structures
	legacyUnderflow = legacyNameSize + 4 + 5*4  // the offsets of the policies in ipt_getinfo
	legacySize      = legacyUnderflow + 5*4 + 4 // the size of the entries in ipt_getinfo
	legacyInfoSize  = legacySize + 4            // of ipt_getinfo
	legacyFirst     = legacyNameSize + 4 + 4    // the first entry in ipt_get_entries
	legacyVerdict   = 32                        // the verdict in xt_standard_target
	legacyForwarded = 2                         // NF_INET_FORWARD
	legacyDrop      = ^uint32(0)                // the verdict of a policy drop, -NF_DROP - 1
)

// legacyFilters returns the chain FORWARD of iptables-legacy for each family that uses its
// table filter. It creates no table.
func legacyFilters(ns *os.File) (list []OtherChain, err error) {
	err = rtnl.InNetns(ns, func() error {
		for _, f := range legacyFamilies {
			names, err := os.ReadFile(f.tables)
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) || !slices.Contains(strings.Fields(string(names)), legacyFilter) {
				continue
			}
			if err != nil {
				return err
			}
			drops, err := f.drops()
			if err != nil {
				return fmt.Errorf("read table %s of iptables-legacy: %w", legacyFilter, err)
			}
			list = append(list, OtherChain{Family: f.name, Table: "iptables-legacy " + legacyFilter, Chain: legacyForward, Drops: drops})
		}
		return nil
	})
	return list, err
}

// drops reports whether the policy of FORWARD is DROP.
func (f legacyFamily) drops() (bool, error) {
	fd, err := unix.Socket(f.domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	info := make([]byte, legacyInfoSize)
	copy(info, legacyFilter)
	if err := f.option(fd, legacyInfo, info); err != nil {
		return false, err
	}
	size := binary.NativeEndian.Uint32(info[legacySize:])
	entries := make([]byte, legacyFirst+int(size))
	copy(entries, legacyFilter)
	binary.NativeEndian.PutUint32(entries[legacyNameSize:], size)
	if err := f.option(fd, legacyEntries, entries); err != nil {
		return false, err
	}
	at := int(binary.NativeEndian.Uint32(info[legacyUnderflow+4*legacyForwarded:]))
	policy := entries[legacyFirst+at:]
	target := int(binary.NativeEndian.Uint16(policy[f.offset:]))
	return binary.NativeEndian.Uint32(policy[target+legacyVerdict:]) == legacyDrop, nil
}

// option calls getsockopt(2), which reads and writes value.
func (f legacyFamily) option(fd, name int, value []byte) error {
	size := uint32(len(value))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(f.level), uintptr(name),
		uintptr(unsafe.Pointer(&value[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
