// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/datapath"
)

// wants is what a runtime asks for when it adds a pod.
type wants struct {
	addrs       []netip.Addr // at most one of each family
	mac         net.HardwareAddr
	annotations map[string]string
	groups      []string // security groups
}

// annotationsKey is the capability by which containerd gives the annotations of the
// pod to a plugin.
const annotationsKey = "io.kubernetes.cri.pod-annotations"

// groupsKey is the capability by which a runtime gives the security groups of a pod.
const groupsKey = "securityGroups"

// maxAnnotations bounds the keys and values of a pod's annotations. Kubernetes has the
// same limit (TotalAnnotationSizeLimitB).
const maxAnnotations = 256 << 10

// wants returns what the runtime asks for. For addresses and the MAC, runtimeConfig
// precedes args.cni, which precedes CNI_ARGS, as in the plugins of the CNI project. All
// of them must be valid.
//
// https://github.com/containernetworking/cni/blob/spec-v1.1.0/CONVENTIONS.md#dynamic-plugin-specific-fields-capabilities--runtime-configuration
func (c config) wants(a arguments) (w wants, err error) {
	w.groups = c.SecurityGroups
	if a.ip != "" {
		if w.addrs, err = parseAddrs("CNI_ARGS IP", strings.Split(a.ip, ",")); err != nil {
			return w, asEnvironment(err)
		}
	}
	if w.mac, err = parseMAC("CNI_ARGS MAC", a.mac); err != nil {
		return w, asEnvironment(err)
	}
	if len(c.args) > 0 {
		if err := w.setArgs(c.args); err != nil {
			return w, err
		}
	}
	if len(c.runtimeConfig) > 0 {
		return w, w.setCapabilities(c.runtimeConfig)
	}
	return w, nil
}

// asEnvironment returns an error about a variable of the environment.
func asEnvironment(err error) error {
	if e, ok := asError(err); ok {
		e.Code = CodeInvalidEnvironment
	}
	return err
}

// setArgs sets the values of the field args. Entries that the plugin does not know are
// ignored, because they may be for other plugins.
func (w *wants) setArgs(raw json.RawMessage) error {
	var args struct {
		CNI struct {
			IPs []string `json:"ips"`
			MAC string   `json:"mac"`
		} `json:"cni"`
	}
	if err := json.Unmarshal(raw, &args); err != nil {
		return unreadableField("args", `an object such as {"cni": {"ips": ["10.0.1.5"], "mac": "02:00:00:00:00:01"}}`, err)
	}
	return w.set("args.cni", args.CNI.IPs, args.CNI.MAC)
}

// setCapabilities sets the values of the field runtimeConfig. A runtime puts only those
// capabilities there that the configuration of the plugin lists, so one that the plugin
// does not have is a mistake.
func (w *wants) setCapabilities(raw json.RawMessage) error {
	const field = "runtimeConfig"
	var given map[string]json.RawMessage
	if err := json.Unmarshal(raw, &given); err != nil {
		return unreadableField(field, "an object", err)
	}
	var addrs []string
	var mac string
	for _, key := range slices.Sorted(maps.Keys(given)) {
		var into any
		want := "a list of texts"
		switch value := given[key]; {
		case isEmpty(value):
			continue
		case key == "ips":
			into = &addrs
		case key == "mac":
			into, want = &mac, "a text"
		case key == groupsKey:
			into = &w.groups
		case key == annotationsKey:
			into, want = &w.annotations, "an object of texts"
		default:
			return unsupportedCapability(key)
		}
		if err := json.Unmarshal(given[key], into); err != nil {
			return unreadableField(field+"."+key, want, err)
		}
	}
	if err := validateGroups(field+"."+groupsKey, w.groups); err != nil {
		return err
	}
	size := 0
	for key, value := range w.annotations {
		size += len(key) + len(value)
	}
	if size > maxAnnotations {
		return &Error{
			Code: CodeInvalidConfig, Msg: "invalid " + field + "." + annotationsKey,
			Details: fmt.Sprintf("the annotations have %d bytes, want at most %d", size, maxAnnotations),
		}
	}
	return w.set(field, addrs, mac)
}

