// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
)

// NetworkACL is a network ACL. The rules that deny what no entry allows are not in
// Entries.
type NetworkACL struct {
	ID, VPC string
	// Default means that new subnets of the VPC are associated with the ACL.
	Default      bool              `json:",omitzero"`
	Entries      []ACLEntry        `json:",omitzero"`
	Associations []ACLAssociation  `json:",omitzero"`
	Tags         map[string]string `json:",omitzero"`
}

// ACLAssociation associates a subnet with a network ACL.
type ACLAssociation struct{ ID, Subnet string }

// ACLEntry is an entry of a network ACL.
type ACLEntry struct {
	Number int
	Egress bool `json:",omitzero"`
	// Protocol is a protocol number, or "-1" for all.
	Protocol string
	Allow    bool `json:",omitzero"`
	Prefix   netip.Prefix
	// From and To are the ports of TCP and UDP. ICMPType and ICMPCode are -1 for all.
	From, To           int `json:",omitzero"`
	ICMPType, ICMPCode int `json:",omitzero"`
}

func (a *NetworkACL) clone() *NetworkACL {
	d := *a
	d.Entries, d.Associations, d.Tags = slices.Clone(a.Entries), slices.Clone(a.Associations), maps.Clone(a.Tags)
	return &d
}

var (
	kindACL      = kind{"acl-", "networkAcl ID", "InvalidNetworkAclID.NotFound", "InvalidNetworkAclId.Malformed"}
	kindACLAssoc = kind{"aclassoc-", "association ID", "InvalidAssociationID.NotFound", ""}
)

// NetworkACLs returns all network ACLs, by ID.
func (c *Cloud) NetworkACLs() []NetworkACL {
	t := c.begin()
	defer t.end()
	var all []NetworkACL
	for _, a := range c.state.acls.all(t.now) {
		all = append(all, *a.clone())
	}
	return all
}

// allowAllIPv6 returns the entries for IPv6 of the default ACL of a VPC that has an IPv6
// block.
// https://docs.aws.amazon.com/vpc/latest/userguide/default-network-acl.html
func allowAllIPv6() []ACLEntry {
	all := netip.MustParsePrefix("::/0")
	return []ACLEntry{
		{Number: 101, Egress: true, Protocol: "-1", Allow: true, Prefix: all},
		{Number: 101, Protocol: "-1", Allow: true, Prefix: all},
	}
}

// addDefaultACL adds the default network ACL of a new VPC, which allows everything.
// Its ID derives from that of the VPC.
func (t *tx) addDefaultACL(v *VPC) {
	all := netip.MustParsePrefix("0.0.0.0/0")
	a := &NetworkACL{ID: derivedID(kindACL.prefix, v.ID), VPC: v.ID, Default: true, Entries: []ACLEntry{
		{Number: 100, Egress: true, Protocol: "-1", Allow: true, Prefix: all},
		{Number: 100, Protocol: "-1", Allow: true, Prefix: all},
	}}
	if len(v.IPv6) > 0 {
		a.Entries = append(a.Entries, allowAllIPv6()...)
	}
	t.c.state.acls.set(t, a.ID, a)
}

// associateDefaultACL associates a new subnet with the default ACL of its VPC.
func (t *tx) associateDefaultACL(s *Subnet) {
	if a := t.c.state.acls.at(derivedID(kindACL.prefix, s.VPC), t.now); a != nil {
		a = a.clone()
		a.Associations = append(a.Associations, ACLAssociation{derivedID(kindACLAssoc.prefix, s.ID), s.ID})
		t.c.state.acls.set(t, a.ID, a)
	}
}

type wirePortRange struct {
	From int `xml:"from"`
	To   int `xml:"to"`
}

type wireICMP struct {
	Code int `xml:"code"`
	Type int `xml:"type"`
}

type wireACLEntry struct {
	Number   int            `xml:"ruleNumber"`
	Protocol string         `xml:"protocol"`
	Action   string         `xml:"ruleAction"`
	Egress   bool           `xml:"egress"`
	IPv4     string         `xml:"cidrBlock,omitempty"`
	IPv6     string         `xml:"ipv6CidrBlock,omitempty"`
	Ports    *wirePortRange `xml:"portRange"`
	ICMP     *wireICMP      `xml:"icmpTypeCode"`
}

type wireACLAssociation struct {
	ID     string `xml:"networkAclAssociationId"`
	ACL    string `xml:"networkAclId"`
	Subnet string `xml:"subnetId"`
}

