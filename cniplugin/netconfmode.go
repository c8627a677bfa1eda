// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/datapath"
)

// The values of NetConf.Mode.
const (
	// ModeENI gives each pod an ENI of its own.
	ModeENI = "eni"
	// ModeIPVLAN gives each pod an ipvlan link on an ENI of the node.
	ModeIPVLAN = "ipvlan"
	// ModeBridge gives each pod a port of the node's bridge and an address of the node's
	// prefix.
	ModeBridge = "bridge"
)

// maxGroups is how many security groups an ENI can have if its account has the highest
// quota: https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html.
const maxGroups = 16

// validateMode checks the fields that say how pods are joined to the VPC.
func (c NetConf) validateMode() error {
	invalid := func(key, value, want string) error {
		return &Error{Code: CodeInvalidConfig, Msg: "invalid " + key + " " + shorten(value), Details: want}
	}
	switch c.Mode {
	case "", ModeENI, ModeIPVLAN, ModeBridge:
	default:
		return invalid("mode", c.Mode, "want eni, ipvlan or bridge, or no mode")
	}
	switch datapath.Enforcement(c.Enforcement) {
	case "", datapath.Strict, datapath.Standard:
	default:
		return invalid("podSGEnforcingMode", c.Enforcement, "want strict or standard")
	}
	if len(c.SecurityGroups) > 0 && (c.Mode == ModeIPVLAN || c.Mode == ModeBridge) {
		return invalid("securityGroups", strings.Join(c.SecurityGroups, ","), "want none with mode "+c.Mode+", whose pods share an ENI")
	}
	return validateGroups("securityGroups", c.SecurityGroups)
}

// validateGroups checks a list of IDs of security groups.
func validateGroups(field string, groups []string) error {
	invalid := func(value, want string) error {
		return &Error{Code: CodeInvalidConfig, Msg: "invalid " + field + " " + shorten(value), Details: want}
	}
	if len(groups) > maxGroups {
		return invalid(strings.Join(groups, ","), fmt.Sprintf("the list has %d groups, want at most %d", len(groups), maxGroups))
	}
	for i, g := range groups {
		switch id, ok := strings.CutPrefix(g, "sg-"); {
		case !ok || id == "" || strings.Trim(id, "0123456789abcdefghijklmnopqrstuvwxyz") != "":
			return invalid(g, "want the ID of a security group such as sg-0123456789abcdef0")
		case slices.Contains(groups[:i], g):
			return invalid(g, "the group is there twice")
		}
	}
	return nil
}
