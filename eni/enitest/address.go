// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Address is an Elastic IP address.
type Address struct {
	// ID is the ID of the allocation.
	ID   string
	Addr netip.Addr
	// Association, ENI and Private are the association with a private address of an
	// ENI. They are empty if there is none.
	Association string            `json:",omitzero"`
	ENI         string            `json:",omitzero"`
	Private     netip.Addr        `json:",omitzero"`
	Tags        map[string]string `json:",omitzero"`
}

func (a *Address) clone() *Address {
	d := *a
	d.Tags = maps.Clone(a.Tags)
	return &d
}

var kindAddress = kind{"eipalloc-", "allocation ID", "InvalidAllocationID.NotFound", ""}

// Addresses returns all Elastic IP addresses, by ID.
func (c *Cloud) Addresses() []Address {
	t := c.begin()
	defer t.end()
	var all []Address
	for _, a := range c.state.addresses.all(t.now) {
		all = append(all, *t.current(a).clone())
	}
	return all
}

// current returns a without its association if the ENI, as the transaction shows it, does
// not have the private address any longer.
func (t *tx) current(a *Address) *Address {
	if a.ENI == "" {
		return a
	}
	if e := t.eniAt(a.ENI, t.view); e != nil && slices.Contains(e.v4(), a.Private) {
		return a
	}
	return &Address{ID: a.ID, Addr: a.Addr, Tags: a.Tags}
}

// association returns the public address of a private address of an ENI.
func (t *tx) association(e *ENI, private netip.Addr) *wireAssociation {
	for _, a := range t.c.state.addresses.all(t.view) {
		if a.ENI == e.ID && a.Private == private {
			return &wireAssociation{a.Addr.String(), t.publicDNS(a.Addr, e.VPC), t.c.cfg.Account, a.ID, a.Association}
		}
	}
	if private == e.Addr && e.Public.IsValid() {
		return &wireAssociation{PublicIP: e.Public.String(), PublicDNSName: t.publicDNS(e.Public, e.VPC), IPOwnerID: "amazon"}
	}
	return nil
}

// publics returns the public addresses of the ENI.
func (t *tx) publics(e *ENI) []string {
	var all []string
	for _, private := range e.v4() {
		if a := t.association(e, private); a != nil {
			all = append(all, a.PublicIP)
		}
	}
	return all
}

type wireAddress struct {
	PublicIP    string        `xml:"publicIp"`
	ID          string        `xml:"allocationId"`
	Domain      string        `xml:"domain"`
	Association string        `xml:"associationId,omitempty"`
	Instance    string        `xml:"instanceId,omitempty"`
	ENI         string        `xml:"networkInterfaceId,omitempty"`
	ENIOwner    string        `xml:"networkInterfaceOwnerId,omitempty"`
	Private     string        `xml:"privateIpAddress,omitempty"`
	Pool        string        `xml:"publicIpv4Pool"`
	Border      string        `xml:"networkBorderGroup"`
	Tags        list[wireTag] `xml:"tagSet"`
}

func (t *tx) wireAddress(a *Address) wireAddress {
	a = t.current(a)
	w := wireAddress{
		PublicIP: a.Addr.String(), ID: a.ID, Domain: "vpc", Association: a.Association, ENI: a.ENI, Private: addrText(a.Private),
		Pool: "amazon", Border: t.c.cfg.Region, Tags: wireTags(a.Tags),
	}
	if e := t.eniAt(a.ENI, t.view); e != nil {
		w.ENIOwner = t.c.cfg.Account
		if e.Attachment != nil {
			w.Instance = e.Attachment.Instance
		}
	}
	return w
}

type describeAddressesIn struct {
	Filters   []filterParam `ec2:"Filter"`
	IDs       []string      `ec2:"AllocationId"`
	PublicIPs []string      `ec2:"PublicIp"`
}

type describeAddressesOut struct {
	Addresses list[wireAddress] `xml:"addressesSet"`
}

