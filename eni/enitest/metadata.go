// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The role whose credentials every instance finds in its metadata.
const (
	roleName = "node"
	roleID   = "AROAENITESTNODEROLE01"
)

// session is a session token of IMDSv2.
type session struct {
	instance string
	ends     time.Time
}

// maxSession is the longest life of a session token, in seconds.
const maxSession = 21600

// IMDSHandler serves the metadata of one instance.
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html
func (c *Cloud) IMDSHandler(instance string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.serveMetadata(w, r, instance) })
}

// MetadataHandler serves the metadata of all instances: it knows the caller by
// the source address of the request, a private address of an attached ENI.
func (c *Cloud) MetadataHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			http.Error(w, "no source address", http.StatusBadRequest)
			return
		}
		c.serveMetadata(w, r, c.instanceAt(from.Addr().Unmap()))
	})
}

// instanceAt is the instance with an attached ENI that has the address.
func (c *Cloud) instanceAt(a netip.Addr) string {
	t := c.begin()
	defer t.end()
	for _, e := range t.allENIs(t.now) {
		has := func(p netip.Prefix) bool { return p.Contains(a) }
		if e.Attachment != nil && slices.ContainsFunc(e.owned(), has) {
			return e.Attachment.Instance
		}
	}
	return ""
}

func (c *Cloud) serveMetadata(w http.ResponseWriter, r *http.Request, instance string) {
	path := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/"), "latest/")
	fault := c.trouble(path, instance)
	switch {
	case !wait(r.Context(), fault):
		panic(http.ErrAbortHandler)
	case fault.Err != nil:
		http.Error(w, fault.Err.Message, fault.Err.status())
		return
	case r.Header.Get("X-Forwarded-For") != "":
		http.Error(w, "forwarded requests are refused", http.StatusForbidden)
		return
	}
	var body string
	status := http.StatusOK
	if path == "api/token" {
		body, status = c.openSession(w, r, instance)
	} else {
		body, status = c.readMetadata(r, instance, path)
	}
	if fault.Drop {
		panic(http.ErrAbortHandler)
	}
	if status != http.StatusOK {
		http.Error(w, http.StatusText(status), status)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = w.Write([]byte(body)) // the client may have gone
}

// openSession gives out a session token.
func (c *Cloud) openSession(w http.ResponseWriter, r *http.Request, instance string) (body string, status int) {
	if r.Method != http.MethodPut {
		return "", http.StatusMethodNotAllowed
	}
	seconds, err := strconv.Atoi(r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds"))
	if err != nil || seconds < 1 || seconds > maxSession {
		return "", http.StatusBadRequest
	}
	t := c.begin()
	defer t.end()
	token := t.newID("AQAE")
	c.sessions[token] = session{instance, t.now.Add(time.Duration(seconds) * time.Second)}
	w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", strconv.Itoa(seconds))
	return token, http.StatusOK
}

// readMetadata answers a request for one path.
func (c *Cloud) readMetadata(r *http.Request, instance, path string) (body string, status int) {
	t := c.begin()
	defer t.end()
	i := t.instance(instance)
	if i == nil {
		return "", http.StatusNotFound
	}
	token := r.Header.Get("X-Aws-Ec2-Metadata-Token")
	s, known := c.sessions[token]
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		return "", http.StatusMethodNotAllowed
	case token == "" && i.MetadataV1:
	case !known || s.instance != instance || t.now.After(s.ends):
		return "", http.StatusUnauthorized
	}
	body, ok := t.metadata(i, path)
	if !ok {
		return "", http.StatusNotFound
	}
	return body, http.StatusOK
}

// metadata is the value at a path below /latest, or the listing of a directory.
func (t *tx) metadata(i *Instance, path string) (string, bool) {
	tree := t.metadataTree(i)
	path = strings.TrimSuffix(path, "/")
	if v, ok := tree[path]; ok {
		return v, true
	}
	inside := path + "/"
	if path == "" {
		inside = ""
	}
	var names []string
	for key := range tree {
		rest, ok := strings.CutPrefix(key, inside)
		if !ok {
			continue
		}
		name, _, deeper := strings.Cut(rest, "/")
		if deeper {
			name += "/"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), "\n"), len(names) > 0
}

// metadataTree is the metadata of an instance by path. A key that has no value
// is missing, as on EC2.
func (t *tx) metadataTree(i *Instance) map[string]string {
	tree := map[string]string{}
	set := func(path, value string) {
		if value != "" {
			tree[path] = value
		}
	}
	t.instanceMetadata(i, set)
	for _, e := range t.attached(i.ID, t.lagging("macs")) {
		if e.deviceOf(i.ID, t.lagging("macs")) {
			t.eniMetadata(i, e, set)
		}
	}
	return tree
}

// deviceOf reports whether the ENI was a device of the instance at that time.
func (e *ENI) deviceOf(instance string, at time.Time) bool {
	return e != nil && e.Attachment != nil && e.Attachment.Instance == instance && e.Attachment.Status(at) == "attached"
}

// lagging is the time whose state a metadata key shows.
func (t *tx) lagging(key string) time.Time { return t.now.Add(-t.c.lag.ofKey(key)) }

func (t *tx) instanceMetadata(i *Instance, set func(path, value string)) {
	const meta = "meta-data/"
	set(meta+"ami-id", i.Image)
	set(meta+"instance-id", i.ID)
	set(meta+"instance-life-cycle", "on-demand")
	set(meta+"instance-type", i.Type)
	set(meta+"placement/availability-zone", i.Zone)
	set(meta+"placement/availability-zone-id", t.zoneID(i.Zone))
	set(meta+"placement/region", t.c.cfg.Region)
	set(meta+"reservation-id", i.Reservation)
	set(meta+"services/domain", "amazonaws.com")
	set(meta+"services/partition", "aws")
	set(meta+"iam/security-credentials/"+roleName, t.credentials(i))
	set("dynamic/instance-identity/document", t.identity(i))
	for _, e := range t.attached(i.ID, t.now) {
		if !e.primary() {
			continue
		}
		set(meta+"mac", e.MAC)
		set(meta+"local-ipv4", addrText(e.Addr))
		set(meta+"local-hostname", t.privateDNS(e.Addr))
		set(meta+"hostname", t.privateDNS(e.Addr))
		set(meta+"security-groups", strings.Join(t.groupNames(e.Groups), "\n"))
		set(meta+"public-ipv4", addrText(e.Public))
		if len(e.IPv6Addrs) > 0 {
			set(meta+"ipv6", e.IPv6Addrs[0].String())
		}
	}
}

// eniMetadata sets the keys of one ENI, each as it was as long ago as its lag.
func (t *tx) eniMetadata(i *Instance, listed *ENI, set func(path, value string)) {
	vpc := t.c.state.vpcs[i.VPC]
	base := "meta-data/network/interfaces/macs/" + listed.MAC + "/"
	key := func(name string, f func(*ENI) string) {
		if e := t.c.state.enis[listed.ID].at(t.lagging(name)); e.deviceOf(i.ID, t.lagging(name)) {
			set(base+name, f(e))
		}
	}
	key("device-number", func(e *ENI) string { return strconv.Itoa(e.Attachment.Device) })
	key("network-card", func(e *ENI) string {
		if len(t.typeOf(i).ENIs) == 1 {
			return ""
		}
		return strconv.Itoa(e.Attachment.Card)
	})
	key("interface-id", func(e *ENI) string { return e.ID })
	key("ipv4-prefix", func(e *ENI) string { return strings.Join(texts(e.Prefixes), "\n") })
	key("ipv6-prefix", func(e *ENI) string { return strings.Join(texts(e.IPv6Prefixes), "\n") })
	key("ipv6s", func(e *ENI) string { return strings.Join(texts(e.IPv6Addrs), "\n") })
	key("local-hostname", func(e *ENI) string { return t.privateDNS(e.Addr) })
	key("local-ipv4s", func(e *ENI) string { return strings.Join(texts(e.v4()), "\n") })
	key("mac", func(e *ENI) string { return e.MAC })
	key("owner-id", func(*ENI) string { return t.c.cfg.Account })
	key("public-hostname", func(e *ENI) string {
		if !e.Public.IsValid() {
			return ""
		}
		return t.publicDNS(e.Public)
	})
	key("public-ipv4s", func(e *ENI) string { return addrText(e.Public) })
	key("security-group-ids", func(e *ENI) string { return strings.Join(e.Groups, "\n") })
	key("security-groups", func(e *ENI) string { return strings.Join(t.groupNames(e.Groups), "\n") })
	key("subnet-id", func(e *ENI) string { return e.Subnet })
	key("subnet-ipv4-cidr-block", func(e *ENI) string { return e.SubnetPrefix.String() })
	key("subnet-ipv6-cidr-blocks", func(e *ENI) string { return strings.Join(prefixText(e.SubnetIPv6), "\n") })
	key("vpc-id", func(e *ENI) string { return e.VPC })
	key("vpc-ipv4-cidr-block", func(*ENI) string { return vpc.Prefixes[0].String() })
	key("vpc-ipv4-cidr-blocks", func(*ENI) string { return strings.Join(texts(vpc.Prefixes), "\n") })
	key("vpc-ipv6-cidr-blocks", func(*ENI) string { return strings.Join(texts(vpc.IPv6), "\n") })
}

// credentials are those of the node's role. The access key ID names the
// instance, so that the audit log does too.
func (t *tx) credentials(i *Instance) string {
	return asJSON(map[string]string{
		"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": t.now.UTC().Format(time.RFC3339),
		"AccessKeyId":     keyPrefix + strings.ToUpper(strings.TrimPrefix(i.ID, kindInstance.prefix)),
		"SecretAccessKey": "secret", "Token": "token",
		"Expiration": t.now.Add(6 * time.Hour).UTC().Format(time.RFC3339),
	})
}

// identity is the instance identity document.
func (t *tx) identity(i *Instance) string {
	return asJSON(map[string]any{
		"accountId": t.c.cfg.Account, "availabilityZone": i.Zone, "imageId": i.Image, "instanceId": i.ID,
		"instanceType": i.Type, "pendingTime": i.LaunchedAt.UTC().Format(time.RFC3339), "region": t.c.cfg.Region,
		"version": "2017-09-30", "architecture": "x86_64",
	})
}

func asJSON(v any) string {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("encode %v: %v", v, err)) // plain values always encode
	}
	return string(text)
}
