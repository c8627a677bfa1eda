// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// moreInstanceFilters adds the filters of
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html
// that concern neither the identity nor the network of an instance. A property that
// instances of a Cloud do not have, such as a key pair, matches no value.
func (t *tx) moreInstanceFilters(filters map[string]func(*Instance) []string) {
	one := func(f func(wireInstance) string) func(*Instance) []string {
		return func(i *Instance) []string { return nonEmpty(f(t.wireInstance(i))) }
	}
	for name, value := range map[string]any{
		"block-device-mapping.device-name": machine.RootName, "ebs-optimized": machine.EBSOptimized, "ena-support": machine.ENA,
		"enclave-options.enabled": machine.Enclave, "hibernation-options.configured": machine.Hibernation,
		"hypervisor": machine.Hypervisor, "maintenance-options.auto-recovery": machine.AutoRecovery,
		"monitoring-state": machine.Monitoring, "platform-details": machine.Platform, "root-device-name": machine.RootName,
		"root-device-type": machine.RootType, "usage-operation": machine.Usage, "virtualization-type": machine.Virtualization,
		"private-dns-name-options.enable-resource-name-dns-a-record":         machine.RecordA,
		"private-dns-name-options.enable-resource-name-dns-aaaa-record":      machine.RecordAAAA,
		"private-dns-name-options.hostname-type":                             machine.Hostname,
		"network-performance-options.bandwidth-weighting":                    machine.Bandwidth,
		"capacity-reservation-specification.capacity-reservation-preference": machine.Capacity,
	} {
		filters[name] = constant[*Instance](fmt.Sprint(value))
	}
	for _, name := range []string{
		"affinity", "block-device-mapping.attach-time", "block-device-mapping.delete-on-termination", "block-device-mapping.status",
		"block-device-mapping.volume-id", "boot-mode", "capacity-reservation-id", "client-token", "current-instance-boot-mode",
		"host-id", "iam-instance-profile.arn", "iam-instance-profile.id", "iam-instance-profile.name", "instance-lifecycle",
		"kernel-id", "key-name", "outpost-arn", "placement-group-name", "placement-partition-number", "platform", "product-code",
		"product-code.type", "ramdisk-id", "reason", "requester-id", "spot-instance-request-id", "state-reason-code",
		"state-reason-message", "tpm-support", "usage-operation-update-time",
	} {
		filters[name] = func(*Instance) []string { return nil }
	}
	maps.Copy(filters, map[string]func(*Instance) []string{
		"architecture":                        func(i *Instance) []string { return []string{t.architecture(i)} },
		"dns-name":                            one(func(w wireInstance) string { return w.DNSName }),
		"ip-address":                          one(func(w wireInstance) string { return w.PublicIP }),
		"ipv6-address":                        one(func(w wireInstance) string { return w.IPv6Address }),
		"launch-index":                        one(func(w wireInstance) string { return strconv.Itoa(w.LaunchIndex) }),
		"launch-time":                         one(func(w wireInstance) string { return w.LaunchTime }),
		"metadata-options.http-endpoint":      one(func(w wireInstance) string { return w.MetadataOptions.Endpoint }),
		"metadata-options.http-protocol-ipv4": constant[*Instance]("enabled"),
		"metadata-options.http-protocol-ipv6": one(func(w wireInstance) string { return w.MetadataOptions.IPv6 }),
		"metadata-options.http-put-response-hop-limit": one(func(w wireInstance) string {
			return strconv.Itoa(w.MetadataOptions.HopLimit)
		}),
		"metadata-options.state":                  one(func(w wireInstance) string { return w.MetadataOptions.State }),
		"tenancy":                                 one(func(w wireInstance) string { return w.Placement.Tenancy }),
		"metadata-options.http-tokens":            one(func(w wireInstance) string { return w.MetadataOptions.HTTPTokens }),
		"metadata-options.instance-metadata-tags": one(func(w wireInstance) string { return w.MetadataOptions.Tags }),
		"operator.managed":                        one(func(w wireInstance) string { return strconv.FormatBool(w.Operator.Managed) }),
		"operator.principal":                      one(func(w wireInstance) string { return w.Operator.Principal }),
		"source-dest-check":                       one(func(w wireInstance) string { return strconv.FormatBool(w.SourceDestCheck) }),
		"instance.group-id": func(i *Instance) []string {
			return t.groupsOf(i, func(g wireGroup) string { return g.GroupID })
		},
		"instance.group-name": func(i *Instance) []string {
			return t.groupsOf(i, func(g wireGroup) string { return g.GroupName })
		},
	})
}

