// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// result is the success result of ADD, in the form that the versions from 0.3.0 on
// share. Entries of a prevResult are kept byte by byte, with fields that this package
// and the CNI library do not know.
//
// https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md#add-success
type result struct {
	CNIVersion string            `json:"cniVersion"`
	Interfaces []json.RawMessage `json:"interfaces,omitempty"`
	IPs        []json.RawMessage `json:"ips,omitempty"`
	Routes     []json.RawMessage `json:"routes,omitempty"`
	DNS        json.RawMessage   `json:"dns,omitempty"`
}

// versionOfInterfaces is the first version with interfaces in its results. Those of
// earlier versions have one address of each family with its routes.
const versionOfInterfaces = "0.3.0"

// parsePrevResult parses a prevResult of the given version. An empty raw gives an
// empty result.
func parsePrevResult(raw json.RawMessage, ver string) (result, error) {
	var r result
	if len(raw) == 0 {
		return r, nil
	}
	var err error
	if supports(ver, versionOfInterfaces) {
		err = json.Unmarshal(raw, &r)
	} else {
		r, err = upgradeResult(raw, ver)
	}
	if err != nil {
		return result{}, &Error{Code: CodeDecodingFailure, Msg: "prevResult cannot be read", Details: err.Error()}
	}
	for _, list := range [][]json.RawMessage{r.Interfaces, r.IPs, r.Routes} {
		for _, entry := range list {
			if string(entry) == "null" { // the CNI library accepts it, and panics later
				return result{}, &Error{Code: CodeDecodingFailure, Msg: "prevResult cannot be read", Details: "an entry of a list is null"}
			}
		}
	}
	return r, nil
}

// parseOldResult parses a result of a version before versionOfInterfaces.
func parseOldResult(raw json.RawMessage, ver string) (types.Result, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	if fields == nil { // raw is null
		fields = map[string]json.RawMessage{}
	}
	for key := range fields {
		if strings.EqualFold(key, "cniVersion") {
			delete(fields, key)
		}
	}
	fields["cniVersion"] = json.RawMessage(strconv.Quote(ver)) // such a result may have none
	b, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	return version.NewResult(ver, b)
}

// upgradeResult converts a result of a version before versionOfInterfaces.
func upgradeResult(raw json.RawMessage, ver string) (r result, err error) {
	old, err := parseOldResult(raw, ver)
	if err != nil {
		return result{}, err
	}
	converted, err := old.GetAsVersion(newestVersion)
	if err != nil {
		return result{}, err
	}
	b, err := json.Marshal(converted)
	if err != nil {
		return result{}, err
	}
	err = json.Unmarshal(b, &r)
	return r, err
}

// as returns r as a result of the CNI library.
func (r result) as(ver string) (types.Result, error) {
	r.CNIVersion = ver
	if !supports(ver, versionOfInterfaces) {
		r.CNIVersion = newestVersion
	}
	lib, err := version.NewResult(r.CNIVersion, r.appendJSON(nil))
	if err == nil {
		lib, err = lib.GetAsVersion(ver)
	}
	if err != nil {
		return nil, &Error{Code: CodeDecodingFailure, Msg: "result cannot be converted to version " + ver, Details: err.Error()}
	}
	return lib, nil
}

// write writes r to out as a result of the given version.
func (r result) write(out io.Writer, ver string) error {
	if !supports(ver, versionOfInterfaces) {
		old, err := r.as(ver)
		if err != nil {
			return err
		}
		return emit(out, old)
	}
	r.CNIVersion = ver
	var indented bytes.Buffer
	if err := json.Indent(&indented, r.appendJSON(nil), "", indent); err != nil {
		return err
	}
	return writeLine(out, indented.Bytes())
}

// The functions below write JSON without reflection, which would cost a process that
// prints one result 0.2 ms.

