// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// macsDir is the directory of the ENIs, by MAC.
const macsDir = "meta-data/network/interfaces/macs/"

// tagsDir is the directory of the tags of the instance. It exists only if the
// instance has Instance.MetadataTags.
const tagsDir = "meta-data/tags/instance/"

// associationsDir is the directory of an ENI with its public addresses.
const associationsDir = "ipv4-associations"

// instanceKeys holds the metadata of an instance, by path. A key with an empty
// value does not exist, as on EC2.
var instanceKeys = map[string]func(*tx, *Instance) string{
	"dynamic/instance-identity/document":             (*tx).identity,
	"meta-data/ami-id":                               func(_ *tx, i *Instance) string { return i.Image },
	"meta-data/ami-launch-index":                     func(_ *tx, i *Instance) string { return strconv.Itoa(i.LaunchIndex) },
	"meta-data/ami-manifest-path":                    func(*tx, *Instance) string { return "(unknown)" },
	"meta-data/block-device-mapping/ami":             func(*tx, *Instance) string { return "/dev/xvda" },
	"meta-data/block-device-mapping/root":            func(*tx, *Instance) string { return "/dev/xvda" },
	"meta-data/iam/info":                             (*tx).profile,
	"meta-data/instance-action":                      func(*tx, *Instance) string { return "none" },
	"meta-data/profile":                              func(*tx, *Instance) string { return "default-hvm" },
	"meta-data/public-hostname":                      func(t *tx, i *Instance) string { return t.publicDNS(t.primaryOf(i).Public, i.VPC) },
	"meta-data/system":                               (*tx).system,
	"user-data":                                      func(_ *tx, i *Instance) string { return i.UserData },
	"meta-data/hostname":                             func(t *tx, i *Instance) string { return t.privateDNS(t.primaryOf(i).Addr) },
	"meta-data/iam/security-credentials/" + roleName: (*tx).credentials,
	"meta-data/instance-id":                          func(_ *tx, i *Instance) string { return i.ID },
	"meta-data/instance-life-cycle":                  func(*tx, *Instance) string { return "on-demand" },
	"meta-data/instance-type":                        func(_ *tx, i *Instance) string { return i.Type },
	"meta-data/ipv6":                                 func(t *tx, i *Instance) string { return firstLine(texts(t.primaryOf(i).IPv6Addrs)) },
	"meta-data/local-hostname":                       func(t *tx, i *Instance) string { return t.privateDNS(t.primaryOf(i).Addr) },
	"meta-data/local-ipv4":                           func(t *tx, i *Instance) string { return addrText(t.primaryOf(i).Addr) },
	"meta-data/mac":                                  func(t *tx, i *Instance) string { return t.primaryOf(i).MAC },
	"meta-data/placement/availability-zone":          func(_ *tx, i *Instance) string { return i.Zone },
	"meta-data/placement/availability-zone-id":       func(t *tx, i *Instance) string { return t.zoneID(i.Zone) },
	"meta-data/placement/region":                     func(t *tx, _ *Instance) string { return t.c.cfg.Region },
	"meta-data/public-ipv4":                          func(t *tx, i *Instance) string { return addrText(t.primaryOf(i).Public) },
	"meta-data/reservation-id":                       func(_ *tx, i *Instance) string { return i.Reservation },
	"meta-data/security-groups":                      func(t *tx, i *Instance) string { return lines(t.groupNames(t.primaryOf(i).Groups)) },
	"meta-data/services/domain":                      func(t *tx, _ *Instance) string { return t.partition().domain },
	"meta-data/services/partition":                   func(t *tx, _ *Instance) string { return t.partition().name },
}

