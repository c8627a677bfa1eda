// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
)

// partition is an AWS partition: its name in ARNs and its domain.
type partition struct{ name, domain string }

func (t *tx) partition() partition {
	switch area, _, _ := strings.Cut(t.c.cfg.Region, "-"); {
	case area == "cn":
		return partition{"aws-cn", "amazonaws.com.cn"}
	case strings.HasPrefix(t.c.cfg.Region, "us-gov-"):
		return partition{"aws-us-gov", "amazonaws.com"}
	}
	return partition{"aws", "amazonaws.com"}
}

// arn returns the ARN of an EC2 resource.
func (t *tx) arn(resource, id string) string {
	return fmt.Sprintf("arn:%s:ec2:%s:%s:%s/%s", t.partition().name, t.c.cfg.Region, t.c.cfg.Account, resource, id)
}

// privateDNS returns the DNS name of a private address. The names of us-east-1 do
// not contain the region:
// https://docs.aws.amazon.com/vpc/latest/userguide/AmazonDNS-concepts.html
func (t *tx) privateDNS(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	domain := t.c.cfg.Region + ".compute.internal"
	if t.c.cfg.Region == "us-east-1" {
		domain = "ec2.internal"
	}
	return "ip-" + strings.ReplaceAll(a.String(), ".", "-") + "." + domain
}

// publicDNS returns the DNS name of a public address in a VPC. Without DNS hostnames in
// the VPC there is none.
func (t *tx) publicDNS(a netip.Addr, vpc string) string {
	if !a.IsValid() || t.c.state.vpcs.shown(t, vpc).NoDNSHostnames {
		return ""
	}
	domain := t.c.cfg.Region + ".compute"
	if t.c.cfg.Region == "us-east-1" {
		domain = "compute-1"
	}
	return "ec2-" + strings.ReplaceAll(a.String(), ".", "-") + "." + domain + "." + t.partition().domain
}

// zoneCounts are the numbers of availability zones of the regions that do not have
// three.
var zoneCounts = map[string]int{
	"us-east-1": 6, "us-west-2": 4, "us-west-1": 2, "ap-northeast-2": 4, "ca-west-1": 3, "cn-north-1": 3,
}

// zones returns the names of the region's availability zones, and of all other
// zones that have a subnet, by name.
func (t *tx) zones() map[string]string {
	zones := map[string]string{}
	for i := range cmp.Or(zoneCounts[t.c.cfg.Region], 3) {
		z := t.c.cfg.Region + string(rune('a'+i))
		zones[z] = z
	}
	for _, s := range existing(t.c.state.subnets, t.now) {
		zones[s.Zone] = s.Zone
	}
	return zones
}

// zoneNamed returns the zone with the given name or ID. An empty name means the
// first zone. Local zones such as us-west-2-lax-1a exist in every region.
func (t *tx) zoneNamed(name string) (string, bool) {
	if name == "" {
		return t.c.cfg.Region + "a", true
	}
	for z := range t.zones() {
		if z == name || t.zoneID(z) == name {
			return z, true
		}
	}
	return name, strings.HasPrefix(name, t.c.cfg.Region+"-")
}

// directions are the abbreviations in the IDs of zones.
var directions = strings.NewReplacer("north", "n", "south", "s", "east", "e", "west", "w", "central", "c", "gov", "g")

// zoneID returns the ID of a zone: us-west-2a has usw2-az1, us-gov-east-1b has
// usge1-az2, and the local zone us-west-2-lax-1a has usw2-lax1-az1.
func (t *tx) zoneID(zone string) string {
	rest, ok := strings.CutPrefix(zone, t.c.cfg.Region)
	if !ok || rest == "" {
		return zone
	}
	number := int(rest[len(rest)-1]-'a') + 1
	local := strings.ReplaceAll(strings.TrimPrefix(rest[:len(rest)-1], "-"), "-", "")
	if local != "" {
		local += "-"
	}
	return fmt.Sprintf("%s-%saz%d", strings.ReplaceAll(directions.Replace(t.c.cfg.Region), "-", ""), local, number)
}
