// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// AddressesOf returns the addresses of a result of any version, for an [Allocator]
// that asks an IPAM plugin. They have no ENI, and the route table 0, which is that
// of the primary ENI.
func AddressesOf(r types.Result) ([]Address, error) {
	if r == nil {
		return nil, errors.New("the result is nil")
	}
	converted, err := types100.NewResultFromResult(r)
	if err != nil {
		return nil, err
	}
	var addrs []Address
	for i, ip := range converted.IPs {
		var a netip.Addr
		if ip != nil {
			a, _ = netip.AddrFromSlice(ip.Address.IP)
		}
		if !a.IsValid() {
			return nil, fmt.Errorf("address %d of the result is missing or has the wrong length", i)
		}
		addrs = append(addrs, Address{Addr: a.Unmap()})
	}
	return addrs, nil
}

// Result is the result of ADD in the newest version.
type Result = types100.Result

// Result returns the result of a [Wiring] that has given the allocated addresses to
// the interface of the request and has made no route.
func (r WiringRequest) Result() *Result {
	result := &Result{CNIVersion: newestVersion, Interfaces: []*types100.Interface{{Name: r.IfName, Sandbox: r.Netns}}}
	for _, a := range r.Allocated.Addresses {
		addr := net.IPNet{IP: a.Addr.AsSlice(), Mask: net.CIDRMask(a.Addr.BitLen(), a.Addr.BitLen())}
		result.IPs = append(result.IPs, &types100.IPConfig{Interface: types100.Int(0), Address: addr})
	}
	return result
}
