// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Confirm asks the kernel of a live node, as `ip route get` does, for each route
// lookup of p, which Trace must have returned in this process, and returns where
// the kernel's answers differ: in the link, the gateway or the table. A lookup that
// the kernel refuses for a reason that p names already is no difference.
func (h *Handle) Confirm(ctx context.Context, p Path) ([]Fault, error) {
	var faults []Fault
	for _, a := range p.asked {
		got, err := h.routeGet(ctx, a.query)
		if err != nil {
			return nil, err
		}
		if text, differs := a.differs(got, p); differs {
			faults = append(faults, Fault{FaultDiffers, fmt.Sprintf("for packets from %s to %s %s", a.src, a.dst, text)})
		}
	}
	return faults, nil
}

// kernelAnswer is what the kernel says to a query: a route or a refusal.
type kernelAnswer struct {
	route   Route
	refusal error
}

func (k kernelAnswer) String() string {
	switch {
	case errors.Is(k.refusal, unix.EXDEV):
		return "the kernel drops them: reverse path filtering"
	case errors.Is(k.refusal, unix.EINVAL):
		return "the kernel refuses them (invalid argument): perhaps because of their source, or reverse path filtering"
	case errors.Is(k.refusal, unix.EHOSTUNREACH):
		return "the kernel refuses them (no route to host): no route, or a link that does not forward"
	case k.refusal != nil:
		return fmt.Sprintf("the kernel refuses them: %v", k.refusal)
	case k.route.Type == "local":
		return "the kernel takes the destination for the node's own"
	}
	return fmt.Sprintf("the kernel uses %q", k.route)
}

// differs compares the kernel's answer with a lookup of p.
func (a lookedUp) differs(got kernelAnswer, p Path) (string, bool) {
	foretold := !a.found || a.refuses()
	if a.iif != "" {
		foretold = foretold || p.Has(FaultNoForwarding) || p.Has(FaultStrictReverse) || p.Has(FaultNoReverse) || p.Has(FaultAddrOnNode) || p.Has(FaultIPv6Off)
	}
	want := a.route
	switch {
	case got.refusal != nil && foretold:
		return "", false
	case got.refusal != nil:
		return fmt.Sprintf("%s; expected %s", got, a.verdict), true
	case a.local:
		return fmt.Sprintf("%s; expected them for the node itself", got), got.route.Type != "local"
	case got.route.Type == "local", !a.found, a.refuses():
		return fmt.Sprintf("%s; expected %s", got, a.verdict), true
	case want.Other != "" && want.Link == "":
		return "", false
	}
	same := got.route.Link == want.Link && got.route.Table == want.Table && (got.route.Via == want.Via || want.Other != "")
	return fmt.Sprintf("%s; expected %s", got, a.verdict), !same
}

// routeGet asks for the route that the kernel chooses.
func (h *Handle) routeGet(ctx context.Context, q query) (k kernelAnswer, err error) {
	index := 0
	if q.iif != "" {
		in, err := h.findLink(ctx, q.iif)
		if err != nil {
			return k, err
		}
		if in.index == 0 {
			k.refusal = fmt.Errorf("link %s: %w", q.iif, ErrNoLink)
			return k, nil
		}
		index = in.index
	}
	err = h.withConn(ctx, func(c *conn) error {
		var b batch
		b.routeGet(q, index)
		answers, err := c.do(&b)
		if err != nil {
			return err
		}
		if k.refusal = answers[0].err; k.refusal != nil {
			return nil
		}
		k.route, err = routeOf(c, answers[0].data)
		return err
	})
	return k, err
}

func (b *batch) routeGet(q query, iif int) {
	header := make([]byte, 12)
	header[0], header[1] = familyOf(q.dst), uint8(q.dst.BitLen())
	if q.src.IsValid() {
		header[2] = uint8(q.src.BitLen())
	}
	if q.dst.Is4() { // IPv6 always tells the table
		binary.NativeEndian.PutUint32(header[8:], unix.RTM_F_LOOKUP_TABLE)
	}
	b.add(unix.RTM_GETROUTE, ack, header, func() {
		b.attr(unix.RTA_DST, q.dst.AsSlice())
		if q.src.IsValid() {
			b.attr(unix.RTA_SRC, q.src.AsSlice())
		}
		if q.mark != 0 {
			b.attr32(unix.RTA_MARK, q.mark)
		}
		if iif != 0 {
			b.attr32(unix.RTA_IIF, uint32(iif))
		}
		switch q.proto { // the kernel takes no others
		case unix.IPPROTO_TCP, unix.IPPROTO_UDP:
			b.attr(unix.RTA_IP_PROTO, []byte{uint8(q.proto)})
			b.port(unix.RTA_SPORT, q.sport)
			b.port(unix.RTA_DPORT, q.dport)
		case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
			b.attr(unix.RTA_IP_PROTO, []byte{uint8(q.proto)})
		}
	})
}

func (b *batch) port(kind, port uint16) {
	if port != 0 {
		b.attr(kind, binary.BigEndian.AppendUint16(nil, port))
	}
}

// routeOf reads the answer to routeGet.
func routeOf(c *conn, body []byte) (Route, error) {
	links := names{}
	if len(body) >= 12 {
		for kind, v := range attributes(body[12:]) {
			if kind != unix.RTA_OIF {
				continue
			}
			var b batch
			b.add(unix.RTM_GETLINK, ack, linkHeader(number(v), 0, 0), nil)
			answers, err := c.do(&b)
			if err != nil {
				return Route{}, err
			}
			if answers[0].err != nil {
				return Route{}, answers[0].err
			}
			l, err := parseLink(answers[0].data)
			if err != nil {
				return Route{}, err
			}
			links[l.index] = l.Name
		}
	}
	r, _, err := parseRoute(body, links)
	return r, err
}

// View observes everything that Trace looks at, but for the translation, which
// is not this package's: the node and, if sandbox is a path, the sandbox there.
func (h *Handle) View(ctx context.Context, sandbox string) (View, error) {
	var v View
	var err error
	if v.Node, err = h.Observe(ctx); err != nil {
		return v, err
	}
	if v.Filters, err = h.otherFilters(); err != nil || sandbox == "" {
		return v, err
	}
	inside, err := Open(sandbox)
	if err != nil {
		return v, fmt.Errorf("sandbox: %w", err)
	}
	defer inside.Close()
	s, err := inside.Observe(ctx)
	v.Sandbox = &s
	return v, err
}

// otherFilters lists the base chains of other programs that filter.
func (h *Handle) otherFilters() (list []OtherChain, err error) {
	err = h.nft.Do(func(c *nftables.Conn) error {
		chains, err := c.ListChains()
		if err != nil {
			return fmt.Errorf("list nft chains: %w", err)
		}
		for _, k := range chains {
			family, known := nftFamilies[k.Table.Family]
			ours := k.Table.Name == FilterTable || k.Table.Name == translationTable
			if !known || k.Hooknum == nil || k.Type != nftables.ChainTypeFilter || ours {
				continue
			}
			list = append(list, OtherChain{
				Family: family, Table: k.Table.Name, Chain: k.Name,
				Drops: k.Policy != nil && *k.Policy == nftables.ChainPolicyDrop,
			})
		}
		return nil
	})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, nil // a kernel without nftables has no such chains
	}
	return list, err
}

// translationTable is the name of package snat's table.
const translationTable = "vpcnet-snat"

// nftFamilies are the families whose chains see packets of the node.
var nftFamilies = map[nftables.TableFamily]string{
	nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet", nftables.TableFamilyBridge: "bridge",
}
