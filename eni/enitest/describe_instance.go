// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"slices"
	"strconv"
	"strings"
)

type describeInstancesIn struct {
	query
	IDs            []string `ec2:"InstanceId"`
	IncludeManaged *bool    `ec2:"IncludeManagedResources"`
}

type describeInstancesOut struct {
	Reservations list[wireReservation] `xml:"reservationSet"`
	Next         string                `xml:"nextToken,omitempty"`
}

func (t *tx) describeInstances(in describeInstancesIn) (describeInstancesOut, error) {
	all := slices.DeleteFunc(existing(t.c.state.instances, t.view), func(i *Instance) bool {
		return !i.TerminatedAt.IsZero() && i.TerminatedAt.Before(t.view.Add(-terminatedShown))
	})
	if self := t.self(); self != nil {
		all = append(all, self)
		slices.SortFunc(all, func(a, b *Instance) int { return strings.Compare(a.ID, b.ID) })
	}
	page, next, err := t.instanceResource().find(all, in.IDs, in.query)
	if err != nil {
		return describeInstancesOut{}, err
	}
	return describeInstancesOut{list[wireReservation]{t.wireReservations(page)}, next}, nil
}

// wireReservations groups instances by reservation.
func (t *tx) wireReservations(instances []*Instance) []wireReservation {
	var all []wireReservation
	for _, i := range instances {
		index := slices.IndexFunc(all, func(r wireReservation) bool { return r.ID == i.Reservation })
		if index < 0 {
			index = len(all)
			all = append(all, wireReservation{ID: i.Reservation, OwnerID: t.c.cfg.Account})
		}
		all[index].Instances.Items = append(all[index].Instances.Items, t.wireInstance(i))
	}
	return all
}

// seen returns the attached ENIs of an instance, as Describe calls show them.
func (t *tx) seen(i *Instance) []*ENI {
	if self := t.self(); self != nil && self.ID == i.ID {
		return t.seenBy(i, t.view)
	}
	return t.attached(i.ID, t.view)
}

func (t *tx) instanceResource() resource[*Instance] {
	one := func(f func(*Instance) string) func(*Instance) []string {
		return func(i *Instance) []string { return []string{f(i)} }
	}
	r := resource[*Instance]{
		kind: kindInstance, idsParam: "instancesSet",
		id:   func(i *Instance) string { return i.ID },
		tags: func(i *Instance) map[string]string { return i.Tags },
		filters: map[string]func(*Instance) []string{
			"availability-zone":    one(func(i *Instance) string { return i.Zone }),
			"availability-zone-id": one(func(i *Instance) string { return t.zoneID(i.Zone) }),
			"image-id":             one(func(i *Instance) string { return i.Image }),
			"instance-id":          one(func(i *Instance) string { return i.ID }),
			"instance-state-code":  one(func(i *Instance) string { return strconv.Itoa(stateOf(i.State(t.view)).Code) }),
			"instance-state-name":  one(func(i *Instance) string { return i.State(t.view) }),
			"instance-type":        one(func(i *Instance) string { return i.Type }),
			"owner-id":             one(func(*Instance) string { return t.c.cfg.Account }),
			"private-dns-name":     one(func(i *Instance) string { return t.wireInstance(i).PrivateDNSName }),
			"private-ip-address":   one(func(i *Instance) string { return t.wireInstance(i).PrivateIP }),
			"reservation-id":       one(func(i *Instance) string { return i.Reservation }),
			"subnet-id":            one(func(i *Instance) string { return i.Subnet }),
			"vpc-id":               one(func(i *Instance) string { return i.VPC }),
		},
	}
	t.moreInstanceFilters(r.filters)
	t.instanceENIFilters(r.filters)
	return r
}