// appendJSON appends the JSON form of r to b.
func (r result) appendJSON(b []byte) []byte {
	b = append(b, `{"cniVersion":`...)
	b = appendString(b, r.CNIVersion)
	for _, l := range []struct {
		key  string
		list []json.RawMessage
	}{{"interfaces", r.Interfaces}, {"ips", r.IPs}, {"routes", r.Routes}} {
		if len(l.list) == 0 {
			continue
		}
		b = append(b, `,"`+l.key+`":[`...)
		b = append(b, bytes.Join(asBytes(l.list), []byte{','})...)
		b = append(b, ']')
	}
	if len(r.DNS) > 0 {
		b = append(append(b, `,"dns":`...), r.DNS...)
	}
	return append(b, '}')
}

func asBytes(list []json.RawMessage) [][]byte {
	b := make([][]byte, len(list))
	for i, raw := range list {
		b[i] = raw
	}
	return b
}

// appendString appends s as a JSON string to b.
func appendString(b []byte, s string) []byte {
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(s) // never fails for a string
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// appendField appends a field with a string to the JSON object b, unless value is
// empty.
func appendField(b []byte, key, value string) []byte {
	if value == "" {
		return b
	}
	return appendString(append(b, `,"`+key+`":`...), value)
}

// appendNumber appends a field with a number to the JSON object b, unless value is 0.
func appendNumber(b []byte, key string, value int) []byte {
	if value == 0 {
		return b
	}
	return strconv.AppendInt(append(b, `,"`+key+`":`...), int64(value), 10)
}

// add returns r with the interfaces, addresses, routes and DNS of made, of which it
// leaves out the fields that the version does not have.
func (r result) add(made *Result, ver string) (result, error) {
	if made == nil {
		return r, nil
	}
	first := len(r.Interfaces)
	r.Interfaces, r.IPs, r.Routes = slices.Clip(r.Interfaces), slices.Clip(r.IPs), slices.Clip(r.Routes)
	for _, i := range made.Interfaces {
		if i == nil {
			return r, errNil
		}
		r.Interfaces = append(r.Interfaces, interfaceJSON(i, ver))
	}
	for _, ip := range made.IPs {
		if ip == nil {
			return r, errNil
		}
		if !valid(ip.Address) {
			return r, fmt.Errorf("result of the wiring: %v is not an address", &ip.Address)
		}
		if i := ip.Interface; i != nil && (*i < 0 || *i >= len(made.Interfaces)) {
			return r, fmt.Errorf("result of the wiring: address %v has interface %d of %d", &ip.Address, *i, len(made.Interfaces))
		}
		r.IPs = append(r.IPs, ipJSON(ip, first, ver))
	}
	for _, route := range made.Routes {
		if route == nil {
			return r, errNil
		}
		if !valid(route.Dst) {
			return r, fmt.Errorf("result of the wiring: route to %v, which is not a prefix", &route.Dst)
		}
		r.Routes = append(r.Routes, routeJSON(route, ver))
	}
	if len(r.DNS) == 0 && !made.DNS.IsEmpty() {
		dns, err := json.Marshal(made.DNS)
		if err != nil {
			return r, err
		}
		r.DNS = dns
	}
	return r, nil
}

// valid reports whether n has an address and a mask of the same family.
func valid(n net.IPNet) bool {
	ones, bits := n.Mask.Size()
	return ones+bits > 0 && (len(n.IP) == net.IPv6len || len(n.IP) == net.IPv4len) && (bits == 128) == (n.IP.To4() == nil)
}

var errNil = &Error{Code: CodeInternal, Msg: "result of the wiring: an entry of a list is nil"}

// versionOfMTU is the first version with the MTU of an interface and with attributes
// of routes.
const versionOfMTU = "1.1.0"

func interfaceJSON(i *types100.Interface, ver string) []byte {
	b := appendString([]byte(`{"name":`), i.Name)
	b = appendField(b, "mac", i.Mac)
	if supports(ver, versionOfMTU) {
		b = appendNumber(b, "mtu", i.Mtu)
	}
	b = appendField(b, "sandbox", i.Sandbox)
	if supports(ver, versionOfMTU) {
		b = appendField(b, "socketPath", i.SocketPath)
		b = appendField(b, "pciID", i.PciID)
	}
	return append(b, '}')
}

func ipJSON(ip *types100.IPConfig, first int, ver string) []byte {
	var b []byte
	if !supports(ver, "1.0.0") {
		b = appendField(b, "version", family(ip.Address.IP))
	}
	if ip.Interface != nil {
		b = strconv.AppendInt(append(b, `,"interface":`...), int64(first+*ip.Interface), 10)
	}
	b = appendField(b, "address", ip.Address.String())
	b = appendField(b, "gateway", ipText(ip.Gateway))
	b[0] = '{'
	return append(b, '}')
}

func routeJSON(r *types.Route, ver string) []byte {
	b := appendField(nil, "dst", r.Dst.String())
	b = appendField(b, "gw", ipText(r.GW))
	if supports(ver, versionOfMTU) {
		b = appendNumber(b, "mtu", r.MTU)
		b = appendNumber(b, "advmss", r.AdvMSS)
		b = appendNumber(b, "priority", r.Priority)
		for _, f := range []struct {
			key   string
			value *int
		}{{"table", r.Table}, {"scope", r.Scope}} {
			if f.value != nil {
				b = strconv.AppendInt(append(b, `,"`+f.key+`":`...), int64(*f.value), 10)
			}
		}
	}
	b[0] = '{'
	return append(b, '}')
}

// ipText returns the text of an address, empty for none.
func ipText(ip net.IP) string {
	if len(ip) == 0 {
		return ""
	}
	return ip.String()
}

func family(ip net.IP) string {
	if ip.To4() != nil {
		return "4"
	}
	return "6"
}

// resultOf returns the result of wiring the sandbox at netns.
func resultOf(w datapath.Wiring, netns string) *Result {
	r := &Result{CNIVersion: newestVersion}
	if w.HostLink != "" {
		r.Interfaces = append(r.Interfaces, &types100.Interface{Name: w.HostLink, Mac: w.HostMAC.String(), Mtu: w.MTU})
	}
	inside := len(r.Interfaces)
	r.Interfaces = append(r.Interfaces, &types100.Interface{Name: w.SandboxLink, Mac: w.SandboxMAC.String(), Mtu: w.MTU, Sandbox: netns})
	for i, addr := range w.Addrs {
		gateway := net.IP(w.Gateways[i].AsSlice())
		r.IPs = append(r.IPs, &types100.IPConfig{Interface: &inside, Address: ipNet(addr), Gateway: gateway})
		route := &types.Route{Dst: ipNet(netip.PrefixFrom(zero(addr.Addr()), 0)), GW: gateway}
		if w.Table != 0 && w.Table != netstate.TableMain { // a second interface of the sandbox
			route.Table = &w.Table
		}
		r.Routes = append(r.Routes, route)
	}
	return r
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// zero is the unspecified address in the family of a.
func zero(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// resultInterface and resultIP are the parts of a result's entries that find reads.
type resultInterface struct {
	Name    string `json:"name"`
	MAC     string `json:"mac"`
	Sandbox string `json:"sandbox"`
}

type resultIP struct {
	Interface *int         `json:"interface"`
	Address   netip.Prefix `json:"address"`
}

// attached is the part of a prevResult that describes the plugin's own attachment.
type attached struct {
	host, inside resultInterface
	addrs        []netip.Addr
}

// find returns the attachment with the host side hostLink, which is empty for a pod that has
// a whole ENI. found is false if the result does not contain it. find skips entries that do not parse, because they are
// from other plugins.
func (r result) find(hostLink, ifName, netns string) (a attached, found bool) {
	inside := -1
	found = hostLink == ""
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

// further returns the addresses of the interfaces of the sandbox other than ifName that the
// plugin has made: those with a host side whose name hostLink returns.
func (r result) further(hostLink func(ifName string) string, ifName, netns string) map[string][]netip.Addr {
	all := map[string][]netip.Addr{}
	for _, raw := range r.Interfaces {
		var l resultInterface
		if json.Unmarshal(raw, &l) != nil || l.Sandbox == "" || l.Name == ifName {
			continue
		}
		if a, found := r.find(hostLink(l.Name), l.Name, netns); found {
			all[l.Name] = a.addrs
		}
	}
	return all
}