type wireACL struct {
	ID           string                   `xml:"networkAclId"`
	VPC          string                   `xml:"vpcId"`
	Owner        string                   `xml:"ownerId"`
	Default      bool                     `xml:"default"`
	Entries      list[wireACLEntry]       `xml:"entrySet"`
	Associations list[wireACLAssociation] `xml:"associationSet"`
	Tags         list[wireTag]            `xml:"tagSet"`
}

// lastEntry is the number of the entry that denies everything else. The entry for IPv6,
// of an ACL of a VPC that has an IPv6 block, follows it.
const lastEntry = 32767

func (t *tx) wireACL(a *NetworkACL) wireACL {
	w := wireACL{
		ID: a.ID, VPC: a.VPC, Owner: t.c.cfg.Account, Default: a.Default, Tags: wireTags(a.Tags),
		Associations: listOf(a.Associations, func(as ACLAssociation) wireACLAssociation {
			return wireACLAssociation{as.ID, a.ID, as.Subnet}
		}),
	}
	deny := ACLEntry{Number: lastEntry, Protocol: "-1", Prefix: netip.MustParsePrefix("0.0.0.0/0")}
	for _, egress := range []bool{true, false} {
		deny.Egress = egress
		entries := slices.DeleteFunc(slices.Clone(a.Entries), func(e ACLEntry) bool { return e.Egress != egress })
		slices.SortFunc(entries, func(a, b ACLEntry) int { return cmp.Compare(a.Number, b.Number) })
		entries = append(entries, deny)
		if len(t.c.state.vpcs.shown(t, a.VPC).IPv6) > 0 {
			deny6 := deny
			deny6.Number, deny6.Prefix = lastEntry+1, netip.MustParsePrefix("::/0")
			entries = append(entries, deny6)
		}
		for _, e := range entries {
			w.Entries.Items = append(w.Entries.Items, e.wire())
		}
	}
	return w
}

func (e ACLEntry) wire() wireACLEntry {
	w := wireACLEntry{Number: e.Number, Protocol: e.Protocol, Action: "deny", Egress: e.Egress}
	if e.Allow {
		w.Action = "allow"
	}
	if e.Prefix.Addr().Is4() {
		w.IPv4 = e.Prefix.String()
	} else {
		w.IPv6 = e.Prefix.String()
	}
	switch e.Protocol {
	case "6", "17":
		w.Ports = &wirePortRange{e.From, e.To}
	case "1", "58":
		w.ICMP = &wireICMP{e.ICMPCode, e.ICMPType}
	}
	return w
}

type describeACLsIn struct {
	query
	IDs []string `ec2:"NetworkAclId"`
}

type describeACLsOut struct {
	ACLs list[wireACL] `xml:"networkAclSet"`
	Next string        `xml:"nextToken,omitempty"`
}

func (t *tx) describeNetworkACLs(in describeACLsIn) (describeACLsOut, error) {
	associations := func(f func(wireACLAssociation) string) func(*NetworkACL) []string {
		return func(a *NetworkACL) []string {
			var all []string
			for _, w := range t.wireACL(a).Associations.Items {
				all = append(all, f(w))
			}
			return all
		}
	}
	entries := func(f func(wireACLEntry) string) func(*NetworkACL) []string {
		return func(a *NetworkACL) []string {
			var all []string
			for _, w := range t.wireACL(a).Entries.Items {
				if text := f(w); text != "" {
					all = append(all, text)
				}
			}
			return all
		}
	}
	ports := func(f func(*wirePortRange) int) func(*NetworkACL) []string {
		return entries(func(w wireACLEntry) string {
			if w.Ports == nil {
				return ""
			}
			return strconv.Itoa(f(w.Ports))
		})
	}
	icmp := func(f func(*wireICMP) int) func(*NetworkACL) []string {
		return entries(func(w wireACLEntry) string {
			if w.ICMP == nil {
				return ""
			}
			return strconv.Itoa(f(w.ICMP))
		})
	}
	r := resource[*NetworkACL]{
		kind: kindACL, idsParam: "networkAclIdSet",
		id:   func(a *NetworkACL) string { return a.ID },
		tags: func(a *NetworkACL) map[string]string { return a.Tags },
		filters: map[string]func(*NetworkACL) []string{
			"association.association-id": associations(func(w wireACLAssociation) string { return w.ID }),
			"association.network-acl-id": associations(func(w wireACLAssociation) string { return w.ACL }),
			"association.subnet-id":      associations(func(w wireACLAssociation) string { return w.Subnet }),
			"default":                    func(a *NetworkACL) []string { return []string{strconv.FormatBool(a.Default)} },
			"entry.cidr":                 entries(func(w wireACLEntry) string { return w.IPv4 }),
			"entry.icmp.code":            icmp(func(i *wireICMP) int { return i.Code }),
			"entry.icmp.type":            icmp(func(i *wireICMP) int { return i.Type }),
			"entry.ipv6-cidr":            entries(func(w wireACLEntry) string { return w.IPv6 }),
			"entry.port-range.from":      ports(func(p *wirePortRange) int { return p.From }),
			"entry.port-range.to":        ports(func(p *wirePortRange) int { return p.To }),
			"entry.protocol":             entries(func(w wireACLEntry) string { return w.Protocol }),
			"entry.rule-action":          entries(func(w wireACLEntry) string { return w.Action }),
			"entry.egress":               entries(func(w wireACLEntry) string { return strconv.FormatBool(w.Egress) }),
			"entry.rule-number":          entries(func(w wireACLEntry) string { return strconv.Itoa(w.Number) }),
			"network-acl-id":             func(a *NetworkACL) []string { return []string{a.ID} },
			"owner-id":                   func(*NetworkACL) []string { return []string{t.c.cfg.Account} },
			"vpc-id":                     func(a *NetworkACL) []string { return []string{a.VPC} },
		},
	}
	page, next, err := r.find(t.c.state.acls.all(t.view), in.IDs, in.query)
	if err != nil {
		return describeACLsOut{}, err
	}
	return describeACLsOut{listOf(page, t.wireACL), next}, nil
}

