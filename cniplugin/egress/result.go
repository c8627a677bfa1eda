// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// errUnchained is the error for a plugin without a predecessor.
var errUnchained = types.NewError(types.ErrInvalidNetworkConfig, "no prevResult", "the plugin needs an earlier one in the list, which gives the pod its addresses")

// result is a prevResult. Its fields are kept as they are, also those that the CNI library
// does not know.
type result map[string]json.RawMessage

// parseResult parses a prevResult of the given version.
func parseResult(raw json.RawMessage, ver string) (result, error) {
	var r result
	if err := json.Unmarshal(raw, &r); len(raw) > 0 && err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult cannot be read", err.Error())
	}
	if r == nil {
		return nil, errUnchained
	}
	r["cniVersion"], _ = json.Marshal(ver)
	return r, nil
}

// addresses returns the addresses in r, which has the given version.
func (r result) addresses(ver string) ([]netip.Addr, error) {
	raw, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	var converted *types100.Result
	lib, err := version.NewResult(ver, raw)
	if err == nil {
		converted, err = types100.NewResultFromResult(lib)
	}
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult cannot be read", err.Error())
	}
	var all []netip.Addr
	for _, ip := range converted.IPs {
		if ip == nil {
			continue
		}
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			all = append(all, a.Unmap())
		}
	}
	return all, nil
}

// supports reports whether ver is least or newer.
func supports(ver, least string) bool {
	ok, err := version.GreaterThanOrEqualTo(ver, least)
	return err == nil && ok
}

// hasInterfaces reports whether results of the version have interfaces.
func hasInterfaces(ver string) bool { return supports(ver, "0.3.0") }

// add adds interfaces to r, which has the given version.
func (r result) add(ver string, interfaces ...*types100.Interface) error {
	if !hasInterfaces(ver) {
		return nil
	}
	list, err := r.interfaces()
	if err != nil {
		return err
	}
	for _, i := range interfaces {
		made := *i
		if !supports(ver, "1.1.0") {
			made.Mtu = 0
		}
		b, err := json.Marshal(made)
		if err != nil {
			return err
		}
		list = append(list, b)
	}
	r["interfaces"], err = json.Marshal(list)
	return err
}

func (r result) interfaces() (list []json.RawMessage, err error) {
	if raw := r["interfaces"]; len(raw) > 0 {
		if err := json.Unmarshal(raw, &list); err != nil {
			return nil, types.NewError(types.ErrDecodingFailure, "prevResult cannot be read", err.Error())
		}
	}
	return list, nil
}

// missing returns those of the interfaces that are not in r, as texts.
func (r result) missing(interfaces ...*types100.Interface) (faults []string) {
	list, err := r.interfaces()
	if err != nil {
		return []string{err.Error()}
	}
	for _, want := range interfaces {
		found := false
		for _, raw := range list {
			var have types100.Interface
			err := json.Unmarshal(raw, &have)
			found = found || err == nil && have.Name == want.Name && have.Sandbox == want.Sandbox && strings.EqualFold(have.Mac, want.Mac)
		}
		if !found {
			faults = append(faults, fmt.Sprintf("prevResult has no interface %s with MAC %s", want.Name, want.Mac))
		}
	}
	return faults
}
