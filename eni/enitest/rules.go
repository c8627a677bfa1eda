// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// GroupRule is a rule of a security group. One of Prefix and Group is set.
type GroupRule struct {
	ID     string
	Egress bool `json:",omitzero"`
	// Protocol is "tcp", "udp", "icmp", "icmpv6", a number, or "-1" for all.
	Protocol string
	// From and To are the ports, or the ICMP type and code. They are -1 for all.
	From, To int
	Prefix   netip.Prefix `json:",omitzero"`
	// Group is the ID of the security group that traffic comes from or goes to.
	Group       string            `json:",omitzero"`
	Description string            `json:",omitzero"`
	Tags        map[string]string `json:",omitzero"`
}

// same reports whether two rules allow the same traffic.
func (r GroupRule) same(o GroupRule) bool {
	return r.Egress == o.Egress && r.Protocol == o.Protocol && r.From == o.From && r.To == o.To &&
		r.Prefix == o.Prefix && r.Group == o.Group
}

var kindRule = kind{"sgr-", "security group rule ID", "InvalidSecurityGroupRuleId.NotFound", "InvalidSecurityGroupRuleId.Malformed"}

// defaultRules are the rules of a new group: all traffic may leave, over IPv6 if the VPC
// has an IPv6 block. In the default group of a VPC all traffic between its members may
// also enter.
// https://docs.aws.amazon.com/vpc/latest/userguide/default-security-group.html
func (g *SecurityGroup) defaultRules(v6 bool) []GroupRule {
	rules := []GroupRule{{
		ID: derivedID("sgr-", g.ID), Egress: true, Protocol: "-1", From: -1, To: -1, Prefix: netip.MustParsePrefix("0.0.0.0/0"),
	}}
	if g.Name == "default" {
		rules = append(rules, GroupRule{ID: derivedID("sgr-", g.ID) + "1", Protocol: "-1", From: -1, To: -1, Group: g.ID})
	}
	if v6 {
		rules = append(rules, g.egressIPv6())
	}
	return rules
}

func (g *SecurityGroup) egressIPv6() GroupRule {
	return GroupRule{
		ID: derivedID("sgr-", g.ID) + "2", Egress: true, Protocol: "-1", From: -1, To: -1, Prefix: netip.MustParsePrefix("::/0"),
	}
}

// allowIPv6 adds the rules for IPv6 to the default group and the default ACL of a VPC
// that gets an IPv6 block, unless they have rules for all of IPv6.
func (t *tx) allowIPv6(vpc string) {
	for _, g := range t.c.state.groups.all(t.now) {
		if rule := g.egressIPv6(); g.VPC == vpc && g.Name == "default" && !slices.ContainsFunc(g.Rules, rule.same) {
			g = g.clone()
			g.Rules = append(g.Rules, rule)
			t.c.state.groups.set(t, g.ID, g)
		}
	}
	for _, a := range t.c.state.acls.all(t.now) {
		if a.VPC == vpc && a.Default && !slices.ContainsFunc(a.Entries, func(e ACLEntry) bool { return e.Prefix.Addr().Is6() }) {
			a = a.clone()
			a.Entries = append(a.Entries, allowAllIPv6()...)
			t.c.state.acls.set(t, a.ID, a)
		}
	}
}

type ipRangeParam struct {
	CIDR        netip.Prefix `ec2:"CidrIp"`
	Description string       `ec2:"Description"`
}

type ipv6RangeParam struct {
	CIDR        netip.Prefix `ec2:"CidrIpv6"`
	Description string       `ec2:"Description"`
}

type groupPairParam struct {
	ID          string  `ec2:"GroupId"`
	Name        string  `ec2:"GroupName"`
	Description string  `ec2:"Description"`
	User        ignored `ec2:"UserId"`
	VPC         ignored `ec2:"VpcId"`
}

type permissionParam struct {
	Protocol string           `ec2:"IpProtocol"`
	From     *int             `ec2:"FromPort"`
	To       *int             `ec2:"ToPort"`
	IPv4     []ipRangeParam   `ec2:"IpRanges"`
	IPv6     []ipv6RangeParam `ec2:"Ipv6Ranges"`
	Groups   []groupPairParam `ec2:"Groups"`
}