// unsupportedCapability returns the error for a capability that the plugin does not have.
func unsupportedCapability(key string) *Error {
	by := map[string]string{"portMappings": "portmap", "bandwidth": "bandwidth"}[key]
	e := &Error{
		Code: CodeUnsupportedField, Msg: "runtimeConfig." + shortenText(key) + " is not supported",
		Details: "want only ips, mac, " + groupsKey + " and " + annotationsKey + "; remove it from the capabilities of this plugin",
	}
	if by != "" {
		e.Details = "the chained plugin " + by + " does this; give it the capability, and remove it from those of this plugin"
	}
	return e
}

func unreadableField(field, want string, err error) *Error {
	return &Error{Code: CodeDecodingFailure, Msg: field + " cannot be read", Details: "want " + want + ": " + err.Error()}
}

// set replaces addresses and MAC by those of a field, if it has any.
func (w *wants) set(field string, ips []string, mac string) error {
	if len(ips) > 0 {
		addrs, err := parseAddrs(field+".ips", ips)
		if err != nil {
			return err
		}
		w.addrs = addrs
	}
	parsed, err := parseMAC(field+".mac", mac)
	if parsed != nil {
		w.mac = parsed
	}
	return err
}

// parseAddrs parses addresses, each with or without the length of a prefix. The length
// has no meaning here, because the address of a pod has its full length.
func parseAddrs(field string, list []string) (addrs []netip.Addr, err error) {
	for _, s := range list {
		a, err := netip.ParseAddr(s)
		if p, perr := netip.ParsePrefix(s); perr == nil {
			a, err = p.Addr(), nil
		}
		if a = a.Unmap(); err != nil || !a.IsGlobalUnicast() || a.Zone() != "" {
			return nil, &Error{Code: CodeInvalidConfig, Msg: "invalid " + field + " " + shorten(s), Details: "want a unicast address such as 10.0.1.5 or 2001:db8::5"}
		}
		if slices.ContainsFunc(addrs, func(o netip.Addr) bool { return o.Is4() == a.Is4() }) {
			return nil, &Error{
				Code: CodeInvalidConfig, Msg: "invalid " + field + " " + shorten(strings.Join(list, ",")), Details: "want at most one address of each family",
			}
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

// parseMAC parses a MAC. It is nil if s is empty.
func parseMAC(field, s string) (net.HardwareAddr, error) {
	if s == "" {
		return nil, nil
	}
	mac, err := net.ParseMAC(s)
	if err == nil {
		err = datapath.ValidateMAC(mac)
	} else {
		err = errors.New("want six bytes in hexadecimal such as 02:00:00:00:00:01")
	}
	if err != nil {
		return nil, &Error{Code: CodeInvalidConfig, Msg: "invalid " + field + " " + shorten(s), Details: err.Error()}
	}
	return mac, nil
}

// macText returns the MAC as text, empty if there is none.
func (w wants) macText() string { return w.mac.String() }

// checkAddrs returns an error if an address is missing in the answer of the agent, which
// may be of a release that ignores AddRequest.Addrs, or in that of an own Allocator.
func (w wants) checkAddrs(given AddResponse) error {
	for _, a := range w.addrs {
		if have := addrsOf(given); !slices.Contains(have, a) {
			return &Error{
				Code: CodeAgent, Msg: fmt.Sprintf("%s: the pod did not get the address %v that the runtime asks for", ReasonProtocol, a),
				Details: fmt.Sprintf("it got %v; an agent of an earlier release ignores the request", have),
			}
		}
	}
	return nil
}

// checkMAC returns an error if the result of a Wiring does not have the MAC.
func (w wants) checkMAC(made *Result, netns, ifName string) error {
	if w.mac == nil {
		return nil
	}
	got := ""
	if made != nil {
		for _, i := range made.Interfaces {
			if i != nil && i.Sandbox == netns && i.Name == ifName {
				got = i.Mac
			}
		}
	}
	if mac, err := net.ParseMAC(got); err == nil && mac.String() == w.mac.String() {
		return nil
	}
	return &Error{
		Code: CodeUnsupportedField, Msg: fmt.Sprintf("%s did not get the MAC %s that the runtime asks for", ifName, w.mac),
		Details: fmt.Sprintf("the result of the wiring has %q", got),
	}
}
