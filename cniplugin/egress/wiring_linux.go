// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"github.com/vpcnet/vpcnet/snat"
	"golang.org/x/sys/unix"
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