type rulesIn struct {
	ID          string            `ec2:"GroupId"`
	Name        string            `ec2:"GroupName"`
	Permissions []permissionParam `ec2:"IpPermissions"`
	Protocol    string            `ec2:"IpProtocol"`
	From        *int              `ec2:"FromPort"`
	To          *int              `ec2:"ToPort"`
	CIDR        netip.Prefix      `ec2:"CidrIp"`
	RuleIDs     []string          `ec2:"SecurityGroupRuleId"`
	Tags        []tagSpecParam    `ec2:"TagSpecification"`
}

// rules returns the rules that a call describes.
func (t *tx) rules(in rulesIn, vpc string, egress bool) ([]GroupRule, error) {
	permissions := in.Permissions
	if in.Protocol != "" {
		permissions = append(permissions, permissionParam{Protocol: in.Protocol, From: in.From, To: in.To, IPv4: []ipRangeParam{{CIDR: in.CIDR}}})
	}
	var all []GroupRule
	for _, p := range permissions {
		rule := GroupRule{Egress: egress, Protocol: protocolName(p.Protocol), From: -1, To: -1}
		switch {
		case p.Protocol == "":
			return nil, missing("ipProtocol")
		case rule.Protocol == "-1":
		case p.From == nil || p.To == nil:
			return nil, missing("fromPort")
		default:
			rule.From, rule.To = *p.From, *p.To
		}
		if tcp := rule.Protocol == "tcp" || rule.Protocol == "udp"; tcp && (rule.From < 0 || rule.To > 65535 || rule.From > rule.To) {
			return nil, invalidValue("Invalid value for portRange. Must specify from and to ports: %d-%d.", rule.From, rule.To)
		}
		before := len(all)
		for _, r := range p.IPv4 {
			rule.Prefix, rule.Description = r.CIDR, r.Description
			all = append(all, rule)
		}
		for _, r := range p.IPv6 {
			rule.Prefix, rule.Description = r.CIDR, r.Description
			all = append(all, rule)
		}
		for i := before; i < len(all); i++ {
			if q := all[i].Prefix; !q.IsValid() || q != q.Masked() {
				return nil, invalidValue("CIDR block %s is malformed", q)
			}
		}
		rule.Prefix = netip.Prefix{}
		for _, g := range p.Groups {
			found, err := t.group(g.ID, g.Name)
			if err != nil {
				return nil, err
			}
			if found.VPC != vpc {
				return nil, errorf(kindGroup.notFound, "You have specified two resources that belong to different networks.")
			}
			rule.Group, rule.Description = found.ID, g.Description
			all = append(all, rule)
		}
	}
	if len(all) == 0 {
		return nil, missing("ipPermissions")
	}
	return all, nil
}

// protocolName returns the name that EC2 shows for a protocol.
func protocolName(p string) string {
	switch p {
	case "6":
		return "tcp"
	case "17":
		return "udp"
	case "1":
		return "icmp"
	case "58":
		return "icmpv6"
	case "all":
		return "-1"
	}
	return p
}

// group returns a security group by ID or, if id is empty, by name.
func (t *tx) group(id, name string) (*SecurityGroup, error) {
	if id == "" && name == "" {
		return nil, missing("groupId")
	}
	for _, g := range t.c.state.groups.all(t.now) {
		if named := g.ID == id || id == "" && g.Name == name; named && t.c.state.groups.found(t, g.ID) != nil {
			return g, nil
		}
	}
	if id == "" {
		return nil, errorf(kindGroup.notFound, "The security group '%s' does not exist", name)
	}
	return nil, kindGroup.unknown(id)
}

type wireRuleGroup struct {
	ID     string `xml:"groupId"`
	UserID string `xml:"userId"`
}

