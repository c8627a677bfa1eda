// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// ping holds the parameters of Ping that depend on the address family.
type ping struct {
	network        string
	protocol       int
	request, reply icmp.Type
}

func pingOf(a netip.Addr) ping {
	if a.Is4() {
		return ping{"ip4:icmp", 1, ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply}
	}
	return ping{"ip6:ipv6-icmp", 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply}
}

// Ping sends one ICMP echo request and waits for the answer until ctx ends. If from
// is zero the kernel chooses the source address. It returns the round trip time.
func (n *Netns) Ping(ctx context.Context, from, to netip.Addr) (time.Duration, error) {
	p := pingOf(to)
	local := netip.IPv4Unspecified()
	if from.IsValid() {
		local = from
	} else if to.Is6() {
		local = netip.IPv6Unspecified()
	}
	var c *icmp.PacketConn
	err := n.Do(func() (err error) {
		c, err = icmp.ListenPacket(p.network, local.String())
		return err
	})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })()
	echo := &icmp.Echo{ID: rand.IntN(1 << 16), Seq: 1, Data: []byte("vpcnet ping")}
	// The kernel fills in the ICMPv6 checksum.
	request, err := (&icmp.Message{Type: p.request, Body: echo}).Marshal(nil)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if _, err := c.WriteTo(request, &net.IPAddr{IP: to.AsSlice(), Zone: to.Zone()}); err != nil {
		return 0, fmt.Errorf("ping %v: %w", to, err)
	}
	buf := make([]byte, 1500)
	for {
		k, peer, err := c.ReadFrom(buf)
		if ctx.Err() != nil {
			return 0, fmt.Errorf("ping %v from %v: no answer: %w", to, local, context.Cause(ctx))
		}
		if err != nil {
			return 0, fmt.Errorf("ping %v: %w", to, err)
		}
		m, err := icmp.ParseMessage(p.protocol, buf[:k])
		if err != nil || m.Type != p.reply || peer.String() != to.String() {
			continue
		}
		if reply, ok := m.Body.(*icmp.Echo); ok && reply.ID == echo.ID {
			return time.Since(start), nil
		}
	}
}