func (t *tx) describeAddresses(in describeAddressesIn) (describeAddressesOut, error) {
	one := func(f func(wireAddress) string) func(*Address) []string {
		return func(a *Address) []string { return nonEmpty(f(t.wireAddress(a))) }
	}
	r := resource[*Address]{
		kind: kindAddress, idsParam: "allocationIdSet",
		id:   func(a *Address) string { return a.ID },
		tags: func(a *Address) map[string]string { return a.Tags },
		filters: map[string]func(*Address) []string{
			"allocation-id":              one(func(w wireAddress) string { return w.ID }),
			"association-id":             one(func(w wireAddress) string { return w.Association }),
			"domain":                     one(func(w wireAddress) string { return w.Domain }),
			"instance-id":                one(func(w wireAddress) string { return w.Instance }),
			"network-border-group":       one(func(w wireAddress) string { return w.Border }),
			"network-interface-id":       one(func(w wireAddress) string { return w.ENI }),
			"network-interface-owner-id": one(func(w wireAddress) string { return w.ENIOwner }),
			"private-ip-address":         one(func(w wireAddress) string { return w.Private }),
			"public-ip":                  one(func(w wireAddress) string { return w.PublicIP }),
		},
	}
	if len(in.PublicIPs) > 0 {
		for _, ip := range in.PublicIPs {
			if !slices.ContainsFunc(t.c.state.addresses.all(t.view), func(a *Address) bool { return a.Addr.String() == ip }) {
				return describeAddressesOut{}, errorf("InvalidAddress.NotFound", "Address '%s' not found.", ip)
			}
		}
		in.Filters = append(in.Filters, filterParam{"public-ip", in.PublicIPs})
	}
	found, _, err := r.find(t.c.state.addresses.all(t.view), in.IDs, query{Filters: in.Filters})
	if err != nil {
		return describeAddressesOut{}, err
	}
	return describeAddressesOut{listOf(found, t.wireAddress)}, nil
}

type allocateIn struct {
	Domain string         `ec2:"Domain"`
	Addr   netip.Addr     `ec2:"Address"`
	Border ignored        `ec2:"NetworkBorderGroup"`
	Pool   ignored        `ec2:"PublicIpv4Pool"`
	Tags   []tagSpecParam `ec2:"TagSpecification"`
}

type allocateOut struct {
	PublicIP string `xml:"publicIp"`
	Domain   string `xml:"domain"`
	ID       string `xml:"allocationId"`
	Pool     string `xml:"publicIpv4Pool"`
	Border   string `xml:"networkBorderGroup"`
}

func (t *tx) allocateAddress(in allocateIn) (allocateOut, error) {
	if in.Domain != "" && in.Domain != "vpc" && in.Domain != "standard" {
		return allocateOut{}, invalidValue("Value (%s) for parameter domain is invalid. Expected standard or vpc.", in.Domain)
	}
	tags, err := tagsFor("elastic-ip", in.Tags)
	if err != nil {
		return allocateOut{}, err
	}
	a := &Address{ID: t.newID(kindAddress.prefix), Addr: in.Addr, Tags: tags}
	if !a.Addr.IsValid() {
		a.Addr = t.newPublic()
	}
	t.c.state.addresses.set(t, a.ID, a)
	return allocateOut{a.Addr.String(), "vpc", a.ID, "amazon", t.c.cfg.Region}, nil
}

type addressIn struct {
	ID       string  `ec2:"AllocationId"`
	PublicIP string  `ec2:"PublicIp"`
	Border   ignored `ec2:"NetworkBorderGroup"`
}

// address returns the address that a call names by the ID of its allocation or by
// itself.
func (t *tx) address(id, public string) (*Address, error) {
	for _, a := range t.c.state.addresses.all(t.now) {
		named := id != "" && a.ID == id || id == "" && public != "" && a.Addr.String() == public
		if named && t.c.state.addresses.found(t, a.ID) != nil {
			return t.current(a).clone(), nil
		}
	}
	switch {
	case id != "":
		return nil, kindAddress.unknown(id)
	case public != "":
		return nil, errorf("InvalidAddress.NotFound", "Address '%s' not found.", public)
	}
	return nil, missing("allocationId")
}

func (t *tx) releaseAddress(in addressIn) (wireReturn, error) {
	a, err := t.address(in.ID, in.PublicIP)
	if err != nil {
		return wireReturn{}, err
	}
	if a.ENI != "" {
		return wireReturn{}, errorf("InvalidIPAddress.InUse", "Address %s is in use.", a.Addr)
	}
	t.c.state.addresses.set(t, a.ID, nil)
	return wireReturn{true}, nil
}