type createACLIn struct {
	VPC         string         `ec2:"VpcId"`
	Tags        []tagSpecParam `ec2:"TagSpecification"`
	ClientToken string         `ec2:"ClientToken"`
}

type createACLOut struct {
	ACL         wireACL `xml:"networkAcl"`
	ClientToken string  `xml:"clientToken,omitempty"`
}

func (t *tx) createNetworkACL(in createACLIn) (createACLOut, error) {
	if t.c.state.vpcs.found(t, in.VPC) == nil {
		return createACLOut{}, kindVPC.unknown(in.VPC)
	}
	tags, err := tagsFor("network-acl", in.Tags)
	if err != nil {
		return createACLOut{}, err
	}
	a := &NetworkACL{ID: t.newID(kindACL.prefix), VPC: in.VPC, Tags: tags}
	t.c.state.acls.set(t, a.ID, a)
	return createACLOut{t.wireACL(a), in.ClientToken}, nil
}

type aclIn struct {
	ID string `ec2:"NetworkAclId"`
}

func (t *tx) deleteNetworkACL(in aclIn) (wireReturn, error) {
	a := t.c.state.acls.found(t, in.ID)
	switch {
	case a == nil:
		return wireReturn{}, kindACL.unknown(in.ID)
	case a.Default:
		return wireReturn{}, invalidValue("cannot delete default network ACL %s", a.ID)
	case len(a.Associations) > 0:
		return wireReturn{}, errorf("DependencyViolation", "The networkAcl '%s' has dependencies and cannot be deleted.", a.ID)
	}
	t.c.state.acls.set(t, a.ID, nil)
	return wireReturn{true}, nil
}

type portRangeParam struct {
	From int `ec2:"From"`
	To   int `ec2:"To"`
}

type icmpParam struct {
	Type int `ec2:"Type"`
	Code int `ec2:"Code"`
}

type aclEntryIn struct {
	ACL      string          `ec2:"NetworkAclId"`
	Number   *int            `ec2:"RuleNumber"`
	Egress   bool            `ec2:"Egress"`
	Protocol string          `ec2:"Protocol"`
	Action   string          `ec2:"RuleAction"`
	IPv4     netip.Prefix    `ec2:"CidrBlock"`
	IPv6     netip.Prefix    `ec2:"Ipv6CidrBlock"`
	Ports    *portRangeParam `ec2:"PortRange"`
	ICMP     *icmpParam      `ec2:"Icmp"`
}

// entry returns the ACL that a call names, and the index of the entry, -1 if there
// is none with the number.
func (t *tx) entry(in aclEntryIn) (*NetworkACL, int, error) {
	a := t.c.state.acls.found(t, in.ACL)
	switch {
	case in.ACL == "":
		return nil, 0, missing("networkAclId")
	case a == nil:
		return nil, 0, kindACL.unknown(in.ACL)
	case in.Number == nil:
		return nil, 0, missing("ruleNumber")
	}
	return a.clone(), slices.IndexFunc(a.Entries, func(e ACLEntry) bool { return e.Number == *in.Number && e.Egress == in.Egress }), nil
}

