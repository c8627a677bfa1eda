// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

// The addresses of the resolver that are the same in every VPC. A third one is the base
// of the first IPv4 block of the VPC plus two, see [ResolverAddr]
// (https://docs.aws.amazon.com/vpc/latest/userguide/AmazonDNS-concepts.html).
var (
	resolverLinkLocal = netip.MustParseAddr("169.254.169.253")
	ResolverAddr6     = netip.MustParseAddr("fd00:ec2::253")
)

// ResolverPort is the port of the resolver, for UDP and TCP.
const ResolverPort = 53

// nameTTL is the time for which a client may keep an answer, in seconds.
const nameTTL = 60

// ResolverAddr returns the address of the resolver in a VPC with the given blocks: the
// base of the first IPv4 block plus two. It is the zero Addr if there is no IPv4 block.
func ResolverAddr(blocks []netip.Prefix) netip.Addr {
	for _, p := range blocks {
		if p.Addr().Is4() {
			return p.Masked().Addr().Next().Next()
		}
	}
	return netip.Addr{}
}

// Resolver holds the names of a VPC and answers queries. It is safe for concurrent use.
type Resolver struct {
	domain string
	owned  func(netip.Addr) bool

	mu    sync.Mutex
	names map[string][]netip.Addr
}

// newResolver returns a resolver that knows the names of the addresses for which owned is
// true, in a domain such as us-west-2.compute.internal.
func newResolver(domain string, owned func(netip.Addr) bool) *Resolver {
	return &Resolver{domain: canonicalName(domain), owned: owned, names: map[string][]netip.Addr{}}
}

// PrivateDomain returns the domain of the private names of a region.
func PrivateDomain(region string) string {
	if region == "us-east-1" {
		return "ec2.internal"
	}
	return region + ".compute.internal"
}

// Set makes name resolve to the addresses, and the addresses to the first name that has
// them. No addresses delete the name. A name of an address of an ENI, such as
// ip-10-0-0-1.us-west-2.compute.internal, needs no Set.
func (r *Resolver) Set(name string, addrs ...netip.Addr) error {
	if _, err := dnsmessage.NewName(canonicalName(name)); err != nil || name == "" || !validName(name) {
		return fmt.Errorf("%q is not a DNS name", name)
	}
	for _, a := range addrs {
		if !a.IsValid() || a.Zone() != "" {
			return fmt.Errorf("name %s: %q is not an address without a zone", name, a)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(addrs) == 0 {
		delete(r.names, canonicalName(name))
		return nil
	}
	r.names[canonicalName(name)] = slices.Clone(addrs)
	return nil
}

// validName reports whether each label of name has 1 to 63 bytes.
func validName(name string) bool {
	const longest = 63
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label == "" || len(label) > longest {
			return false
		}
	}
	return true
}

// canonicalName returns name in lower case and with a dot at its end.
func canonicalName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) + "." }

// addrs returns the addresses of a canonical name, and whether the name exists.
func (r *Resolver) addrs(name string) ([]netip.Addr, bool) {
	r.mu.Lock()
	added, ok := r.names[name]
	r.mu.Unlock()
	if ok {
		return added, true
	}
	host, found := strings.CutSuffix(name, "."+r.domain)
	octets, isIP := strings.CutPrefix(host, "ip-")
	if !found || !isIP {
		return nil, false
	}
	a, err := netip.ParseAddr(strings.ReplaceAll(octets, "-", "."))
	if err != nil || !a.Is4() || privateName(a, r.domain) != name || !r.owned(a) {
		return nil, false
	}
	return []netip.Addr{a}, true
}

func privateName(a netip.Addr, domain string) string {
	return "ip-" + strings.ReplaceAll(a.String(), ".", "-") + "." + domain
}

// name returns the name of an address, and whether it has one.
func (r *Resolver) name(a netip.Addr) (string, bool) {
	if a.Is4() && r.owned(a) {
		return privateName(a, r.domain), true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for name, addrs := range r.names {
		if slices.Contains(addrs, a) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "", false
	}
	return slices.Min(names), true
}

// reversed returns the address in a name below in-addr.arpa or ip6.arpa.
func reversed(name string) (netip.Addr, bool) {
	if labels, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		parts := strings.Split(labels, ".")
		slices.Reverse(parts)
		a, err := netip.ParseAddr(strings.Join(parts, "."))
		return a, err == nil && a.Is4()
	}
	labels, ok := strings.CutSuffix(name, ".ip6.arpa.")
	if !ok {
		return netip.Addr{}, false
	}
	parts := strings.Split(labels, ".")
	slices.Reverse(parts)
	for _, p := range parts {
		if len(p) != 1 {
			return netip.Addr{}, false
		}
	}
	b, err := hex.DecodeString(strings.Join(parts, ""))
	if err != nil || len(b) != 16 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16([16]byte(b)), true
}

