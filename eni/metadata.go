// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// macsPath is the path of the ENIs in the metadata service, see
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html.
const macsPath = "network/interfaces/macs/"

// metadata reads one key. It reports false if the key does not exist.
func (c *Client) metadata(ctx context.Context, path string) (string, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	out, err := c.imds.GetMetadata(ctx, &imds.GetMetadataInput{Path: path})
	if err != nil {
		var answer *smithyhttp.ResponseError
		if errors.As(err, &answer) && answer.HTTPStatusCode() == http.StatusNotFound {
			return "", false, nil
		}
		return "", false, &OpError{Op: "metadata " + path, reason: ReasonNoMetadata, Err: cause(err)}
	}
	defer out.Content.Close()
	body, err := io.ReadAll(out.Content)
	if err != nil {
		return "", false, &OpError{Op: "metadata " + path, reason: ReasonNoMetadata, Err: err}
	}
	return string(body), true, nil
}

// macs returns the MACs of the ENIs that the metadata service shows.
func (c *Client) macs(ctx context.Context) ([]string, error) {
	body, _, err := c.metadata(ctx, macsPath)
	if err != nil {
		return nil, err
	}
	out := strings.Fields(body)
	for i := range out {
		out[i] = strings.TrimSuffix(out[i], "/")
	}
	return out, nil
}

// identity reads the description of the instance from the metadata service.
func (c *Client) identity(ctx context.Context) (Instance, error) {
	var inst Instance
	for _, key := range []struct {
		path string
		to   *string
	}{
		{"instance-id", &inst.ID},
		{"instance-type", &inst.Type},
		{"placement/availability-zone", &inst.Zone},
		{"mac", &inst.PrimaryMAC},
	} {
		value, ok, err := c.metadata(ctx, key.path)
		if err == nil && !ok {
			err = &OpError{Op: "metadata " + key.path, reason: ReasonNoMetadata, Err: errors.New("the key is missing")}
		}
		if err != nil {
			return Instance{}, err
		}
		*key.to = strings.TrimSpace(value)
	}
	return inst, nil
}

// macData holds the values of the keys below one MAC.
type macData map[string]string

// macKeys are the keys to read for each ENI, if the listing has them.
var macKeys = []string{
	"interface-id", "device-number", "network-card", "subnet-id", "vpc-id", "security-group-ids",
	"subnet-ipv4-cidr-block", "subnet-ipv6-cidr-blocks", "vpc-ipv4-cidr-blocks", "vpc-ipv6-cidr-blocks",
	"local-ipv4s", "ipv4-prefix", "ipv6s", "ipv6-prefix",
}

// Keys of the instance that name the own addresses of its primary ENI. The lists below
// the MAC have no documented order. The own IPv4 address comes first in all listings
// that are known, so it is taken from there if the key is missing.
const (
	ownIPv4Key = "local-ipv4"
	ownIPv6Key = "ipv6"
)

// ownAddrs adds the keys of the own addresses to the data of the primary ENI, if the
// lists leave a choice.
func (c *Client) ownAddrs(ctx context.Context, l macData) error {
	for key, list := range map[string]string{ownIPv4Key: "local-ipv4s", ownIPv6Key: "ipv6s"} {
		if len(strings.Fields(l[list])) < 2 {
			continue
		}
		value, _, err := c.metadata(ctx, key)
		if err != nil {
			return err
		}
		l[key] = value
	}
	return nil
}

// slotKeys are those of the macKeys that describe an ENI's slots.
var slotKeys = []string{"interface-id", "local-ipv4s", "ipv4-prefix", "ipv6s", "ipv6-prefix"}

// macData reads the named keys below a MAC. The result is empty if the ENI has
// disappeared.
func (c *Client) macData(ctx context.Context, mac string, keys []string) (macData, error) {
	listing, _, err := c.metadata(ctx, macsPath+mac+"/")
	if err != nil {
		return nil, err
	}
	listed := strings.Fields(listing)
	out := macData{}
	for _, key := range keys {
		if !slices.Contains(listed, key) && !slices.Contains(listed, key+"/") {
			continue
		}
		value, ok, err := c.metadata(ctx, macsPath+mac+"/"+key)
		if err != nil {
			return nil, err
		}
		if ok {
			out[key] = value
		}
	}
	return out, nil
}

// eni converts the values to an ENI. primary says that it is the primary ENI.
func (l macData) eni(mac string, primary bool) ENI {
	e := ENI{
		ID: l.first("interface-id"), MAC: mac, Primary: primary, SubnetID: l.first("subnet-id"), VPCID: l.first("vpc-id"),
		Kind: KindInterface, Status: "attached", Groups: strings.Fields(l["security-group-ids"]), Sources: SourceMetadata,
	}
	slices.Sort(e.Groups)
	e.Device, _ = strconv.Atoi(l.first("device-number"))
	e.Card, _ = strconv.Atoi(l.first("network-card"))
	e.Subnet = parseBlock(l.first("subnet-ipv4-cidr-block"))
	e.Subnet6 = parseBlock(l.first("subnet-ipv6-cidr-blocks"))
	if primary {
		e.Device, e.Card = 0, 0 // even if the service shows other indexes
	}
	all4, all6 := strings.Fields(l["local-ipv4s"]), strings.Fields(l["ipv6s"])
	var own, own6 netip.Addr
	if own, _ = netip.ParseAddr(l.first(ownIPv4Key)); !slices.Contains(all4, own.String()) {
		own, _ = netip.ParseAddr(l.first("local-ipv4s"))
	}
	if own6, _ = netip.ParseAddr(l.first(ownIPv6Key)); len(all6) == 1 && (primary || !own.IsValid()) {
		own6, _ = netip.ParseAddr(all6[0])
	}
	for _, s := range slices.Concat(all4, all6, strings.Fields(l["ipv4-prefix"]), strings.Fields(l["ipv6-prefix"])) {
		e.addBlock(parseBlock(s))
	}
	if !e.hasAddr(own6) {
		own6 = netip.Addr{} // it changed after the listing
	}
	e = e.withOwn(own, own6)
	if l["local-ipv4s"] == "" && l["ipv6s"] == "" {
		e.Kind = KindEFAOnly // the only kind without addresses
	}
	e.sortBlocks()
	return e
}

// first returns the first value of a key, or an empty string.
func (l macData) first(key string) string {
	fields := strings.Fields(l[key])
	if len(fields) == 0 {
		return ""
	}
	return fields[0]
}