// value returns the entry that a call describes.
func (in aclEntryIn) value() (ACLEntry, error) {
	e := ACLEntry{Number: *in.Number, Egress: in.Egress, Protocol: in.Protocol, Allow: in.Action == "allow", Prefix: in.IPv4}
	if in.IPv6.IsValid() {
		e.Prefix = in.IPv6
	}
	switch {
	case e.Number < 1 || e.Number >= lastEntry:
		return e, invalidValue("Value (%d) for parameter ruleNumber is invalid. Expecting a value between 1 and %d.", e.Number, lastEntry-1)
	case in.Action != "allow" && in.Action != "deny":
		return e, invalidValue("Value (%s) for parameter ruleAction is invalid. Expected allow or deny.", in.Action)
	case !e.Prefix.IsValid():
		return e, missing("cidrBlock")
	case e.Protocol == "":
		return e, missing("protocol")
	}
	switch e.Protocol {
	case "tcp":
		e.Protocol = "6"
	case "udp":
		e.Protocol = "17"
	case "icmp":
		e.Protocol = "1"
	}
	switch {
	case (e.Protocol == "6" || e.Protocol == "17") && in.Ports == nil:
		return e, missing("portRange")
	case (e.Protocol == "1" || e.Protocol == "58") && in.ICMP == nil:
		return e, missing("icmpTypeCode")
	}
	if in.Ports != nil {
		e.From, e.To = in.Ports.From, in.Ports.To
	}
	if in.ICMP != nil {
		e.ICMPType, e.ICMPCode = in.ICMP.Type, in.ICMP.Code
	}
	return e, nil
}

func (t *tx) createNetworkACLEntry(in aclEntryIn) (wireReturn, error) { return t.setEntry(in, false) }

func (t *tx) replaceNetworkACLEntry(in aclEntryIn) (wireReturn, error) { return t.setEntry(in, true) }

// setEntry creates an entry, or replaces one that exists.
func (t *tx) setEntry(in aclEntryIn, replace bool) (wireReturn, error) {
	a, i, err := t.entry(in)
	if err != nil {
		return wireReturn{}, err
	}
	e, err := in.value()
	switch {
	case err != nil:
		return wireReturn{}, err
	case replace && i < 0:
		return wireReturn{}, t.noEntry(in)
	case !replace && i >= 0:
		return wireReturn{}, errorf("NetworkAclEntryAlreadyExists", "The network acl entry identified by %d already exists.", e.Number)
	case replace:
		a.Entries[i] = e
	default:
		a.Entries = append(a.Entries, e)
	}
	t.c.state.acls.set(t, a.ID, a)
	return wireReturn{true}, nil
}

func (t *tx) noEntry(in aclEntryIn) error {
	direction := "ingress"
	if in.Egress {
		direction = "egress"
	}
	return errorf("InvalidNetworkAclEntry.NotFound", "The %s entry %d does not exist in network ACL %s", direction, *in.Number, in.ACL)
}

func (t *tx) deleteNetworkACLEntry(in aclEntryIn) (wireReturn, error) {
	a, i, err := t.entry(in)
	if err != nil {
		return wireReturn{}, err
	}
	if i < 0 {
		return wireReturn{}, t.noEntry(in)
	}
	a.Entries = slices.Delete(a.Entries, i, i+1)
	t.c.state.acls.set(t, a.ID, a)
	return wireReturn{true}, nil
}

type replaceACLIn struct {
	ID  string `ec2:"AssociationId"`
	ACL string `ec2:"NetworkAclId"`
}

type replaceACLOut struct {
	ID string `xml:"newAssociationId"`
}

// replaceNetworkACLAssociation associates a subnet with another ACL. The new
// association has a new ID.
func (t *tx) replaceNetworkACLAssociation(in replaceACLIn) (replaceACLOut, error) {
	to := t.c.state.acls.found(t, in.ACL)
	if to == nil {
		return replaceACLOut{}, kindACL.unknown(in.ACL)
	}
	for _, a := range t.c.state.acls.all(t.now) {
		i := slices.IndexFunc(a.Associations, func(as ACLAssociation) bool { return as.ID == in.ID })
		if i < 0 {
			continue
		}
		if a.VPC != to.VPC {
			return replaceACLOut{}, invalidValue("network ACL %s and association %s belong to different networks", to.ID, in.ID)
		}
		next := ACLAssociation{t.newID(kindACLAssoc.prefix), a.Associations[i].Subnet}
		a = a.clone()
		a.Associations = slices.Delete(a.Associations, i, i+1)
		t.c.state.acls.set(t, a.ID, a)
		to = t.c.state.acls.at(to.ID, t.now).clone()
		to.Associations = append(to.Associations, next)
		t.c.state.acls.set(t, to.ID, to)
		return replaceACLOut{next.ID}, nil
	}
	return replaceACLOut{}, kindACLAssoc.unknown(in.ID)
}