// errNoQuery means that a message is not a query, so that it gets no answer.
var errNoQuery = errors.New("the message is not a DNS query")

// minUDP is the size of a UDP answer that every client accepts, in bytes (RFC 1035,
// section 4.2.1).
const minUDP = 512

// answer returns the answer to a query. It has at most limit bytes; 0 means those that a
// UDP client accepts. A longer answer is cut off and says so, and the client repeats the
// query over TCP.
func (r *Resolver) answer(query []byte, limit int) ([]byte, error) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil || h.Response {
		return nil, errNoQuery
	}
	reply := dnsmessage.Message{Header: dnsmessage.Header{
		ID: h.ID, Response: true, OpCode: h.OpCode, RecursionDesired: h.RecursionDesired, RecursionAvailable: true,
	}}
	reply.Questions, err = p.AllQuestions()
	switch {
	case h.OpCode != 0:
		reply.RCode = dnsmessage.RCodeNotImplemented
	case err != nil || len(reply.Questions) != 1:
		reply.RCode = dnsmessage.RCodeFormatError
	case reply.Questions[0].Class != dnsmessage.ClassINET && reply.Questions[0].Class != dnsmessage.ClassANY:
		reply.RCode = dnsmessage.RCodeRefused
	default:
		reply.Answers, reply.RCode = r.resources(reply.Questions[0])
	}
	if size, ok := udpSize(&p); ok {
		var edns dnsmessage.ResourceHeader
		if err := edns.SetEDNS0(size, dnsmessage.RCodeSuccess, false); err != nil {
			return nil, err
		}
		reply.Additionals = []dnsmessage.Resource{{Header: edns, Body: &dnsmessage.OPTResource{}}}
		if limit == 0 {
			limit = max(size, minUDP)
		}
	}
	if limit == 0 {
		limit = minUDP
	}
	out, err := reply.Pack()
	if err == nil && len(out) > limit {
		reply.Truncated, reply.Answers = true, nil
		out, err = reply.Pack()
	}
	return out, err
}

// udpSize returns the size of a UDP answer that the client accepts, if the query says it.
func udpSize(p *dnsmessage.Parser) (int, bool) {
	if p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return 0, false
	}
	for {
		h, err := p.AdditionalHeader()
		if err != nil {
			return 0, false
		}
		if h.Type == dnsmessage.TypeOPT {
			return int(h.Class), true
		}
		if p.SkipAdditional() != nil {
			return 0, false
		}
	}
}

// resources returns the records that answer a question. A name that exists without
// records of the type has an empty answer.
func (r *Resolver) resources(q dnsmessage.Question) ([]dnsmessage.Resource, dnsmessage.RCode) {
	name := canonicalName(q.Name.String())
	var all []dnsmessage.Resource
	add := func(t dnsmessage.Type, body dnsmessage.ResourceBody) {
		if q.Type == t || q.Type == dnsmessage.TypeALL {
			h := dnsmessage.ResourceHeader{Name: q.Name, Type: t, Class: dnsmessage.ClassINET, TTL: nameTTL}
			all = append(all, dnsmessage.Resource{Header: h, Body: body})
		}
	}
	if a, ok := reversed(name); ok {
		host, ok := r.name(a)
		if !ok {
			return nil, dnsmessage.RCodeNameError
		}
		target, err := dnsmessage.NewName(host)
		if err != nil {
			return nil, dnsmessage.RCodeServerFailure
		}
		add(dnsmessage.TypePTR, &dnsmessage.PTRResource{PTR: target})
		return all, dnsmessage.RCodeSuccess
	}
	addrs, ok := r.addrs(name)
	if !ok {
		return nil, dnsmessage.RCodeNameError
	}
	for _, a := range addrs {
		if a.Is4() {
			add(dnsmessage.TypeA, &dnsmessage.AResource{A: a.As4()})
		} else {
			add(dnsmessage.TypeAAAA, &dnsmessage.AAAAResource{AAAA: a.As16()})
		}
	}
	return all, dnsmessage.RCodeSuccess
}
