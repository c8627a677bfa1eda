// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// route is a route in the sandbox, by the gateway.
type route struct {
	dst                          netip.Prefix
	mtu, advMSS, priority, table int
}

// wiring is the link between the node and a sandbox.
type wiring struct {
	record
	netns  string
	mtu    int
	routes []route
}

// The names of the link in the sandbox. They are those of amazon-vpc-cni-k8s.
const (
	sandboxLink4 = "v4if0"
	sandboxLink6 = "v6if0"
)

func (w wiring) sandboxLink() string {
	if w.Node.Is4() {
		return sandboxLink4
	}
	return sandboxLink6
}

func (w wiring) host() string { return w.hostLink(w.Node) }

// gateway returns the address for which the sandbox has a permanent entry with the MAC of
// the node's end. No interface has it.
func (w wiring) gateway() netip.Addr {
	if w.Node.Is4() {
		return netip.AddrFrom4([4]byte{169, 254, 1, 1})
	}
	return netip.MustParseAddr("fe80::1")
}

// interfaces returns the two ends of the link as interfaces of a result.
func (w wiring) interfaces() []*types100.Interface {
	return []*types100.Interface{
		{Name: w.host(), Mac: w.mac(true).String(), Mtu: w.mtu},
		{Name: w.sandboxLink(), Mac: w.mac(false).String(), Mtu: w.mtu, Sandbox: w.netns},
	}
}

// use takes the address and the routes from the result of the IPAM plugin.
func (w *wiring) use(r *types100.Result) error {
	if len(r.IPs) != 1 || r.IPs[0] == nil {
		return fmt.Errorf("the IPAM plugin gave %d addresses, want one", len(r.IPs))
	}
	addr, ok := netip.AddrFromSlice(r.IPs[0].Address.IP)
	if addr = addr.Unmap(); !ok || addr.Is4() != w.Node.Is4() {
		return fmt.Errorf("the IPAM plugin gave %s, want an address of the family of nodeIP %s", addr, w.Node)
	}
	w.Addr = addr
	return w.useRoutes(r.Routes)
}

// useRoutes takes the routes from the configuration or the result of the IPAM plugin.
func (w *wiring) useRoutes(list []*types.Route) error {
	w.routes = nil
	for _, r := range list {
		if r == nil {
			return errors.New("a route of the IPAM plugin is null")
		}
		dst, ok := prefixOf(r.Dst)
		switch {
		case !ok || dst.Addr().Is4() != w.Node.Is4():
			return fmt.Errorf("the IPAM plugin gave a route to %s, want the family of nodeIP %s", &r.Dst, w.Node)
		case len(r.GW) > 0:
			return fmt.Errorf("the IPAM plugin gave a route to %s by gateway %s, want no gateway", dst, r.GW)
		case r.Scope != nil:
			return fmt.Errorf("the IPAM plugin gave a route to %s with scope %d, want no scope", dst, *r.Scope)
		}
		made := route{dst: dst, mtu: r.MTU, advMSS: r.AdvMSS, priority: r.Priority}
		if r.Table != nil {
			made.table = *r.Table
		}
		w.routes = append(w.routes, made)
	}
	if len(w.routes) == 0 {
		anywhere, _ := w.Node.Prefix(0)
		w.routes = []route{{dst: anywhere}}
	}
	return nil
}

func prefixOf(n net.IPNet) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	a = a.Unmap()
	return netip.PrefixFrom(a, ones).Masked(), ok && bits == a.BitLen()
}
