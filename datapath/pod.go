// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// Pod is one interface of one pod.
type Pod struct {
	// ContainerID and IfName are the key: names and MACs derive from them, except MAC.
	ContainerID, IfName string
	// Netns is the path of the sandbox. [Handle.DelPod] works without it.
	Netns string
	// Layout must be the node's; Flat if empty.
	Layout Layout
	// HostLinkPrefix must be the node's; "eni" if empty.
	HostLinkPrefix string
	// Addrs are the pod's addresses, at most one of each family. If there are none,
	// DelPod finds them in the kernel.
	Addrs []PodAddr
	// MTU of both ends in bytes, 68 to 65535, with IPv6 at least 1280. 0 leaves the
	// kernel's default, 1500.
	MTU int
	// Index counts the interfaces of a pod from 0 to 250. An interface beyond the
	// first has a route table of its own in the sandbox, with the number Index. If Index
	// is 0 and another interface of the sandbox has a default route, AddPod uses the
	// lowest index that is free, see [Wiring].
	Index int
	// PathMTUs are destinations with an MTU of their own: 0.0.0.0/0 means all
	// others. Optional.
	PathMTUs []PathMTU
	// MAC is the MAC of the pod's interface: unicast, six bytes. Nil means one that is
	// derived from the key. Only a pod with the zero Mode or a [Branch] can have one.
	MAC net.HardwareAddr
	// Mode is how the pod is joined to the VPC: if it is zero, by a veth pair that the
	// layout routes.
	Mode Mode
	// Adopted is the host link of a pod that another program has wired, see
	// [Handle.AdoptPod]. A Handle finds it; set it only to compute a State without a
	// kernel. Optional.
	Adopted HostSide `json:",omitzero"`
}

// PodAddr is a pod's address and the route table of the ENI that owns it.
type PodAddr struct {
	Addr netip.Addr
	// Table is that of [Table]; 0 is netstate.TableMain, the primary ENI.
	Table int
}

// PathMTU bounds the size of packets to a destination, in bytes: 68 to 65535, for
// IPv6 at least 1280.
type PathMTU struct {
	Prefix netip.Prefix
	MTU    int
}

// Wiring is what AddPod made.
type Wiring struct {
	// HostLink and HostMAC are those of the link on the node, empty for a whole ENI.
	HostLink string
	HostMAC  net.HardwareAddr
	// SandboxLink and SandboxMAC are those of the pod's interface.
	SandboxLink string
	SandboxMAC  net.HardwareAddr
	// Addrs are the pod's addresses with full length. Gateways are, in the same order,
	// the addresses that the pod sends its packets to.
	Addrs    []netip.Prefix
	Gateways []netip.Addr
	// MTU is that of the Pod.
	MTU int
	// Table is the route table in the sandbox that has the pod's default routes: 254, table
	// main, or the index of an interface beyond the first.
	Table int
}

// HostLinkName returns the name of the host side of an attachment's veth pair:
// prefix and 11 hexadecimal digits of the SHA-1 of "containerID/ifName". It derives
// from the sandbox and not from the pod's name, so that a pod that is started again
// under its old name never meets its own remains.
func HostLinkName(prefix, containerID, ifName string) string {
	return prefix + hex.EncodeToString(digest(containerID, ifName))[:11]
}

func digest(containerID, ifName string) []byte {
	sum := sha1.Sum([]byte(containerID + "/" + ifName))
	return sum[:]
}

// HostLink returns the name of the pod's host link.
func (p Pod) HostLink() string {
	if p.Adopted.Link != "" {
		return p.Adopted.Link
	}
	return p.ownHostLink()
}

// ownHostLink returns the name of the host link that AddPod makes for p.
func (p Pod) ownHostLink() string {
	return HostLinkName(p.mode().hostPrefix(p), p.ContainerID, p.IfName)
}

// HostMAC returns the MAC of the host side: locally administered, unicast, from the
// same digest as the name. A MAC that is known beforehand can be set in the message
// that creates the link, which keeps udev from changing it, and can be verified later
// without any record.
func (p Pod) HostMAC() net.HardwareAddr {
	if mac, err := net.ParseMAC(p.Adopted.MAC); err == nil {
		return mac
	}
	return p.digestMAC(6)
}

// SandboxMAC returns the MAC of the sandbox side.
func (p Pod) SandboxMAC() net.HardwareAddr {
	if len(p.MAC) > 0 {
		return p.MAC
	}
	return p.digestMAC(12)
}

// digestMAC returns six bytes of the digest as a MAC.
func (p Pod) digestMAC(offset int) net.HardwareAddr {
	mac := net.HardwareAddr(digest(p.ContainerID, p.IfName)[offset : offset+6])
	mac[0] = mac[0]&^0x01 | 0x02
	return mac
}

func (p Pod) layout() Layout { return Node{Layout: p.Layout}.layout() }

// Wiring returns what AddPod makes of p, without making it.
func (p Pod) Wiring() Wiring {
	m := p.mode()
	w := Wiring{SandboxLink: p.IfName, SandboxMAC: m.mac(p), MTU: p.MTU, Table: p.sandboxTable()}
	if m.links(p).peer != "" {
		w.HostLink, w.HostMAC = p.HostLink(), p.HostMAC()
	}
	for _, a := range p.Addrs {
		w.Addrs = append(w.Addrs, netstate.HostPrefix(a.Addr))
		w.Gateways = append(w.Gateways, m.gateway(p, a.Addr))
	}
	return w
}

