// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/snat"
)

// checkSandbox returns an error unless path is a network namespace other than the node's
// own.
func checkSandbox(path string) error {
	ns, err := openSandbox(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := netns.Get()
	if err != nil {
		return err
	}
	defer own.Close()
	if own.Equal(ns) {
		return types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("invalid CNI_NETNS %q", path), "it is the network namespace of the node")
	}
	return nil
}

func openSandbox(path string) (netns.NsHandle, error) {
	ns, err := netns.GetFromPath(path)
	if err == nil {
		var fs unix.Statfs_t
		if err = unix.Fstatfs(int(ns), &fs); err == nil && fs.Type != unix.NSFS_MAGIC {
			err = fmt.Errorf("%s is not a network namespace", path)
		}
		if err != nil {
			err = errors.Join(err, ns.Close())
		}
	}
	if err != nil {
		return netns.None(), types.NewError(types.ErrUnknownContainer, fmt.Sprintf("invalid CNI_NETNS %q", path), err.Error())
	}
	return ns, nil
}

// sides are netlink sockets in the two namespaces.
type sides struct {
	node, sandbox *netlink.Handle
	ns            netns.NsHandle
}

func (w wiring) open() (s sides, err error) {
	if s.ns, err = openSandbox(w.netns); err != nil {
		return s, err
	}
	if s.sandbox, err = netlink.NewHandleAt(s.ns, unix.NETLINK_ROUTE); err == nil {
		s.node, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	}
	if err != nil {
		s.close()
	}
	return s, err
}

func (s sides) close() {
	for _, h := range []*netlink.Handle{s.node, s.sandbox} {
		if h != nil {
			h.Close()
		}
	}
	_ = s.ns.Close()
}

// connect makes the link, and the addresses, routes and settings of both sides.
func (w wiring) connect(ctx context.Context) error {
	if err := w.forward(); err != nil {
		return err
	}
	s, err := w.open()
	if err != nil {
		return err
	}
	defer s.close()
	node, sandbox, err := w.create(s)
	if err != nil {
		return err
	}
	if err := w.connectSandbox(s, sandbox); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	return w.connectNode(ctx, s, node)
}

// create creates the pair of links with their addresses, so that no other program changes
// these later, and returns the numbers of both ends.
func (w wiring) create(s sides) (node, sandbox int, err error) {
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: w.host(), HardwareAddr: w.mac(true), MTU: w.mtu},
		PeerName:  w.sandboxLink(), PeerHardwareAddr: w.mac(false), PeerNamespace: netlink.NsFd(s.ns), PeerMTU: uint32(w.mtu),
	}
	if err := s.node.LinkAdd(veth); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return 0, 0, fmt.Errorf("the sandbox has an interface %s already, or the node %s: %w", w.sandboxLink(), w.host(), err)
		}
		return 0, 0, fmt.Errorf("create %s: %w", w.host(), err)
	}
	if err := s.node.LinkSetAlias(veth, w.alias()); err != nil {
		return 0, 0, fmt.Errorf("alias of %s: %w", w.host(), err)
	}
	inside, err := s.sandbox.LinkByName(w.sandboxLink())
	if err != nil {
		return 0, 0, fmt.Errorf("find %s: %w", w.sandboxLink(), err)
	}
	return veth.Index, inside.Attrs().Index, nil
}

// connectSandbox sets up the sandbox side. The address needs no duplicate address
// detection, because the link has two ends.
func (w wiring) connectSandbox(s sides, index int) error {
	if w.Node.Is6() {
		if err := inNamespace(s.ns, func() error { return writeSettings(w.settings(w.sandboxLink())) }); err != nil {
			return err
		}
	}
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Index: index}}
	if err := s.sandbox.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", w.sandboxLink(), err)
	}
	addr := &netlink.Addr{IPNet: ipNet(hostPrefix(w.Addr)), Flags: unix.IFA_F_NODAD}
	if err := s.sandbox.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("address %s: %w", w.Addr, err)
	}
	if err := s.sandbox.NeighSet(neighbor(index, w.gateway(), w.mac(true))); err != nil {
		return fmt.Errorf("neighbour %s: %w", w.gateway(), err)
	}
	for _, r := range w.sandboxRoutes(index) {
		if err := s.sandbox.RouteAdd(&r); err != nil {
			return fmt.Errorf("route to %s: %w", r.Dst, err)
		}
	}
	return nil
}

// sandboxRoutes returns the routes of the sandbox.
func (w wiring) sandboxRoutes(index int) []netlink.Route {
	gateway := net.IP(w.gateway().AsSlice())
	routes := []netlink.Route{{LinkIndex: index, Dst: ipNet(hostPrefix(w.gateway())), Scope: netlink.SCOPE_LINK, Table: unix.RT_TABLE_MAIN}}
	if w.Node.Is6() {
		routes = nil // a link-local gateway needs none
	}
	for _, r := range w.routes {
		table := r.table
		if table == 0 {
			table = unix.RT_TABLE_MAIN
		}
		routes = append(routes, netlink.Route{LinkIndex: index, Dst: ipNet(r.dst), Gw: gateway, Table: table, Priority: r.priority, MTU: r.mtu, AdvMSS: r.advMSS})
	}
	return routes
}

// routeWait is how long connectNode waits for the route of an earlier pod with the same
// address, until the kernel has deleted its namespace.
const routeWait = 5 * time.Second

