// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// RouteTable is a VPC route table. The local routes are not in Routes: they follow
// from the blocks of the VPC.
type RouteTable struct {
	ID, VPC string
	// Main means that the table is for the subnets without an association.
	Main         bool               `json:",omitzero"`
	Routes       []Route            `json:",omitzero"`
	Associations []RouteAssociation `json:",omitzero"`
	Tags         map[string]string  `json:",omitzero"`
}

// RouteAssociation associates a subnet with a route table.
type RouteAssociation struct{ ID, Subnet string }

// Route is a route that a call has created.
type Route struct {
	Destination netip.Prefix
	// Target is the ID of an internet gateway, NAT gateway, ENI or other target.
	// The target may be unknown to the Cloud, except for ENIs.
	Target string
}

func (r *RouteTable) clone() *RouteTable {
	d := *r
	d.Routes, d.Associations, d.Tags = slices.Clone(r.Routes), slices.Clone(r.Associations), maps.Clone(r.Tags)
	return &d
}

var (
	kindRouteTable = kind{"rtb-", "routeTable ID", "InvalidRouteTableID.NotFound", "InvalidRouteTableId.Malformed"}
	kindRouteAssoc = kind{"rtbassoc-", "association ID", "InvalidAssociationID.NotFound", ""}
)

// RouteTables returns all VPC route tables, by ID.
func (c *Cloud) RouteTables() []RouteTable {
	t := c.begin()
	defer t.end()
	var all []RouteTable
	for _, r := range c.state.routeTables.all(t.now) {
		all = append(all, *r.clone())
	}
	return all
}

// addMainTable adds the main route table of a new VPC. Its ID derives from that of
// the VPC.
func (t *tx) addMainTable(v *VPC) {
	id := derivedID(kindRouteTable.prefix, v.ID)
	t.c.state.routeTables.set(t, id, &RouteTable{ID: id, VPC: v.ID, Main: true})
}

// derivedID returns the ID of a resource that exists together with another one.
func derivedID(prefix, owner string) string {
	_, digits, _ := strings.Cut(owner, "-")
	return prefix + digits
}

type wireRoute struct {
	IPv4       string `xml:"destinationCidrBlock,omitempty"`
	IPv6       string `xml:"destinationIpv6CidrBlock,omitempty"`
	Gateway    string `xml:"gatewayId,omitempty"`
	Instance   string `xml:"instanceId,omitempty"`
	Owner      string `xml:"instanceOwnerId,omitempty"`
	ENI        string `xml:"networkInterfaceId,omitempty"`
	NAT        string `xml:"natGatewayId,omitempty"`
	Transit    string `xml:"transitGatewayId,omitempty"`
	Peering    string `xml:"vpcPeeringConnectionId,omitempty"`
	EgressOnly string `xml:"egressOnlyInternetGatewayId,omitempty"`
	Carrier    string `xml:"carrierGatewayId,omitempty"`
	Local      string `xml:"localGatewayId,omitempty"`
	State      string `xml:"state"`
	Origin     string `xml:"origin"`
}

type wireRouteAssociation struct {
	Main   bool   `xml:"main"`
	ID     string `xml:"routeTableAssociationId"`
	Table  string `xml:"routeTableId"`
	Subnet string `xml:"subnetId,omitempty"`
	State  string `xml:"associationState>state"`
}

type wireRouteTable struct {
	ID           string                     `xml:"routeTableId"`
	VPC          string                     `xml:"vpcId"`
	Owner        string                     `xml:"ownerId"`
	Routes       list[wireRoute]            `xml:"routeSet"`
	Associations list[wireRouteAssociation] `xml:"associationSet"`
	Propagating  list[string]               `xml:"propagatingVgwSet"`
	Tags         list[wireTag]              `xml:"tagSet"`
}

func (t *tx) wireRouteTable(r *RouteTable) wireRouteTable {
	w := wireRouteTable{ID: r.ID, VPC: r.VPC, Owner: t.c.cfg.Account, Tags: wireTags(r.Tags)}
	v := t.c.state.vpcs.shown(t, r.VPC)
	for _, p := range slices.Concat(v.Prefixes, v.IPv6) {
		one := wireRoute{Gateway: "local", State: "active", Origin: "CreateRouteTable"}
		one.setDestination(p)
		w.Routes.Items = append(w.Routes.Items, one)
	}
	for _, route := range r.Routes {
		w.Routes.Items = append(w.Routes.Items, t.wireRoute(route))
	}
	if r.Main {
		w.Associations.Items = append(w.Associations.Items,
			wireRouteAssociation{Main: true, ID: derivedID(kindRouteAssoc.prefix, r.ID), Table: r.ID, State: "associated"})
	}
	for _, a := range r.Associations {
		w.Associations.Items = append(w.Associations.Items, wireRouteAssociation{false, a.ID, r.ID, a.Subnet, "associated"})
	}
	return w
}

