// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// Confirm asks the kernel, as `ip route get` does, for both decisions of p on a
// live node, and returns where its answers differ from p.
func (h *Handle) Confirm(ctx context.Context, p Path) ([]Fault, error) {
	if p.Egress == "" || p.Has(FaultNoForwarding) {
		return nil, nil // the kernel only says that it would not
	}
	var faults []Fault
	out := query{src: p.Flow.Src, dst: p.Flow.Dst, mark: p.Mark, iif: p.Flow.HostLink}
	link, err := h.routeGet(ctx, out)
	if err != nil {
		return nil, err
	}
	if link != p.Egress {
		faults = append(faults, Fault{FaultDiffers, fmt.Sprintf("the kernel sends packets to %s by %q, not %q", p.Flow.Dst, link, p.Egress)})
	}
	if p.Flow.HostLink == "" || !p.OK() {
		return faults, nil
	}
	link, err = h.routeGet(ctx, query{src: p.Flow.Dst, dst: p.Flow.Src, iif: p.Egress})
	if err != nil {
		return nil, err
	}
	if link != p.Flow.HostLink {
		faults = append(faults, Fault{FaultDiffers, fmt.Sprintf("the kernel sends the answer to %s by %q, not %q", p.Flow.Src, link, p.Flow.HostLink)})
	}
	return faults, nil
}

// routeGet returns the link that the kernel chooses, or the kernel's refusal.
func (h *Handle) routeGet(ctx context.Context, q query) (string, error) {
	index := 0
	if q.iif != "" {
		in, err := h.findLink(ctx, q.iif)
		if err != nil {
			return "", err
		}
		if in.index == 0 {
			return "no link " + q.iif, nil
		}
		index = in.index
	}
	var link string
	err := h.withConn(ctx, func(c *conn) error {
		var b batch
		b.routeGet(q, index)
		answers, err := c.do(&b)
		if err != nil {
			return err
		}
		if answers[0].err != nil {
			link = answers[0].err.Error()
			return nil
		}
		link, err = oifOf(c, answers[0].data)
		return err
	})
	return link, err
}

func (b *batch) routeGet(q query, iif int) {
	header := make([]byte, 12)
	header[0], header[1] = familyOf(q.dst), uint8(q.dst.BitLen())
	if q.src.IsValid() {
		header[2] = uint8(q.src.BitLen())
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
	})
}

// oifOf returns the name of the link of a route message.
func oifOf(c *conn, body []byte) (string, error) {
	if len(body) < 12 {
		return "", fmt.Errorf("route message of %d bytes", len(body))
	}
	for kind, v := range attributes(body[12:]) {
		if kind != unix.RTA_OIF {
			continue
		}
		var b batch
		b.add(unix.RTM_GETLINK, ack, linkHeader(number(v), 0, 0), nil)
		answers, err := c.do(&b)
		if err != nil {
			return "", err
		}
		if answers[0].err != nil {
			return "", answers[0].err
		}
		l, err := parseLink(answers[0].data)
		return l.Name, err
	}
	return "none", nil
}

// View observes everything that Trace looks at, but for the translation, which
// is not this package's: the node and, if sandbox is a path, the sandbox there.
func (h *Handle) View(ctx context.Context, sandbox string) (View, error) {
	var v View
	var err error
	if v.Node, err = h.Observe(ctx); err != nil || sandbox == "" {
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