// groupsOf returns a property of the security groups of the primary ENI.
func (t *tx) groupsOf(i *Instance, f func(wireGroup) string) []string {
	var all []string
	for _, g := range t.wireInstance(i).Groups.Items {
		all = append(all, f(g))
	}
	return all
}

// instanceENIFilters adds the filters on the ENIs of an instance. Most of them are
// the filters of DescribeNetworkInterfaces with a prefix.
func (t *tx) instanceENIFilters(filters map[string]func(*Instance) []string) {
	each := func(f func(*ENI) []string) func(*Instance) []string {
		return func(i *Instance) []string {
			var all []string
			for _, e := range t.seen(i) {
				all = append(all, f(e)...)
			}
			return all
		}
	}
	const prefix = "network-interface."
	for name, f := range t.eniResource().filters {
		if name != "interface-type" && name != "availability-zone-id" {
			filters[prefix+name] = each(f)
		}
	}
	maps.Copy(filters, map[string]func(*Instance) []string{
		prefix + "addresses.private-dns-name": each(func(e *ENI) []string {
			var all []string
			for _, a := range e.v4() {
				all = append(all, t.privateDNS(a))
			}
			return all
		}),
		prefix + "deny-all-igw-traffic":                    each(func(*ENI) []string { return []string{"false"} }),
		prefix + "ipv4-prefixes.ipv4-prefix":               each(func(e *ENI) []string { return texts(e.Prefixes) }),
		prefix + "ipv6-address":                            each(func(e *ENI) []string { return nonEmpty(firstLine(texts(e.IPv6Addrs))) }),
		prefix + "ipv6-addresses.is-primary-ipv6":          each(func(e *ENI) []string { return []string{strconv.FormatBool(e.PrimaryIPv6)} }),
		prefix + "ipv6-native":                             each(func(e *ENI) []string { return []string{strconv.FormatBool(!e.SubnetPrefix.IsValid())} }),
		prefix + "ipv6-prefixes.ipv6-prefix":               each(func(e *ENI) []string { return texts(e.IPv6Prefixes) }),
		prefix + "outpost-arn":                             each(func(*ENI) []string { return nil }),
		prefix + "public-dns-name":                         each(func(e *ENI) []string { return nonEmpty(t.publicDNS(e.Public, e.VPC)) }),
		prefix + "tag-key":                                 each(func(e *ENI) []string { return slices.Collect(maps.Keys(e.Tags)) }),
		prefix + "tag-value":                               each(func(e *ENI) []string { return slices.Collect(maps.Values(e.Tags)) }),
		prefix + "association.carrier-ip":                  each(func(*ENI) []string { return nil }),
		prefix + "association.customer-owned-ip":           each(func(*ENI) []string { return nil }),
		prefix + "addresses.association.carrier-ip":        each(func(*ENI) []string { return nil }),
		prefix + "addresses.association.customer-owned-ip": each(func(*ENI) []string { return nil }),
	})
}

// associationFilters adds the filters on the public addresses of an ENI.
func (t *tx) associationFilters(filters map[string]func(*ENI) []string) {
	for name, f := range map[string]func(*wireAssociation) string{
		"allocation-id":   func(a *wireAssociation) string { return a.AllocationID },
		"association-id":  func(a *wireAssociation) string { return a.AssociationID },
		"ip-owner-id":     func(a *wireAssociation) string { return a.IPOwnerID },
		"owner-id":        func(a *wireAssociation) string { return a.IPOwnerID },
		"public-dns-name": func(a *wireAssociation) string { return a.PublicDNSName },
		"public-ip":       func(a *wireAssociation) string { return a.PublicIP },
	} {
		values := func(primary bool) func(*ENI) []string {
			return func(e *ENI) []string {
				var all []string
				for _, private := range e.v4() {
					if a := t.association(e, private); a != nil && (!primary || private == e.Addr) {
						all = append(all, nonEmpty(f(a))...)
					}
				}
				return all
			}
		}
		filters["association."+name] = values(true)
		filters["addresses.association."+name] = values(false)
	}
}

// none is the value of a property that a resource does not have.
func none[T any](T) []string { return nil }

func constant[T any](values ...string) func(T) []string {
	return func(T) []string { return values }
}
