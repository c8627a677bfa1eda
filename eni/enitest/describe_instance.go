// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

type describeInstancesIn struct {
	query
	includeManaged
	IDs []string `ec2:"InstanceId"`
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
	all = slices.DeleteFunc(all, func(i *Instance) bool { return t.hides(in.includeManaged, i.Operator) })
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

// architecture returns the architecture of the instance's type: x86_64 if the type
// supports it or if its architectures are unknown.
func (t *tx) architecture(i *Instance) string {
	all := t.typeOf(i).spec("processor-info.supported-architecture")
	if len(all) == 0 || slices.Contains(all, "x86_64") {
		return "x86_64"
	}
	return all[0]
}

// stateCodes are the codes of the instance states:
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceState.html
var stateCodes = map[string]int{"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func stateOf(name string) wireState { return wireState{stateCodes[name], name} }

func (t *tx) wireInstance(i *Instance) wireInstance {
	w := wireInstance{
		ID: i.ID, ImageID: i.Image, State: stateOf(i.State(t.view)), InstanceType: i.Type, LaunchTime: stamp(latest(i.LaunchedAt, i.StartedAt)),
		Placement: wirePlacement{i.Zone, t.zoneID(i.Zone), "default"},
		SubnetID:  i.Subnet, VPCID: i.VPC, Tags: wireTags(i.Tags),
		MetadataOptions: wireMetadataOptions{"applied", "required", 2, "enabled", "disabled", "disabled"},
		LaunchIndex:     i.LaunchIndex, Architecture: t.architecture(i), wireMachine: machine,
	}
	if cores := t.typeOf(i).spec("vcpu-info.default-cores"); cores != nil {
		w.CPU = &wireCPUOptions{cores[0], firstLine(t.typeOf(i).spec("vcpu-info.default-threads-per-core"))}
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
			w.PublicIP, w.DNSName = e.Public.String(), t.publicDNS(e.Public, e.VPC)
		}
		if len(e.IPv6Addrs) > 0 {
			w.IPv6Address = e.IPv6Addrs[0].String()
		}
	}
	return w
}
