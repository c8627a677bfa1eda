// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// faults compares both sides with what connect makes.
func (w wiring) faults() (faults []string, err error) {
	s, err := w.open()
	if err != nil {
		return nil, err
	}
	defer s.close()
	node, sandbox := w.sideFaults(s, true, &faults), w.sideFaults(s, false, &faults)
	if node == nil || sandbox == nil {
		return faults, nil
	}
	if node.Attrs().ParentIndex != sandbox.Attrs().Index {
		faults = append(faults, fmt.Sprintf("%s is not the other end of %s", w.sandboxLink(), w.host()))
	}
	if node.Attrs().Alias != w.alias() {
		faults = append(faults, fmt.Sprintf("%s has the alias %q, want %q", w.host(), node.Attrs().Alias, w.alias()))
	}
	addrs, err := complete(func() ([]netlink.Addr, error) { return s.sandbox.AddrList(sandbox, family(w.Addr)) })
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IPNet.String() == hostPrefix(w.Addr).String() }) {
		faults = append(faults, fmt.Sprintf("%s does not have the address %s", w.sandboxLink(), w.Addr))
	}
	for _, side := range []struct {
		h      *netlink.Handle
		index  int
		name   string
		routes []netlink.Route
		addr   netip.Addr
		host   bool
	}{
		{s.node, node.Attrs().Index, w.host(), []netlink.Route{w.nodeRoute(node.Attrs().Index)}, w.Addr, false},
		{s.sandbox, sandbox.Attrs().Index, w.sandboxLink(), w.sandboxRoutes(sandbox.Attrs().Index), w.gateway(), true},
	} {
		missing, err := missingRoutes(side.h, side.index, side.routes, family(w.Addr))
		if err != nil {
			return nil, err
		}
		for _, r := range missing {
			faults = append(faults, fmt.Sprintf("no route to %s by %s", r.Dst, side.name))
		}
		neighbors, err := complete(func() ([]netlink.Neigh, error) { return side.h.NeighList(side.index, family(w.Addr)) })
		if err != nil {
			return nil, err
		}
		want := neighbor(side.index, side.addr, w.mac(side.host))
		if !slices.ContainsFunc(neighbors, func(n netlink.Neigh) bool {
			return n.IP.Equal(want.IP) && n.State == want.State && n.HardwareAddr.String() == want.HardwareAddr.String()
		}) {
			faults = append(faults, fmt.Sprintf("no permanent neighbour %s with MAC %s on %s", want.IP, want.HardwareAddr, side.name))
		}
	}
	return w.settingFaults(s, faults)
}

// sideFaults returns one end of the link, nil if it does not exist, and adds what is wrong
// with it to faults.
func (w wiring) sideFaults(s sides, host bool, faults *[]string) netlink.Link {
	h, name := s.sandbox, w.sandboxLink()
	if host {
		h, name = s.node, w.host()
	}
	link, err := h.LinkByName(name)
	if err != nil {
		*faults = append(*faults, fmt.Sprintf("link %s: %v", name, err))
		return nil
	}
	a := link.Attrs()
	if a.Flags&net.FlagUp == 0 {
		*faults = append(*faults, name+" is down")
	}
	if a.MTU != w.mtu {
		*faults = append(*faults, fmt.Sprintf("%s has MTU %d, want %d", name, a.MTU, w.mtu))
	}
	if mac := w.mac(host); a.HardwareAddr.String() != mac.String() {
		*faults = append(*faults, fmt.Sprintf("%s has MAC %s, want %s", name, a.HardwareAddr, mac))
	}
	return link
}

// missingRoutes returns the routes that the link does not have.
func missingRoutes(h *netlink.Handle, index int, want []netlink.Route, family int) (missing []netlink.Route, err error) {
	have, err := complete(func() ([]netlink.Route, error) {
		return h.RouteListFiltered(family, &netlink.Route{LinkIndex: index, Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, err
	}
	for _, w := range want {
		dst, _ := dstOf(w)
		if !slices.ContainsFunc(have, func(r netlink.Route) bool {
			got, ok := dstOf(r)
			return ok && got == dst && r.Gw.Equal(w.Gw) && r.Table == w.Table && (w.Priority == 0 || r.Priority == w.Priority) && r.MTU == w.MTU && r.AdvMSS == w.AdvMSS
		}) {
			missing = append(missing, w)
		}
	}
	return missing, nil
}

// settingFaults adds settings with other values, and a node without the address, to faults.
func (w wiring) settingFaults(s sides, faults []string) ([]string, error) {
	check := func(all []setting) error {
		for _, want := range all {
			have, err := readSetting(want.path)
			if err != nil {
				return err
			}
			if have != want.value {
				faults = append(faults, fmt.Sprintf("net/%s is %s, want %s", want.path, have, want.value))
			}
		}
		return nil
	}
	err := check(append(w.settings(w.host()), w.forwarding()))
	if err == nil && w.Node.Is6() {
		err = inNamespace(s.ns, func() error { return check(w.settings(w.sandboxLink())) })
	}
	if err != nil {
		return nil, err
	}
	link, err := hasNodeAddr(w.Node)
	if link == "" && err == nil {
		faults = append(faults, fmt.Sprintf("the node does not have the address %s", w.Node))
	}
	return faults, err
}
