// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

type describeENIsIn struct {
	query
	includeManaged
	IDs []string `ec2:"NetworkInterfaceId"`
}

type describeENIsOut struct {
	ENIs list[wireNetworkInterface] `xml:"networkInterfaceSet"`
	Next string                     `xml:"nextToken,omitempty"`
}

func (t *tx) describeNetworkInterfaces(in describeENIsIn) (describeENIsOut, error) {
	shown := slices.DeleteFunc(t.eniCandidates(in.IDs), func(e *ENI) bool { return t.hides(in.includeManaged, e.Operator) })
	page, next, err := t.eniResource().find(shown, in.IDs, in.query)
	if err != nil {
		return describeENIsOut{}, err
	}
	return describeENIsOut{listOf(page, func(e *ENI) wireNetworkInterface { return t.wireInterface(e, t.view) }), next}, nil
}

// eniCandidates returns the ENIs with the given IDs, or all if there are no IDs.
func (t *tx) eniCandidates(ids []string) []*ENI {
	var found []*ENI
	if self := t.self(); self != nil {
		for _, e := range t.seenBy(self, t.view) {
			if len(ids) == 0 || slices.Contains(ids, e.ID) {
				found = append(found, e)
			}
		}
	}
	if len(ids) == 0 {
		found = append(found, t.allENIs(t.view)...)
		slices.SortFunc(found, func(a, b *ENI) int { return strings.Compare(a.ID, b.ID) })
		return found
	}
	for _, id := range slices.Compact(slices.Sorted(slices.Values(ids))) {
		if e := t.eniAt(id, t.view); e != nil {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(a, b *ENI) int { return strings.Compare(a.ID, b.ID) })
	return found
}

// eniResource has the filters of
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeNetworkInterfaces.html.
func (t *tx) eniResource() resource[*ENI] {
	attachment := func(f func(*ENIAttachment) string) func(*ENI) []string {
		return func(e *ENI) []string {
			if e.Attachment == nil {
				return nil
			}
			return []string{f(e.Attachment)}
		}
	}
	one := func(f func(*ENI) string) func(*ENI) []string {
		return func(e *ENI) []string { return []string{f(e)} }
	}
	r := resource[*ENI]{
		kind: kindENI, idsParam: "networkInterfaceIdSet",
		id:   func(e *ENI) string { return e.ID },
		tags: func(e *ENI) map[string]string { return e.Tags },
		filters: map[string]func(*ENI) []string{
			"addresses.private-ip-address": func(e *ENI) []string { return texts(e.v4()) },
			"addresses.primary": func(e *ENI) []string {
				var all []string
				for _, a := range e.v4() {
					all = append(all, strconv.FormatBool(a == e.Addr))
				}
				return all
			},
			"attachment.attach-time":   attachment(func(a *ENIAttachment) string { return stamp(a.AttachTime) }),
			"attachment.attachment-id": attachment(func(a *ENIAttachment) string { return a.ID }),
			"attachment.delete-on-termination": attachment(func(a *ENIAttachment) string {
				return strconv.FormatBool(a.DeleteOnTermination)
			}),
			"attachment.device-index":       attachment(func(a *ENIAttachment) string { return strconv.Itoa(a.Device) }),
			"attachment.instance-id":        attachment(func(a *ENIAttachment) string { return a.Instance }),
			"attachment.instance-owner-id":  attachment(t.owner),
			"attachment.network-card-index": attachment(func(a *ENIAttachment) string { return strconv.Itoa(a.Card) }),
			"attachment.status":             attachment(func(a *ENIAttachment) string { return a.Status(t.view) }),
			"availability-zone":             one(func(e *ENI) string { return e.Zone }),
			"availability-zone-id":          one(func(e *ENI) string { return t.zoneID(e.Zone) }),
			"description":                   one(func(e *ENI) string { return e.Description }),
			"group-id":                      func(e *ENI) []string { return e.Groups },
			"group-name":                    func(e *ENI) []string { return t.groupNames(e.Groups) },
			"interface-type":                one(func(e *ENI) string { return e.Type }),
			"ipv6-addresses.ipv6-address":   func(e *ENI) []string { return texts(e.IPv6Addrs) },
			"mac-address":                   one(func(e *ENI) string { return e.MAC }),
			"network-interface-id":          one(func(e *ENI) string { return e.ID }),
			"operator.managed":              one(func(e *ENI) string { return strconv.FormatBool(e.Operator != "") }),
			"operator.principal":            one(func(e *ENI) string { return e.Operator }),
			"owner-id":                      one(func(*ENI) string { return t.c.cfg.Account }),
			"private-dns-name":              one(func(e *ENI) string { return t.privateDNS(e.Addr) }),
			"private-ip-address":            one(func(e *ENI) string { return addrText(e.Addr) }),
			"requester-id":                  one(func(e *ENI) string { return t.requester(e) }),
			"requester-managed":             one(func(e *ENI) string { return strconv.FormatBool(e.RequesterManaged) }),
			"source-dest-check":             one(func(e *ENI) string { return strconv.FormatBool(e.SourceDestCheck) }),
			"status":                        one(func(e *ENI) string { return e.wireStatus(t.view) }),
			"subnet-id":                     one(func(e *ENI) string { return e.Subnet }),
			"vpc-id":                        one(func(e *ENI) string { return e.VPC }),
		},
	}
	t.associationFilters(r.filters)
	return r
}

// v4 returns the primary private IP and the secondary ones.
func (e *ENI) v4() []netip.Addr {
	if !e.Addr.IsValid() {
		return nil
	}
	return append([]netip.Addr{e.Addr}, e.Addrs...)
}

// wireStatus returns the status as answers show it. EC2 calls an ENI "in-use"
// from the AttachNetworkInterface call until it is detached.
func (e *ENI) wireStatus(at time.Time) string {
	if s := e.Status(at); s == "available" {
		return s
	}
	return "in-use"
}

func (t *tx) wireInterface(e *ENI, at time.Time) wireNetworkInterface {
	w := wireNetworkInterface{
		wireENI:          t.wireENI(e, at),
		AvailabilityZone: e.Zone, AvailabilityZoneID: t.zoneID(e.Zone),
		RequesterID: t.requester(e),
		Tags:        wireTags(e.Tags),
	}
	w.RequesterManaged, w.Operator = e.RequesterManaged, wireOperator{e.Operator != "", e.Operator}
	if a := w.Attachment; a != nil {
		a.InstanceID, a.InstanceOwnerID = e.Attachment.Instance, t.owner(e.Attachment)
	}
	if len(e.IPv6Addrs) > 0 {
		w.IPv6Address = e.IPv6Addrs[0].String()
	}
	return w
}

func (t *tx) wireENI(e *ENI, at time.Time) wireENI {
	w := wireENI{
		ID: e.ID, SubnetID: e.Subnet, VPCID: e.VPC, Description: e.Description, OwnerID: t.c.cfg.Account,
		Status: e.wireStatus(at), MACAddress: e.MAC, PrivateIP: addrText(e.Addr), PrivateDNSName: t.privateDNS(e.Addr),
		SourceDestCheck: e.SourceDestCheck, Groups: t.wireGroups(e.Groups), InterfaceType: e.Type,
		IPv4Prefixes: listOf(e.Prefixes, func(p netip.Prefix) wireIPv4Prefix { return wireIPv4Prefix{p.String()} }),
		IPv6Prefixes: listOf(e.IPv6Prefixes, func(p netip.Prefix) wireIPv6Prefix { return wireIPv6Prefix{p.String()} }),
		IPv6Addresses: listOf(e.IPv6Addrs, func(a netip.Addr) wireIPv6Addr {
			return wireIPv6Addr{a.String(), e.PrimaryIPv6 && a == e.IPv6Addrs[0]}
		}),
		PrivateIPs: listOf(e.v4(), func(a netip.Addr) wireAddr {
			return wireAddr{PrivateIPAddress: a.String(), PrivateDNSName: t.privateDNS(a), Primary: a == e.Addr}
		}),
	}
	for i, a := range e.v4() {
		w.PrivateIPs.Items[i].Association = t.association(e, a)
	}
	if len(w.PrivateIPs.Items) > 0 {
		w.Association = w.PrivateIPs.Items[0].Association
	}
	if a := e.Attachment; a != nil {
		w.Attachment = &wireAttachment{
			AttachmentID: a.ID, DeviceIndex: a.Device, NetworkCardIndex: a.Card, Status: a.Status(at),
			AttachTime: stamp(a.AttachTime), DeleteOnTermination: a.DeleteOnTermination, EnaQueues: a.EnaQueues,
		}
	}
	if e.Tracking != nil {
		w.Tracking = &wireTracking{e.Tracking.TCPEstablished, e.Tracking.UDPStream, e.Tracking.UDP}
	}
	return w
}

func (t *tx) wireGroups(ids []string) list[wireGroup] {
	return listOf(ids, func(id string) wireGroup { return wireGroup{id, t.c.state.groups.shown(t, id).Name} })
}

func (t *tx) groupNames(ids []string) []string {
	var names []string
	for _, id := range ids {
		names = append(names, t.c.state.groups.shown(t, id).Name)
	}
	return names
}

// requester returns the principal that created the ENI, as EC2 shows it.
func (t *tx) requester(e *ENI) string {
	if strings.HasPrefix(e.Requester, kindInstance.prefix) {
		return roleID + ":" + e.Requester
	}
	return e.Requester
}

func wireTags(tags map[string]string) list[wireTag] {
	return listOf(slices.Sorted(maps.Keys(tags)), func(k string) wireTag { return wireTag{k, tags[k]} })
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func texts[T fmt.Stringer](all []T) []string {
	var s []string
	for _, one := range all {
		s = append(s, one.String())
	}
	return s
}