// Validate reports what makes p impossible to wire.
func (p Pod) Validate() error {
	var errs []error
	if p.ContainerID == "" {
		errs = append(errs, errors.New("no container ID"))
	}
	if err := ValidateLinkName(p.IfName); err != nil {
		errs = append(errs, err)
	}
	if err := ValidateHostLinkPrefix(p.mode().hostPrefix(p)); err != nil {
		errs = append(errs, err)
	}
	if l := p.layout(); l != Flat && l != PerPod {
		errs = append(errs, fmt.Errorf("layout %q is neither %q nor %q", l, Flat, PerPod))
	}
	if err := p.Mode.validate(p); err != nil {
		errs = append(errs, err)
	}
	if p.Index < 0 || p.Index > maxIndex {
		errs = append(errs, fmt.Errorf("interface index %d is not in 0..%d", p.Index, maxIndex))
	}
	errs = append(errs, p.validateMAC(), ValidateMTU(p.MTU))
	if p.hasFamily(netstate.IPv6) {
		errs = append(errs, validMTU6(p.MTU))
	}
	for _, m := range p.PathMTUs {
		err := ValidateMTU(m.MTU)
		if netstate.FamilyOf(m.Prefix.Addr()) == netstate.IPv6 {
			err = errors.Join(err, validMTU6(m.MTU))
		}
		if m.MTU == 0 {
			err = errors.New("MTU 0")
		}
		if err = errors.Join(validPrefixes("destination", []netip.Prefix{m.Prefix}), err); err != nil {
			errs = append(errs, fmt.Errorf("path MTU to %s: %w", m.Prefix, err))
		}
	}
	return errors.Join(append(errs, p.validateAddrs())...)
}

// ValidateMAC reports whether mac can be that of an Ethernet interface.
func ValidateMAC(mac net.HardwareAddr) error {
	const length = 6
	switch {
	case len(mac) != length:
		return fmt.Errorf("MAC %s has %d bytes, want %d", mac, len(mac), length)
	case mac[0]&1 != 0:
		return fmt.Errorf("MAC %s is a multicast address, want an even first byte", mac)
	case bytes.Equal(mac, make([]byte, length)):
		return fmt.Errorf("MAC %s is zero, want a unicast address", mac)
	}
	return nil
}

// validateAddrs reports addresses that a pod cannot have, and more than one of a family.
func (p Pod) validateAddrs() error {
	if len(p.Addrs) == 0 {
		return errors.New("no address")
	}
	var errs []error
	count := map[netstate.Family]int{}
	for _, a := range p.Addrs {
		if !isENITable(a.Table) {
			errs = append(errs, fmt.Errorf("address %s: %d is not the route table of an ENI", a.Addr, a.Table))
		}
		if !a.Addr.IsValid() || a.Addr.Is4In6() || a.Addr.Zone() != "" || !a.Addr.IsGlobalUnicast() {
			errs = append(errs, fmt.Errorf("address %s is not a plain unicast address", a.Addr))
			continue
		}
		count[netstate.FamilyOf(a.Addr)]++
	}
	if max(count[netstate.IPv4], count[netstate.IPv6]) > 1 {
		errs = append(errs, errors.New("two addresses of one family"))
	}
	return errors.Join(errs...)
}

// ValidateLinkName reports whether the kernel accepts name as the name of a link
// (dev_valid_name in net/core/dev.c) and does not change it: it takes a name with a
// percent sign for a pattern such as eth%d.
func ValidateLinkName(name string) error {
	const longest = 15 // IFNAMSIZ without the final zero
	switch {
	case name == "" || len(name) > longest:
		return fmt.Errorf("interface name %.64q has %d bytes, want 1 to %d", name, len(name), longest)
	case name == "." || name == "..":
		return fmt.Errorf("interface name %q is reserved", name)
	case strings.ContainsAny(name, "/: \t\n\v\f\r"), strings.Contains(name, "\xa0"): // the kernel's white space is that of Latin-1
		return fmt.Errorf("interface name %q contains a slash, a colon or white space", name)
	case strings.Contains(name, "%"):
		return fmt.Errorf("interface name %q contains a percent sign, which the kernel replaces by a number", name)
	}
	return nil
}

// hasFamily reports whether p has an address of the family.
func (p Pod) hasFamily(f netstate.Family) bool {
	return slices.ContainsFunc(p.Addrs, func(a PodAddr) bool { return netstate.FamilyOf(a.Addr) == f })
}

// hasAddr reports whether x is one of p's addresses.
func (p Pod) hasAddr(x netip.Prefix) bool {
	return slices.ContainsFunc(p.Addrs, func(a PodAddr) bool { return netstate.HostPrefix(a.Addr) == x })
}

// pathMTU returns the MTU of the longest prefix that contains dst, 0 if there is none.
func (p Pod) pathMTU(dst netip.Prefix) int {
	best := PathMTU{}
	for _, m := range p.PathMTUs {
		if m.Prefix.Contains(dst.Addr()) && m.Prefix.Bits() <= dst.Bits() && (best.MTU == 0 || m.Prefix.Bits() > best.Prefix.Bits()) {
			best = m
		}
	}
	return best.MTU
}