type wireRule struct {
	ID          string         `xml:"securityGroupRuleId"`
	ARN         string         `xml:"securityGroupRuleArn"`
	Group       string         `xml:"groupId"`
	Owner       string         `xml:"groupOwnerId"`
	Egress      bool           `xml:"isEgress"`
	Protocol    string         `xml:"ipProtocol"`
	From        int            `xml:"fromPort"`
	To          int            `xml:"toPort"`
	IPv4        string         `xml:"cidrIpv4,omitempty"`
	IPv6        string         `xml:"cidrIpv6,omitempty"`
	Referenced  *wireRuleGroup `xml:"referencedGroupInfo"`
	Description string         `xml:"description,omitempty"`
	Tags        list[wireTag]  `xml:"tagSet"`
}

func (t *tx) wireRule(group string, r GroupRule) wireRule {
	w := wireRule{
		ID: r.ID, ARN: t.arn("security-group-rule", r.ID), Group: group, Owner: t.c.cfg.Account, Egress: r.Egress,
		Protocol: r.Protocol, From: r.From, To: r.To, Description: r.Description, Tags: wireTags(r.Tags),
	}
	switch {
	case r.Group != "":
		w.Referenced = &wireRuleGroup{r.Group, t.c.cfg.Account}
	case r.Prefix.Addr().Is4():
		w.IPv4 = r.Prefix.String()
	default:
		w.IPv6 = r.Prefix.String()
	}
	return w
}

type rulesOut struct {
	Return bool           `xml:"return"`
	Rules  list[wireRule] `xml:"securityGroupRuleSet"`
}

func (t *tx) authorizeSecurityGroupIngress(in rulesIn) (rulesOut, error) { return t.allow(in, false) }
func (t *tx) authorizeSecurityGroupEgress(in rulesIn) (rulesOut, error)  { return t.allow(in, true) }

// maxRules is the default quota of rules of a security group, for each direction.
const maxRules = 60

func (t *tx) allow(in rulesIn, egress bool) (rulesOut, error) {
	none := rulesOut{}
	g, err := t.group(in.ID, in.Name)
	if err != nil {
		return none, err
	}
	rules, err := t.rules(in, g.VPC, egress)
	if err != nil {
		return none, err
	}
	tags, err := tagsFor("security-group-rule", in.Tags)
	if err != nil {
		return none, err
	}
	g = g.clone()
	for i := range rules {
		if slices.ContainsFunc(g.Rules, rules[i].same) {
			r := rules[i]
			return none, errorf("InvalidPermission.Duplicate", "the specified rule \"peer: %s, %s, from port: %d, to port: %d, ALLOW\" already exists",
				cmp.Or(r.Group, firstLine(prefixText(r.Prefix))), r.Protocol, r.From, r.To)
		}
		rules[i].ID, rules[i].Tags = t.newID(kindRule.prefix), tags
		g.Rules = append(g.Rules, rules[i])
	}
	n := 0
	for _, r := range g.Rules {
		if r.Egress == egress {
			n++
		}
	}
	if n > maxRules {
		return none, errorf("RulesPerSecurityGroupLimitExceeded", "The maximum number of rules per security group has been reached.")
	}
	t.c.state.groups.set(t, g.ID, g)
	return rulesOut{true, listOf(rules, func(r GroupRule) wireRule { return t.wireRule(g.ID, r) })}, nil
}

func (t *tx) revokeSecurityGroupIngress(in rulesIn) (wireReturn, error) { return t.revoke(in, false) }
func (t *tx) revokeSecurityGroupEgress(in rulesIn) (wireReturn, error)  { return t.revoke(in, true) }

func (t *tx) revoke(in rulesIn, egress bool) (wireReturn, error) {
	g, err := t.group(in.ID, in.Name)
	if err != nil {
		return wireReturn{}, err
	}
	g = g.clone()
	var removed []func(GroupRule) bool
	for _, id := range in.RuleIDs {
		removed = append(removed, func(r GroupRule) bool { return r.ID == id && r.Egress == egress })
	}
	if len(in.RuleIDs) == 0 {
		rules, err := t.rules(in, g.VPC, egress)
		if err != nil {
			return wireReturn{}, err
		}
		for _, r := range rules {
			removed = append(removed, r.same)
		}
	}
	for i, matches := range removed {
		index := slices.IndexFunc(g.Rules, matches)
		switch {
		case index >= 0:
			g.Rules = slices.Delete(g.Rules, index, index+1)
		case len(in.RuleIDs) > 0:
			return wireReturn{}, kindRule.unknown(in.RuleIDs[i])
		default:
			return wireReturn{}, errorf("InvalidPermission.NotFound", "The specified rule does not exist in this security group.")
		}
	}
	t.c.state.groups.set(t, g.ID, g)
	return wireReturn{true}, nil
}

