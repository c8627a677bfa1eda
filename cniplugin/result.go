// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"encoding/json"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath"
)

// result is the success result of ADD in the form that all supported versions
// share. What came with a version is left out for older ones. Entries of a
// prevResult stay as they were written.
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
	MTU     int    `json:"mtu,omitempty"` // since 1.1.0
	Sandbox string `json:"sandbox,omitempty"`
}

type resultIP struct {
	Version   string       `json:"version,omitempty"` // until 0.4.0
	Interface *int         `json:"interface,omitempty"`
	Address   netip.Prefix `json:"address"`
	Gateway   netip.Addr   `json:"gateway,omitzero"`
}

type resultRoute struct {
	Dst netip.Prefix `json:"dst"`
	GW  netip.Addr   `json:"gw,omitzero"`
}

// parsePrevResult reads a prevResult; none gives an empty result.
func parsePrevResult(raw json.RawMessage) (result, error) {
	var r result
	if len(raw) == 0 {
		return r, nil
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return result{}, newError(CodeDecodingFailure, "prevResult cannot be read", err.Error())
	}
	return r, nil
}

// addWiring returns prev with what the plugin made in the sandbox at netns.
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
		r.Routes = add(r.Routes, resultRoute{Dst: everything(addr.Addr()), GW: w.Gateways[i]})
	}
	return r, err
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "4"
	}
	return "6"
}

// everything is the destination of a default route in the family of a.
func everything(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// attached is what a prevResult says about the plugin's own attachment.
type attached struct {
	host, inside resultInterface
	addrs        []netip.Addr
}

// find looks for the attachment that has hostLink as its host side; found is
// false if the result does not know it. Entries of other plugins that do not
// parse are theirs to judge.
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