func (w *wireRoute) setDestination(p netip.Prefix) {
	if p.Addr().Is4() {
		w.IPv4 = p.String()
	} else {
		w.IPv6 = p.String()
	}
}

// wireRoute shows a route. A route to an ENI is a blackhole while no instance has
// the ENI.
func (t *tx) wireRoute(r Route) wireRoute {
	w := wireRoute{State: "active", Origin: "CreateRoute"}
	w.setDestination(r.Destination)
	prefix, _, _ := strings.Cut(r.Target, "-")
	switch prefix {
	case "eni":
		w.ENI, w.State = r.Target, "blackhole"
		if e := t.eniAt(r.Target, t.view); e != nil && e.Attachment != nil {
			w.State, w.Instance, w.Owner = "active", e.Attachment.Instance, t.owner(e.Attachment)
		}
	case "nat":
		w.NAT = r.Target
	case "tgw":
		w.Transit = r.Target
	case "pcx":
		w.Peering = r.Target
	case "eigw":
		w.EgressOnly = r.Target
	case "cagw":
		w.Carrier = r.Target
	case "lgw":
		w.Local = r.Target
	default:
		w.Gateway = r.Target
	}
	return w
}

type describeRouteTablesIn struct {
	query
	IDs []string `ec2:"RouteTableId"`
}

type describeRouteTablesOut struct {
	Tables list[wireRouteTable] `xml:"routeTableSet"`
	Next   string               `xml:"nextToken,omitempty"`
}

func (t *tx) describeRouteTables(in describeRouteTablesIn) (describeRouteTablesOut, error) {
	routes := func(f func(wireRoute) string) func(*RouteTable) []string {
		return func(r *RouteTable) []string {
			var all []string
			for _, w := range t.wireRouteTable(r).Routes.Items {
				all = append(all, f(w))
			}
			return all
		}
	}
	associations := func(f func(wireRouteAssociation) string) func(*RouteTable) []string {
		return func(r *RouteTable) []string {
			var all []string
			for _, w := range t.wireRouteTable(r).Associations.Items {
				all = append(all, f(w))
			}
			return all
		}
	}
	r := resource[*RouteTable]{
		kind: kindRouteTable, idsParam: "routeTableIdSet", maxResults: 100,
		id:   func(r *RouteTable) string { return r.ID },
		tags: func(r *RouteTable) map[string]string { return r.Tags },
		filters: map[string]func(*RouteTable) []string{
			"association.gateway-id":                 func(*RouteTable) []string { return nil },
			"association.main":                       associations(func(w wireRouteAssociation) string { return strconv.FormatBool(w.Main) }),
			"association.route-table-association-id": associations(func(w wireRouteAssociation) string { return w.ID }),
			"association.route-table-id":             associations(func(w wireRouteAssociation) string { return w.Table }),
			"association.subnet-id":                  associations(func(w wireRouteAssociation) string { return w.Subnet }),
			"owner-id":                               func(*RouteTable) []string { return []string{t.c.cfg.Account} },
			"route-table-id":                         func(r *RouteTable) []string { return []string{r.ID} },
			"route.destination-cidr-block":           routes(func(w wireRoute) string { return w.IPv4 }),
			"route.destination-ipv6-cidr-block":      routes(func(w wireRoute) string { return w.IPv6 }),
			"route.destination-prefix-list-id":       func(*RouteTable) []string { return nil },
			"route.egress-only-internet-gateway-id":  routes(func(w wireRoute) string { return w.EgressOnly }),
			"route.gateway-id":                       routes(func(w wireRoute) string { return w.Gateway }),
			"route.instance-id":                      routes(func(w wireRoute) string { return w.Instance }),
			"route.nat-gateway-id":                   routes(func(w wireRoute) string { return w.NAT }),
			"route.origin":                           routes(func(w wireRoute) string { return w.Origin }),
			"route.state":                            routes(func(w wireRoute) string { return w.State }),
			"route.transit-gateway-id":               routes(func(w wireRoute) string { return w.Transit }),
			"route.vpc-peering-connection-id":        routes(func(w wireRoute) string { return w.Peering }),
			"vpc-id":                                 func(r *RouteTable) []string { return []string{r.VPC} },
		},
	}
	page, next, err := r.find(t.c.state.routeTables.all(t.view), in.IDs, in.query)
	if err != nil {
		return describeRouteTablesOut{}, err
	}
	return describeRouteTablesOut{listOf(page, t.wireRouteTable), next}, nil
}