// connectNode sets up the node's side.
func (w wiring) connectNode(ctx context.Context, s sides, index int) error {
	if err := writeSettings(w.settings(w.host())); err != nil {
		return err
	}
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Index: index}}
	if err := errors.Join(s.node.LinkSetARPOff(link), s.node.LinkSetUp(link)); err != nil {
		return fmt.Errorf("set %s up: %w", w.host(), err)
	}
	if err := s.node.NeighSet(neighbor(index, w.Addr, w.mac(false))); err != nil {
		return fmt.Errorf("neighbour %s: %w", w.Addr, err)
	}
	ctx, cancel := context.WithTimeout(ctx, routeWait)
	defer cancel()
	for {
		r := w.nodeRoute(index)
		err := s.node.RouteAdd(&r)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EEXIST) || pause(ctx) != nil {
			return fmt.Errorf("route to %s: %w", w.Addr, err)
		}
	}
}

func pause(ctx context.Context) error {
	t := time.NewTimer(100 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w wiring) nodeRoute(index int) netlink.Route {
	return netlink.Route{LinkIndex: index, Dst: ipNet(hostPrefix(w.Addr)), Scope: netlink.SCOPE_LINK, Table: unix.RT_TABLE_MAIN}
}

func neighbor(index int, addr netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: index, IP: addr.AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT}
}

func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// setting is a file below /proc/sys/net and its value.
type setting struct{ path, value string }

// settings returns the settings of one end of the link.
func (w wiring) settings(link string) []setting {
	if w.Node.Is4() {
		return []setting{{"ipv4/conf/" + link + "/forwarding", "1"}}
	}
	return []setting{{"ipv6/conf/" + link + "/disable_ipv6", "0"}, {"ipv6/conf/" + link + "/accept_ra", "0"}}
}

// forwarding is the node's setting.
func (w wiring) forwarding() setting {
	if w.Node.Is4() {
		return setting{"ipv4/ip_forward", "1"}
	}
	return setting{"ipv6/conf/all/forwarding", "1"}
}

// forward switches on forwarding. Before it begins to forward IPv6, the kernel must be told
// to go on accepting router advertisements, or it drops the default route that it has from
// them.
func (w wiring) forward() error {
	on := w.forwarding()
	if have, err := readSetting(on.path); err != nil || have == on.value {
		return err
	}
	if w.Node.Is6() {
		link, err := hasNodeAddr(w.Node)
		if err != nil {
			return err
		}
		if link != "" {
			if err := writeSettings([]setting{{"ipv6/conf/" + link + "/accept_ra", "2"}}); err != nil {
				return err
			}
		}
	}
	return writeSettings([]setting{on})
}

const settingsDir = "/proc/sys/net/"

func readSetting(path string) (string, error) {
	b, err := os.ReadFile(settingsDir + path)
	return strings.TrimSpace(string(b)), err
}

// writeSettings writes the settings that differ, so that it works where /proc/sys is
// read-only and they are right.
func writeSettings(all []setting) error {
	for _, s := range all {
		have, err := readSetting(s.path)
		if err == nil && have != s.value {
			err = os.WriteFile(settingsDir+s.path, []byte(s.value), 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inNamespace calls f on a thread that is in the namespace and ends with the call.
func inNamespace(ns netns.NsHandle, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked, so that the thread ends with the goroutine
		err := netns.Set(ns)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// disconnect deletes a link of the node, and with it its routes. It succeeds if there is
// none.
func disconnect(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}

// hasNodeAddr returns the link of the node that has the address, empty if none has.
func hasNodeAddr(a netip.Addr) (link string, err error) {
	addrs, err := complete(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, family(a)) })
	for _, have := range addrs {
		if got, ok := netip.AddrFromSlice(have.IP); ok && got.Unmap() == a {
			l, err := netlink.LinkByIndex(have.LinkIndex)
			if err != nil {
				return "", err
			}
			return l.Attrs().Name, nil
		}
	}
	return "", err
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// complete calls list until the kernel has not changed the list meanwhile.
func complete[T any](list func() ([]T, error)) (all []T, err error) {
	const tries = 20
	for range tries {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return all, err
}

// linked returns the attachments that have links, with the names of the links.
func linked() (map[attachment][]string, error) {
	links, err := complete(netlink.LinkList)
	all := map[attachment][]string{}
	for _, l := range links {
		if a, ok := attachmentOf(l.Attrs().Alias); ok {
			all[a] = append(all[a], l.Attrs().Name)
		}
	}
	return all, err
}

// routed returns the addresses to which a link to a pod leads.
func routed() (map[netip.Addr]bool, error) {
	all := map[netip.Addr]bool{}
	links, err := complete(netlink.LinkList)
	if err != nil {
		return nil, err
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	for _, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		routes, err := complete(func() ([]netlink.Route, error) { return netlink.RouteList(nil, family(any)) })
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			dst, ok := dstOf(r)
			if ok && dst.IsSingleIP() && strings.HasPrefix(names[r.LinkIndex], snat.EgressLinkPrefix(any)) {
				all[dst.Addr()] = true
			}
		}
	}
	return all, nil
}

func dstOf(r netlink.Route) (netip.Prefix, bool) {
	if r.Dst == nil {
		return netip.Prefix{}, false
	}
	return prefixOf(*r.Dst)
}

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