// eniKeys holds the metadata of an attached ENI, by key.
var eniKeys = map[string]func(*tx, *ENI) string{
	"device-number":  func(_ *tx, e *ENI) string { return strconv.Itoa(e.Attachment.Device) },
	"interface-id":   func(_ *tx, e *ENI) string { return e.ID },
	"ipv4-prefix":    func(_ *tx, e *ENI) string { return lines(texts(e.Prefixes)) },
	"ipv6-prefix":    func(_ *tx, e *ENI) string { return lines(texts(e.IPv6Prefixes)) },
	"ipv6s":          func(_ *tx, e *ENI) string { return lines(texts(e.IPv6Addrs)) },
	"local-hostname": func(t *tx, e *ENI) string { return t.privateDNS(e.Addr) },
	"local-ipv4s":    func(_ *tx, e *ENI) string { return lines(texts(e.v4())) },
	"mac":            func(_ *tx, e *ENI) string { return e.MAC },
	"network-card": func(t *tx, e *ENI) string {
		if len(t.limitsFor(e).ENIs) == 1 {
			return ""
		}
		return strconv.Itoa(e.Attachment.Card)
	},
	"owner-id": func(t *tx, _ *ENI) string { return t.c.cfg.Account },
	"public-hostname": func(t *tx, e *ENI) string {
		if !e.Public.IsValid() {
			return ""
		}
		return t.publicDNS(e.Public, e.VPC)
	},
	"public-ipv4s":            func(t *tx, e *ENI) string { return lines(t.publics(e)) },
	"security-group-ids":      func(_ *tx, e *ENI) string { return lines(e.Groups) },
	"security-groups":         func(t *tx, e *ENI) string { return lines(t.groupNames(e.Groups)) },
	"subnet-id":               func(_ *tx, e *ENI) string { return e.Subnet },
	"subnet-ipv4-cidr-block":  func(_ *tx, e *ENI) string { return lines(prefixText(e.SubnetPrefix)) },
	"subnet-ipv6-cidr-blocks": func(_ *tx, e *ENI) string { return lines(prefixText(e.SubnetIPv6)) },
	"vpc-id":                  func(_ *tx, e *ENI) string { return e.VPC },
	"vpc-ipv4-cidr-block":     func(t *tx, e *ENI) string { return firstLine(texts(t.c.state.vpcs.shown(t, e.VPC).Prefixes)) },
	"vpc-ipv4-cidr-blocks":    func(t *tx, e *ENI) string { return lines(texts(t.c.state.vpcs.shown(t, e.VPC).Prefixes)) },
	"vpc-ipv6-cidr-blocks":    func(t *tx, e *ENI) string { return lines(texts(t.c.state.vpcs.shown(t, e.VPC).IPv6)) },
}

// metadata returns the value at a path below /latest, or the listing of a
// directory.
func (t *tx) metadata(i *Instance, path string) (string, bool) {
	path = strings.TrimSuffix(path, "/")
	if rest, ok := strings.CutPrefix(path, macsDir); ok {
		return t.eniMetadata(i, rest)
	}
	if key, ok := instanceKeys[path]; ok {
		value := key(t, i)
		return value, value != ""
	}
	if key, ok := strings.CutPrefix(path, tagsDir); ok {
		value, ok := i.Tags[key]
		return value, ok && i.MetadataTags
	}
	return t.listing(i, path)
}