// routeTarget are the parameters of the target of a route; a call sets one of them.
type routeTarget struct {
	Gateway    string `ec2:"GatewayId"`
	Instance   string `ec2:"InstanceId"`
	ENI        string `ec2:"NetworkInterfaceId"`
	NAT        string `ec2:"NatGatewayId"`
	Transit    string `ec2:"TransitGatewayId"`
	Peering    string `ec2:"VpcPeeringConnectionId"`
	EgressOnly string `ec2:"EgressOnlyInternetGatewayId"`
	Carrier    string `ec2:"CarrierGatewayId"`
	Local      string `ec2:"LocalGatewayId"`
	Endpoint   string `ec2:"VpcEndpointId"`
}

type routeIn struct {
	routeTarget
	Table string       `ec2:"RouteTableId"`
	IPv4  netip.Prefix `ec2:"DestinationCidrBlock"`
	IPv6  netip.Prefix `ec2:"DestinationIpv6CidrBlock"`
}

// routeTable returns the table that a call names and its destination.
func (t *tx) routeTable(in routeIn) (*RouteTable, netip.Prefix, error) {
	if in.Table == "" {
		return nil, netip.Prefix{}, missing("routeTableId")
	}
	r := t.c.state.routeTables.found(t, in.Table)
	if r == nil {
		return nil, netip.Prefix{}, kindRouteTable.unknown(in.Table)
	}
	p, name := in.IPv4, "destinationCidrBlock"
	if in.IPv6.IsValid() {
		p, name = in.IPv6, "destinationIpv6CidrBlock"
	}
	switch {
	case !p.IsValid():
		return nil, p, missing(name)
	case in.IPv4.IsValid() && in.IPv6.IsValid():
		return nil, p, errorf("InvalidParameterCombination", "Only one of DestinationCidrBlock and DestinationIpv6CidrBlock may be specified")
	case p != p.Masked() || p.Addr().Is4() != in.IPv4.IsValid():
		return nil, p, invalidValue("Value (%s) for parameter %s is invalid. This is not a valid CIDR block.", p, name)
	}
	return r.clone(), p, nil
}

// resolve returns the ID of the target, for an instance that of its only ENI.
func (t *tx) resolve(r *RouteTable, in routeTarget) (string, error) {
	target := ""
	for _, id := range []string{in.Gateway, in.Instance, in.ENI, in.NAT, in.Transit, in.Peering, in.EgressOnly, in.Carrier, in.Local, in.Endpoint} {
		switch {
		case id == "":
		case target != "":
			return "", errorf("InvalidParameterCombination", "Only one target of a route may be specified")
		default:
			target = id
		}
	}
	if target == "" {
		return "", missing("gatewayId, instanceId, networkInterfaceId, vpcPeeringConnectionId or natGatewayId")
	}
	if in.Instance != "" {
		if t.c.state.instances.found(t, in.Instance) == nil {
			return "", kindInstance.unknown(in.Instance)
		}
		enis := t.attached(in.Instance, t.now)
		if len(enis) != 1 {
			return "", errorf("InvalidInstanceID", "There are multiple interfaces attached to instance '%s'. "+
				"Please specify an interface ID for the operation instead.", in.Instance)
		}
		target = enis[0].ID
	}
	if !strings.HasPrefix(target, kindENI.prefix) {
		return target, nil
	}
	e, err := t.findENI(target)
	if err != nil {
		return "", err
	}
	if e.VPC != r.VPC {
		return "", invalidValue("route table %s and interface %s belong to different networks", r.ID, e.ID)
	}
	return target, nil
}

func routeTo(r *RouteTable, p netip.Prefix) int {
	return slices.IndexFunc(r.Routes, func(have Route) bool { return have.Destination == p })
}

func (t *tx) isLocal(r *RouteTable, p netip.Prefix) bool {
	v := t.c.state.vpcs.at(r.VPC, t.now)
	return slices.Contains(slices.Concat(v.Prefixes, v.IPv6), p)
}

func (t *tx) createRoute(in routeIn) (wireReturn, error) {
	r, p, err := t.routeTable(in)
	if err != nil {
		return wireReturn{}, err
	}
	target, err := t.resolve(r, in.routeTarget)
	if err != nil {
		return wireReturn{}, err
	}
	if routeTo(r, p) >= 0 || t.isLocal(r, p) {
		return wireReturn{}, errorf("RouteAlreadyExists", "The route identified by %s already exists.", p)
	}
	r.Routes = append(r.Routes, Route{p, target})
	t.c.state.routeTables.set(t, r.ID, r)
	return wireReturn{true}, nil
}

func (t *tx) replaceRoute(in routeIn) (wireReturn, error) {
	r, p, err := t.routeTable(in)
	if err != nil {
		return wireReturn{}, err
	}
	target, err := t.resolve(r, in.routeTarget)
	if err != nil {
		return wireReturn{}, err
	}
	i := routeTo(r, p)
	if i < 0 {
		return wireReturn{}, invalidValue("There is no route defined for '%s' in the route table. Use CreateRoute instead.", p)
	}
	r.Routes[i].Target = target
	t.c.state.routeTables.set(t, r.ID, r)
	return wireReturn{true}, nil
}

