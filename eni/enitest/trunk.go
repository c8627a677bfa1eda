// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"slices"
	"strings"
)

type associateIn struct {
	Branch      string `ec2:"BranchInterfaceId"`
	Trunk       string `ec2:"TrunkInterfaceId"`
	VLANID      *int   `ec2:"VlanId"`
	GREKey      *int   `ec2:"GreKey"`
	ClientToken string `ec2:"ClientToken"`
}

type wireTrunkAssociation struct {
	ID       string        `xml:"associationId"`
	Branch   string        `xml:"branchInterfaceId"`
	Trunk    string        `xml:"trunkInterfaceId"`
	Protocol string        `xml:"interfaceProtocol"`
	VLANID   int           `xml:"vlanId"`
	Tags     list[wireTag] `xml:"tagSet"`
}

type associateOut struct {
	Association wireTrunkAssociation `xml:"interfaceAssociation"`
	ClientToken string               `xml:"clientToken,omitempty"`
}

// The VLAN IDs of branch ENIs.
const (
	minVLANID = 1
	maxVLANID = 4094
)

func (t *tx) associateTrunkInterface(in associateIn) (associateOut, error) {
	var none associateOut
	branch, err := t.mutableENI(in.Branch)
	if err != nil {
		return none, err
	}
	trunk, err := t.mutableENI(in.Trunk)
	if err != nil {
		return none, err
	}
	if in.GREKey != nil {
		return none, errorf("UnsupportedOperation", "GRE is not supported for trunk network interfaces")
	}
	if in.VLANID == nil {
		return none, missing("vlanId")
	}
	if err := t.checkAssociate(branch, trunk, *in.VLANID); err != nil {
		return none, err
	}
	branch = branch.clone()
	branch.Type = "branch"
	branch.Trunk = &TrunkAssociation{ID: t.newID("trunk-assoc-"), Trunk: trunk.ID, VLANID: *in.VLANID}
	t.put(branch)
	return associateOut{wireTrunk(branch), in.ClientToken}, nil
}

func (t *tx) checkAssociate(branch, trunk *ENI, vlan int) error {
	switch {
	case trunk.Type != "trunk":
		return invalidValue("The network interface '%s' is not a trunk network interface", trunk.ID)
	case trunk.Attachment == nil:
		return errorf("IncorrectState", "The trunk network interface '%s' is not attached to an instance", trunk.ID)
	case branch.Type != "interface" && branch.Type != "branch":
		return invalidValue("The network interface '%s' cannot be a branch network interface", branch.ID)
	case branch.Attachment != nil, branch.Trunk != nil:
		return errorf("InvalidNetworkInterface.InUse", "Interface: [%s] in use.", branch.ID)
	case branch.Zone != trunk.Zone:
		return errorf("InvalidParameterCombination", "The branch and the trunk must be in the same availability zone")
	case vlan < minVLANID || vlan > maxVLANID:
		return invalidValue("Value (%d) for parameter vlanId is invalid. Expecting a value between %d and %d.",
			vlan, minVLANID, maxVLANID)
	}
	branches := t.branches(trunk.ID)
	for _, b := range branches {
		if b.Trunk.VLANID == vlan {
			return invalidValue("VLAN ID %d is already in use on trunk network interface '%s'", vlan, trunk.ID)
		}
	}
	if it := t.limitsFor(trunk); len(branches) >= it.Branches {
		return errorf("BranchInterfaceLimitExceeded", "The limit of %d branch network interfaces of %s is reached",
			it.Branches, it.Name)
	}
	return nil
}

// branches returns the ENIs associated with a trunk, sorted by ID.
func (t *tx) branches(trunk string) []*ENI {
	return slices.DeleteFunc(t.allENIs(t.now), func(e *ENI) bool { return e.Trunk == nil || e.Trunk.Trunk != trunk })
}

func wireTrunk(e *ENI) wireTrunkAssociation {
	return wireTrunkAssociation{ID: e.Trunk.ID, Branch: e.ID, Trunk: e.Trunk.Trunk, Protocol: "VLAN", VLANID: e.Trunk.VLANID}
}

type disassociateIn struct {
	ID          string `ec2:"AssociationId"`
	ClientToken string `ec2:"ClientToken"`
}

type disassociateOut struct {
	Return      bool   `xml:"return"`
	ClientToken string `xml:"clientToken,omitempty"`
}

// kindTrunk is the kind of a trunk interface association.
var kindTrunk = kind{"trunk-assoc-", "trunk interface association ID", "InvalidAssociationID.NotFound", ""}

func (t *tx) disassociateTrunkInterface(in disassociateIn) (disassociateOut, error) {
	if in.ID == "" {
		return disassociateOut{}, missing("associationId")
	}
	for _, e := range t.allENIs(t.now) {
		if e.Trunk != nil && e.Trunk.ID == in.ID {
			e = e.clone()
			e.Trunk = nil
			t.put(e)
			return disassociateOut{true, in.ClientToken}, nil
		}
	}
	return disassociateOut{}, kindTrunk.unknown(in.ID)
}

type describeTrunksIn struct {
	query
	IDs []string `ec2:"AssociationId"`
}

type describeTrunksOut struct {
	Associations list[wireTrunkAssociation] `xml:"interfaceAssociationSet"`
	Next         string                     `xml:"nextToken,omitempty"`
}

func (t *tx) describeTrunkInterfaceAssociations(in describeTrunksIn) (describeTrunksOut, error) {
	var all []wireTrunkAssociation
	for _, e := range t.allENIs(t.view) {
		if e.Trunk != nil {
			all = append(all, wireTrunk(e))
		}
	}
	slices.SortFunc(all, func(a, b wireTrunkAssociation) int { return strings.Compare(a.ID, b.ID) })
	r := resource[wireTrunkAssociation]{
		kind: kindTrunk, idsParam: "associationIds",
		id: func(a wireTrunkAssociation) string { return a.ID },
		filters: map[string]func(wireTrunkAssociation) []string{
			"association-id":      func(a wireTrunkAssociation) []string { return []string{a.ID} },
			"branch-interface-id": func(a wireTrunkAssociation) []string { return []string{a.Branch} },
			"gre-key":             none[wireTrunkAssociation],
			"interface-protocol":  func(a wireTrunkAssociation) []string { return []string{a.Protocol} },
			"trunk-interface-id":  func(a wireTrunkAssociation) []string { return []string{a.Trunk} },
		},
	}
	page, next, err := r.find(all, in.IDs, in.query)
	if err != nil {
		return describeTrunksOut{}, err
	}
	return describeTrunksOut{list[wireTrunkAssociation]{page}, next}, nil
}