// stateCodes are the codes of the instance states:
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceState.html
var stateCodes = map[string]int{"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48}

func stateOf(name string) wireState { return wireState{stateCodes[name], name} }

func (t *tx) wireInstance(i *Instance) wireInstance {
	w := wireInstance{
		ID: i.ID, ImageID: i.Image, State: stateOf(i.State(t.view)), InstanceType: i.Type, LaunchTime: stamp(i.LaunchedAt),
		Placement: wirePlacement{i.Zone, t.zoneID(i.Zone), "default"},
		SubnetID:  i.Subnet, VPCID: i.VPC, Tags: wireTags(i.Tags),
		MetadataOptions: wireMetadataOptions{"applied", "required", 2, "enabled", "disabled"},
		LaunchIndex:     i.LaunchIndex,
	}
	if i.MetadataTags {
		w.MetadataOptions.Tags = "enabled"
	}
	if i.MetadataV1 {
		w.MetadataOptions.HTTPTokens = "optional"
	}
	w.Operator = wireOperator{i.Operator != "", i.Operator}
	for _, e := range t.seen(i) {
		w.NetworkInterfaces.Items = append(w.NetworkInterfaces.Items, t.wireENI(e, t.view))
		if !e.primary() {
			continue
		}
		w.PrivateIP, w.PrivateDNSName = addrText(e.Addr), t.privateDNS(e.Addr)
		w.SourceDestCheck, w.Groups = e.SourceDestCheck, t.wireGroups(e.Groups)
		if e.Public.IsValid() {
			w.PublicIP, w.DNSName = e.Public.String(), t.publicDNS(e.Public)
		}
		if len(e.IPv6Addrs) > 0 {
			w.IPv6Address = e.IPv6Addrs[0].String()
		}
	}
	return w
}

type describeTypesIn struct {
	query
	Names []string `ec2:"InstanceType"`
}

type wireCard struct {
	Index int `xml:"networkCardIndex"`
	Max   int `xml:"maximumNetworkInterfaces"`
}

type wireNetworkInfo struct {
	Cards       list[wireCard] `xml:"networkCards"`
	MaxCards    int            `xml:"maximumNetworkCards"`
	DefaultCard int            `xml:"defaultNetworkCardIndex"`
	MaxENIs     int            `xml:"maximumNetworkInterfaces"`
	IPv4        int            `xml:"ipv4AddressesPerInterface"`
	IPv6        int            `xml:"ipv6AddressesPerInterface"`
	IPv6OK      bool           `xml:"ipv6Supported"`
}

type wireInstanceType struct {
	Name       string          `xml:"instanceType"`
	Hypervisor string          `xml:"hypervisor,omitempty"`
	BareMetal  bool            `xml:"bareMetal"`
	Network    wireNetworkInfo `xml:"networkInfo"`
}

type describeTypesOut struct {
	Types list[wireInstanceType] `xml:"instanceTypeSet"`
	Next  string                 `xml:"nextToken,omitempty"`
}

func (t *tx) describeInstanceTypes(in describeTypesIn) (describeTypesOut, error) {
	one := func(f func(InstanceType) string) func(InstanceType) []string {
		return func(it InstanceType) []string { return []string{f(it)} }
	}
	r := resource[InstanceType]{
		kind: kind{notFound: "InvalidInstanceType", noun: "instance type"}, idsParam: "instanceTypes", maxResults: typesPage,
		id: func(it InstanceType) string { return it.Name },
		filters: map[string]func(InstanceType) []string{
			"bare-metal":    one(func(it InstanceType) string { return strconv.FormatBool(it.BareMetal) }),
			"hypervisor":    one(func(it InstanceType) string { return it.Hypervisor }),
			"instance-type": one(func(it InstanceType) string { return it.Name }),
			"network-info.ipv4-addresses-per-interface": one(func(it InstanceType) string { return strconv.Itoa(it.IPv4PerENI) }),
			"network-info.ipv6-addresses-per-interface": one(func(it InstanceType) string { return strconv.Itoa(it.IPv6PerENI) }),
			"network-info.ipv6-supported":               one(func(it InstanceType) string { return strconv.FormatBool(it.IPv6PerENI > 0) }),
			"supported-root-device-type":                constant[InstanceType]("ebs"),
			"supported-virtualization-type":             constant[InstanceType]("hvm"),
			"network-info.maximum-network-cards":        one(func(it InstanceType) string { return strconv.Itoa(len(it.ENIs)) }),
			"network-info.maximum-network-interfaces":   one(func(it InstanceType) string { return strconv.Itoa(it.ENIs[it.DefaultCard]) }),
		},
	}
	if in.MaxResults == nil && len(in.Names) == 0 {
		size := typesPage
		in.MaxResults = &size
	}
	page, next, err := r.find(t.c.instanceTypes(), in.Names, in.query)
	if err != nil {
		return describeTypesOut{}, err
	}
	return describeTypesOut{listOf(page, wireType), next}, nil
}

// typesPage is the largest page of DescribeInstanceTypes, and the size of its pages
// if the caller names none.
const typesPage = 100

func wireType(it InstanceType) wireInstanceType {
	w := wireInstanceType{Name: it.Name, Hypervisor: it.Hypervisor, BareMetal: it.BareMetal, Network: wireNetworkInfo{
		MaxCards: len(it.ENIs), DefaultCard: it.DefaultCard, MaxENIs: it.ENIs[it.DefaultCard],
		IPv4: it.IPv4PerENI, IPv6: it.IPv6PerENI, IPv6OK: it.IPv6PerENI > 0,
	}}
	for card, n := range it.ENIs {
		w.Network.Cards.Items = append(w.Network.Cards.Items, wireCard{card, n})
	}
	return w
}