func (t *tx) deleteRoute(in routeIn) (wireReturn, error) {
	r, p, err := t.routeTable(in)
	if err != nil {
		return wireReturn{}, err
	}
	i := routeTo(r, p)
	switch {
	case t.isLocal(r, p):
		return wireReturn{}, invalidValue("cannot remove local route %s in route table %s", p, r.ID)
	case i < 0:
		return wireReturn{}, errorf("InvalidRoute.NotFound", "no route with destination-cidr-block %s in route table %s", p, r.ID)
	}
	r.Routes = slices.Delete(r.Routes, i, i+1)
	t.c.state.routeTables.set(t, r.ID, r)
	return wireReturn{true}, nil
}

type createRouteTableIn struct {
	VPC         string         `ec2:"VpcId"`
	Tags        []tagSpecParam `ec2:"TagSpecification"`
	ClientToken string         `ec2:"ClientToken"`
}

type createRouteTableOut struct {
	Table       wireRouteTable `xml:"routeTable"`
	ClientToken string         `xml:"clientToken,omitempty"`
}

func (t *tx) createRouteTable(in createRouteTableIn) (createRouteTableOut, error) {
	if t.c.state.vpcs.found(t, in.VPC) == nil {
		return createRouteTableOut{}, kindVPC.unknown(in.VPC)
	}
	tags, err := tagsFor("route-table", in.Tags)
	if err != nil {
		return createRouteTableOut{}, err
	}
	r := &RouteTable{ID: t.newID(kindRouteTable.prefix), VPC: in.VPC, Tags: tags}
	t.c.state.routeTables.set(t, r.ID, r)
	return createRouteTableOut{t.wireRouteTable(r), in.ClientToken}, nil
}

func (t *tx) deleteRouteTable(in routeIn) (wireReturn, error) {
	r := t.c.state.routeTables.found(t, in.Table)
	switch {
	case r == nil:
		return wireReturn{}, kindRouteTable.unknown(in.Table)
	case r.Main || len(r.Associations) > 0:
		return wireReturn{}, errorf("DependencyViolation", "The routeTable '%s' has dependencies and cannot be deleted.", r.ID)
	}
	t.c.state.routeTables.set(t, r.ID, nil)
	return wireReturn{true}, nil
}

type associateTableIn struct {
	Table  string `ec2:"RouteTableId"`
	Subnet string `ec2:"SubnetId"`
}

type associateTableOut struct {
	ID    string `xml:"associationId"`
	State string `xml:"associationState>state"`
}

func (t *tx) associateRouteTable(in associateTableIn) (associateTableOut, error) {
	r, s := t.c.state.routeTables.found(t, in.Table), t.c.state.subnets.found(t, in.Subnet)
	switch {
	case r == nil:
		return associateTableOut{}, kindRouteTable.unknown(in.Table)
	case s == nil:
		return associateTableOut{}, kindSubnet.unknown(in.Subnet)
	case s.VPC != r.VPC:
		return associateTableOut{}, invalidValue("route table %s and subnet %s belong to different networks", r.ID, s.ID)
	}
	for _, other := range t.c.state.routeTables.all(t.now) {
		for _, a := range other.Associations {
			if a.Subnet == s.ID {
				return associateTableOut{}, errorf("Resource.AlreadyAssociated",
					"the specified association for route table %s conflicts with an existing association", r.ID)
			}
		}
	}
	r = r.clone()
	a := RouteAssociation{t.newID(kindRouteAssoc.prefix), s.ID}
	r.Associations = append(r.Associations, a)
	t.c.state.routeTables.set(t, r.ID, r)
	return associateTableOut{a.ID, "associated"}, nil
}

type disassociateTableIn struct {
	ID string `ec2:"AssociationId"`
}

func (t *tx) disassociateRouteTable(in disassociateTableIn) (wireReturn, error) {
	for _, r := range t.c.state.routeTables.all(t.now) {
		if r.Main && derivedID(kindRouteAssoc.prefix, r.ID) == in.ID {
			return wireReturn{}, invalidValue("cannot disassociate the main route table association %s", in.ID)
		}
		i := slices.IndexFunc(r.Associations, func(a RouteAssociation) bool { return a.ID == in.ID })
		if i >= 0 {
			r = r.clone()
			r.Associations = slices.Delete(r.Associations, i, i+1)
			t.c.state.routeTables.set(t, r.ID, r)
			return wireReturn{true}, nil
		}
	}
	return wireReturn{}, kindRouteAssoc.unknown(in.ID)
}