type associateAddressIn struct {
	ID       string     `ec2:"AllocationId"`
	PublicIP string     `ec2:"PublicIp"`
	Instance string     `ec2:"InstanceId"`
	ENI      string     `ec2:"NetworkInterfaceId"`
	Private  netip.Addr `ec2:"PrivateIpAddress"`
	Again    *bool      `ec2:"AllowReassociation"`
}

type associateAddressOut struct {
	Return bool   `xml:"return"`
	ID     string `xml:"associationId"`
}

// associateAddress associates an Elastic IP address with a private address of an
// ENI. The ENI loses the public address that it got at its creation.
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AssociateAddress.html
func (t *tx) associateAddress(in associateAddressIn) (associateAddressOut, error) {
	none := associateAddressOut{}
	a, err := t.address(in.ID, in.PublicIP)
	if err != nil {
		return none, err
	}
	e, err := t.addressTarget(in)
	if err != nil {
		return none, err
	}
	private := in.Private
	if !private.IsValid() {
		private = e.Addr
	}
	again := in.Again == nil || *in.Again
	switch {
	case !slices.Contains(e.v4(), private):
		return none, invalidValue("%s does not have the private IP address %s", e.ID, private)
	case a.ENI != "" && !again:
		return none, errorf("Resource.AlreadyAssociated", "resource %s is already associated with associate-id %s", a.ID, a.Association)
	}
	for _, other := range t.c.state.addresses.all(t.now) {
		if other.ID == a.ID || other.ENI != e.ID || other.Private != private {
			continue
		}
		if !again {
			return none, errorf("Resource.AlreadyAssociated", "resource %s is already associated with associate-id %s", e.ID, other.Association)
		}
		t.disassociate(other)
	}
	if a.ENI != "" {
		t.disassociate(a)
	}
	a.Association, a.ENI, a.Private = t.newID("eipassoc-"), e.ID, private
	t.c.state.addresses.set(t, a.ID, a)
	if private == e.Addr {
		e = e.clone()
		e.Public = a.Addr
		t.put(e)
	}
	return associateAddressOut{true, a.Association}, nil
}

// addressTarget returns the ENI that a call names itself or by its instance.
func (t *tx) addressTarget(in associateAddressIn) (*ENI, error) {
	switch {
	case in.ENI != "":
		return t.findENI(in.ENI)
	case in.Instance == "":
		return nil, missing("instanceId or networkInterfaceId")
	case t.c.state.instances.found(t, in.Instance) == nil:
		return nil, kindInstance.unknown(in.Instance)
	}
	enis := t.attached(in.Instance, t.now)
	if len(enis) != 1 {
		return nil, errorf("InvalidInstanceID", "There are multiple interfaces attached to instance '%s'. "+
			"Please specify an interface ID for the operation instead.", in.Instance)
	}
	return enis[0], nil
}

// disassociate ends the association of an address.
func (t *tx) disassociate(a *Address) {
	if e := t.eni(a.ENI); e != nil && e.Public == a.Addr {
		e = e.clone()
		e.Public = netip.Addr{}
		t.put(e)
	}
	t.c.state.addresses.set(t, a.ID, &Address{ID: a.ID, Addr: a.Addr, Tags: a.Tags})
}

type disassociateAddressIn struct {
	ID       string `ec2:"AssociationId"`
	PublicIP string `ec2:"PublicIp"`
}

func (t *tx) disassociateAddress(in disassociateAddressIn) (wireReturn, error) {
	for _, a := range t.c.state.addresses.all(t.now) {
		a = t.current(a)
		if a.ENI != "" && (a.Association == in.ID || in.ID == "" && a.Addr.String() == in.PublicIP) {
			t.disassociate(a)
			return wireReturn{true}, nil
		}
	}
	if in.ID == "" && strings.TrimSpace(in.PublicIP) == "" {
		return wireReturn{}, missing("associationId")
	}
	return wireReturn{}, errorf("InvalidAssociationID.NotFound", "The association ID '%s' does not exist", in.ID)
}
