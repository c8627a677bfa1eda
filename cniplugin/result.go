// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"encoding/json"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath"
)

// result is the success result of ADD, in the form that all supported versions
// share. Fields that a version added are left out for older versions. Entries of
// a prevResult are kept byte by byte.
//
// https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md#add-success
type result struct {
	CNIVersion string            `json:"cniVersion"`
	Interfaces []json.RawMessage `json:"interfaces,omitempty"`
	IPs        []json.RawMessage `json:"ips,omitempty"`
	Routes     []json.RawMessage `json:"routes,omitempty"`
	DNS        json.RawMessage   `json:"dns,omitempty"`
}

type resultInterface struct {
	Name    string `json:"name"`
	MAC     string `json:"mac,omitempty"`
	MTU     int    `json:"mtu,omitempty"` // only from version 1.1.0 on
	Sandbox string `json:"sandbox,omitempty"`
}

type resultIP struct {
	Version   string       `json:"version,omitempty"` // only up to version 0.4.0
	Interface *int         `json:"interface,omitempty"`
	Address   netip.Prefix `json:"address"`
	Gateway   netip.Addr   `json:"gateway,omitzero"`
}

type resultRoute struct {
	Dst netip.Prefix `json:"dst"`
	GW  netip.Addr   `json:"gw,omitzero"`
}

// parsePrevResult parses a prevResult. An empty raw gives an empty result.
func parsePrevResult(raw json.RawMessage) (result, error) {
	var r result
	if len(raw) == 0 {
		return r, nil
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return result{}, &Error{Code: CodeDecodingFailure, Msg: "prevResult cannot be read", Details: err.Error()}
	}
	return r, nil
}

// addWiring adds the interfaces, addresses and routes that the plugin made for
// the sandbox at netns to prev, and returns the sum.
func addWiring(prev result, version, netns string, w datapath.Wiring) (result, error) {
	r := prev
	r.CNIVersion = version
	mtu := w.MTU
	if !supports(version, "1.1.0") {
		mtu = 0
	}
	var err error
	add := func(list []json.RawMessage, v any) []json.RawMessage {
		b, e := json.Marshal(v)
		if e != nil {
			err = e
		}
		return append(list[:len(list):len(list)], b)
	}
	r.Interfaces = add(r.Interfaces, resultInterface{Name: w.HostLink, MAC: w.HostMAC.String(), MTU: mtu})
	r.Interfaces = add(r.Interfaces, resultInterface{Name: w.SandboxLink, MAC: w.SandboxMAC.String(), MTU: mtu, Sandbox: netns})
	inside := len(r.Interfaces) - 1
	for i, addr := range w.Addrs {
		ip := resultIP{Interface: &inside, Address: addr, Gateway: w.Gateways[i]}
		if !supports(version, "1.0.0") {
			ip.Version = family(addr.Addr())
		}
		r.IPs = add(r.IPs, ip)
		r.Routes = add(r.Routes, resultRoute{Dst: defaultPrefix(addr.Addr()), GW: w.Gateways[i]})
	}
	return r, err
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "4"
	}
	return "6"
}

// defaultPrefix is the destination of a default route in the family of a.
func defaultPrefix(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// attached is the part of a prevResult that describes the plugin's own attachment.
type attached struct {
	host, inside resultInterface
	addrs        []netip.Addr
}

// find returns the attachment with the host side hostLink. found is false if the
// result does not contain it. find skips entries that do not parse, because they are
// from other plugins.
func (r result) find(hostLink, ifName, netns string) (a attached, found bool) {
	inside := -1
	for i, raw := range r.Interfaces {
		var l resultInterface
		if json.Unmarshal(raw, &l) != nil {
			continue
		}
		switch {
		case l.Name == hostLink && l.Sandbox == "":
			a.host, found = l, true
		case l.Name == ifName && l.Sandbox != "" && (l.Sandbox == netns || netns == ""):
			a.inside, inside = l, i
		}
	}
	if !found || inside < 0 {
		return attached{}, false
	}
	for _, raw := range r.IPs {
		var ip resultIP
		if json.Unmarshal(raw, &ip) == nil && ip.Interface != nil && *ip.Interface == inside {
			a.addrs = append(a.addrs, ip.Address.Addr())
		}
	}
	return a, true
}