type describeRulesIn struct {
	query
	IDs []string `ec2:"SecurityGroupRuleId"`
}

type describeRulesOut struct {
	Rules list[wireRule] `xml:"securityGroupRuleSet"`
	Next  string         `xml:"nextToken,omitempty"`
}

func (t *tx) describeSecurityGroupRules(in describeRulesIn) (describeRulesOut, error) {
	var all []wireRule
	tags := map[string]map[string]string{}
	for _, g := range t.c.state.groups.all(t.view) {
		for _, rule := range g.Rules {
			all = append(all, t.wireRule(g.ID, rule))
			tags[rule.ID] = rule.Tags
		}
	}
	slices.SortFunc(all, func(a, b wireRule) int { return cmp.Compare(a.ID, b.ID) })
	r := resource[wireRule]{
		kind: kindRule, idsParam: "securityGroupRuleIds",
		id:   func(w wireRule) string { return w.ID },
		tags: func(w wireRule) map[string]string { return tags[w.ID] },
		filters: map[string]func(wireRule) []string{
			"group-id":               func(w wireRule) []string { return []string{w.Group} },
			"security-group-rule-id": func(w wireRule) []string { return []string{w.ID} },
		},
	}
	page, next, err := r.find(all, in.IDs, in.query)
	if err != nil {
		return describeRulesOut{}, err
	}
	return describeRulesOut{list[wireRule]{page}, next}, nil
}

type wireRange struct {
	IPv4        string `xml:"cidrIp,omitempty"`
	IPv6        string `xml:"cidrIpv6,omitempty"`
	Description string `xml:"description,omitempty"`
}

type wireGroupPair struct {
	ID          string `xml:"groupId"`
	UserID      string `xml:"userId"`
	Description string `xml:"description,omitempty"`
}

type wirePermission struct {
	Protocol string              `xml:"ipProtocol"`
	From     *int                `xml:"fromPort"`
	To       *int                `xml:"toPort"`
	Groups   list[wireGroupPair] `xml:"groups"`
	IPv4     list[wireRange]     `xml:"ipRanges"`
	IPv6     list[wireRange]     `xml:"ipv6Ranges"`
	Lists    list[string]        `xml:"prefixListIds"`
}

// wirePermissions groups the rules of one direction by protocol and ports, as
// DescribeSecurityGroups shows them.
func (t *tx) wirePermissions(g *SecurityGroup, egress bool) list[wirePermission] {
	var all list[wirePermission]
	index := map[string]int{}
	for _, r := range g.Rules {
		if r.Egress != egress {
			continue
		}
		key := fmt.Sprint(r.Protocol, " ", r.From, " ", r.To)
		if _, ok := index[key]; !ok {
			index[key] = len(all.Items)
			p := wirePermission{Protocol: r.Protocol}
			if r.Protocol != "-1" {
				p.From, p.To = &r.From, &r.To
			}
			all.Items = append(all.Items, p)
		}
		p := &all.Items[index[key]]
		switch w := t.wireRule(g.ID, r); {
		case r.Group != "":
			p.Groups.Items = append(p.Groups.Items, wireGroupPair{r.Group, t.c.cfg.Account, r.Description})
		case w.IPv4 != "":
			p.IPv4.Items = append(p.IPv4.Items, wireRange{IPv4: w.IPv4, Description: r.Description})
		default:
			p.IPv6.Items = append(p.IPv6.Items, wireRange{IPv6: w.IPv6, Description: r.Description})
		}
	}
	return all
}