// listing returns the names in a directory outside of macsDir.
func (t *tx) listing(i *Instance, dir string) (string, bool) {
	if dir != "" {
		dir += "/"
	}
	var names []string
	add := func(path string) {
		rest, _ := strings.CutPrefix(path, dir)
		name, _, deeper := strings.Cut(rest, "/")
		if deeper {
			name += "/"
		}
		names = append(names, name)
	}
	for path, key := range instanceKeys {
		if strings.HasPrefix(path, dir) && key(t, i) != "" {
			add(path)
		}
	}
	if strings.HasPrefix(macsDir, dir) {
		for _, e := range t.listed(i) {
			add(macsDir + e.MAC + "/")
		}
	}
	if i.MetadataTags && strings.HasPrefix(tagsDir, dir) {
		for key := range i.Tags {
			add(tagsDir + key)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if dir == "" {
		// Only this directory is listed without slashes.
		for n, name := range names {
			names[n] = strings.TrimSuffix(name, "/")
		}
	}
	return lines(names), len(names) > 0
}

// listed returns the ENIs in the listing of MACs.
func (t *tx) listed(i *Instance) []*ENI {
	at := t.keyTime("macs")
	return slices.DeleteFunc(t.seenBy(i, at), func(e *ENI) bool { return !e.primary() && !e.deviceOf(i.ID, at) })
}

// eniMetadata returns the value of a key of an ENI, as the lag of the key shows
// it, or the listing of the keys of the ENI. The path is below macsDir.
func (t *tx) eniMetadata(i *Instance, path string) (listing string, ok bool) {
	mac, name, hasName := strings.Cut(path, "/")
	all := t.listed(i)
	index := slices.IndexFunc(all, func(e *ENI) bool { return e.MAC == mac })
	if index < 0 {
		return "", false
	}
	if hasName {
		return t.eniValue(i, all[index].ID, name)
	}
	if len(t.publics(all[index])) > 0 {
		defer func() {
			listing = lines(slices.Sorted(slices.Values(append(strings.Split(listing, "\n"), associationsDir+"/"))))
		}()
	}
	var names []string
	for name := range eniKeys {
		if _, ok := t.eniValue(i, all[index].ID, name); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return lines(names), len(names) > 0
}

func (t *tx) eniValue(i *Instance, id, name string) (string, bool) {
	name, public, _ := strings.Cut(name, "/")
	key, ok := eniKeys[name]
	at := t.keyTime(name)
	t.view = at
	all := t.seenBy(i, at)
	index := slices.IndexFunc(all, func(e *ENI) bool { return e.ID == id })
	if !ok && name != associationsDir || index < 0 || !all[index].primary() && !all[index].deviceOf(i.ID, at) {
		return "", false
	}
	if name == associationsDir {
		value := t.associations(all[index], public)
		return value, value != ""
	}
	value := key(t, all[index])
	return value, value != ""
}

// keyTime returns the time of the state that a metadata key shows.
func (t *tx) keyTime(key string) time.Time { return t.now.Add(-t.c.lag.forKey(key)) }

// deviceOf reports whether the ENI was a device of the instance at the given time.
func (e *ENI) deviceOf(instance string, at time.Time) bool {
	return e != nil && e.Attachment != nil && e.Attachment.Instance == instance && e.Attachment.Status(at) == "attached"
}

// primaryOf returns the primary ENI of an instance, or an empty ENI if the
// instance has been terminated.
func (t *tx) primaryOf(i *Instance) *ENI {
	for _, e := range t.attached(i.ID, t.now) {
		if e.primary() {
			return e
		}
	}
	return &ENI{}
}

func lines(all []string) string { return strings.Join(all, "\n") }

func firstLine(all []string) string {
	if len(all) == 0 {
		return ""
	}
	return all[0]
}

// associations returns the private address of a public one, or all public addresses
// of the ENI if public is empty.
func (t *tx) associations(e *ENI, public string) string {
	if public == "" {
		return lines(t.publics(e))
	}
	for _, private := range e.v4() {
		if a := t.association(e, private); a != nil && a.PublicIP == public {
			return private.String()
		}
	}
	return ""
}

// profile returns the instance profile.
func (t *tx) profile(*Instance) string {
	return asJSON(map[string]string{
		"Code": "Success", "LastUpdated": t.now.UTC().Format(time.RFC3339),
		"InstanceProfileArn": fmt.Sprintf("arn:%s:iam::%s:instance-profile/%s", t.partition().name, t.c.cfg.Account, roleName),
		"InstanceProfileId":  "AIPAENITESTNODEPROFIL",
	})
}

// system returns the hypervisor, as the key system names it.
func (t *tx) system(i *Instance) string {
	if t.typeOf(i).Hypervisor == "xen" {
		return "xen"
	}
	return "nitro"
}

// credentials returns credentials of the instance's role. The access key ID
// contains the instance ID, so that the audit log can name the instance.
func (t *tx) credentials(i *Instance) string {
	return asJSON(map[string]string{
		"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": t.now.UTC().Format(time.RFC3339),
		"AccessKeyId":     keyPrefix + strings.ToUpper(strings.TrimPrefix(i.ID, kindInstance.prefix)),
		"SecretAccessKey": "secret", "Token": "token",
		"Expiration": t.now.Add(6 * time.Hour).UTC().Format(time.RFC3339),
	})
}

// identity returns the instance identity document.
func (t *tx) identity(i *Instance) string {
	return asJSON(map[string]any{
		"accountId": t.c.cfg.Account, "availabilityZone": i.Zone, "imageId": i.Image, "instanceId": i.ID,
		"instanceType": i.Type, "pendingTime": i.LaunchedAt.UTC().Format(time.RFC3339), "region": t.c.cfg.Region,
		"version": "2017-09-30", "architecture": t.architecture(i), "privateIp": addrText(t.primaryOf(i).Addr),
		"billingProducts": nil, "devpayProductCodes": nil, "kernelId": nil, "marketplaceProductCodes": nil, "ramdiskId": nil,
	})
}

func asJSON(v any) string {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("encode %v: %v", v, err)) // plain values always encode
	}
	return string(text)
}