// permissionFilters adds the filters on the rules of a group. Their names begin with
// prefix.
func permissionFilters(filters map[string]func(*SecurityGroup) []string, t *tx, prefix string, egress bool) {
	rules := func(f func(GroupRule) string) func(*SecurityGroup) []string {
		return func(g *SecurityGroup) []string {
			var all []string
			for _, r := range g.Rules {
				if text := f(r); r.Egress == egress && text != "" {
					all = append(all, text)
				}
			}
			return all
		}
	}
	filters[prefix+"cidr"] = rules(func(r GroupRule) string { return t.wireRule("", r).IPv4 })
	filters[prefix+"ipv6-cidr"] = rules(func(r GroupRule) string { return t.wireRule("", r).IPv6 })
	filters[prefix+"from-port"] = rules(func(r GroupRule) string { return strconv.Itoa(r.From) })
	filters[prefix+"to-port"] = rules(func(r GroupRule) string { return strconv.Itoa(r.To) })
	filters[prefix+"group-id"] = rules(func(r GroupRule) string { return r.Group })
	filters[prefix+"group-name"] = rules(func(r GroupRule) string { return firstLine(t.groupNames(nonEmpty(r.Group))) })
	filters[prefix+"prefix-list-id"] = rules(func(GroupRule) string { return "" })
	filters[prefix+"protocol"] = rules(func(r GroupRule) string { return r.Protocol })
	filters[prefix+"user-id"] = rules(func(r GroupRule) string {
		if r.Group == "" {
			return ""
		}
		return t.c.cfg.Account
	})
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

type createGroupIn struct {
	Name        string         `ec2:"GroupName"`
	Description string         `ec2:"GroupDescription"`
	VPC         string         `ec2:"VpcId"`
	Tags        []tagSpecParam `ec2:"TagSpecification"`
}

type createGroupOut struct {
	ID   string        `xml:"groupId"`
	ARN  string        `xml:"securityGroupArn"`
	Tags list[wireTag] `xml:"tagSet"`
}

func (t *tx) createSecurityGroup(in createGroupIn) (createGroupOut, error) {
	none := createGroupOut{}
	switch {
	case in.Name == "":
		return none, missing("GroupName")
	case in.Description == "":
		return none, missing("GroupDescription")
	case in.VPC == "":
		return none, errorf("VPCIdNotSpecified", "No default VPC for this user")
	case t.c.state.vpcs.found(t, in.VPC) == nil:
		return none, kindVPC.unknown(in.VPC)
	}
	if in.Name == "default" {
		return none, errorf("InvalidGroup.Reserved", "Cannot use reserved security group name: %s", in.Name)
	}
	for _, g := range t.c.state.groups.all(t.now) {
		if g.VPC == in.VPC && g.Name == in.Name {
			return none, errorf("InvalidGroup.Duplicate", "The security group '%s' already exists for VPC '%s'", in.Name, in.VPC)
		}
	}
	tags, err := tagsFor("security-group", in.Tags)
	if err != nil {
		return none, err
	}
	g := t.addGroup(in.VPC, in.Name, in.Description, tags)
	return createGroupOut{g.ID, t.arn("security-group", g.ID), wireTags(g.Tags)}, nil
}

type groupIn struct {
	ID   string `ec2:"GroupId"`
	Name string `ec2:"GroupName"`
}

type deleteGroupOut struct {
	Return bool   `xml:"return"`
	ID     string `xml:"groupId"`
}

func (t *tx) deleteSecurityGroup(in groupIn) (deleteGroupOut, error) {
	g, err := t.group(in.ID, in.Name)
	if err != nil {
		return deleteGroupOut{}, err
	}
	if g.Name == "default" {
		return deleteGroupOut{}, errorf("CannotDelete", "the specified group: %q name: \"default\" cannot be deleted by a user", g.ID)
	}
	for _, other := range t.c.state.groups.all(t.now) {
		if other.ID != g.ID && slices.ContainsFunc(other.Rules, func(r GroupRule) bool { return r.Group == g.ID }) {
			return deleteGroupOut{}, errorf("DependencyViolation", "resource %s has a dependent object", g.ID)
		}
	}
	for _, e := range t.allENIs(t.now) {
		if slices.Contains(e.Groups, g.ID) {
			return deleteGroupOut{}, errorf("DependencyViolation", "resource %s has a dependent object", g.ID)
		}
	}
	t.c.state.groups.set(t, g.ID, nil)
	return deleteGroupOut{true, g.ID}, nil
}
