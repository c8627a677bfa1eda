// SPDX-License-Identifier: Apache-2.0

//go:build linux

package fabric_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// narrowMTU is the MTU of the path to the peer network. All links have 9001.
const narrowMTU = 1500

// pathMTUs drops larger packets between the VPC and the peer network silently, and
// checks that pods with a path MTU for the peer network can still transfer data to
// it. In the VPC their packets must be as large as the links allow.
func (s *suite) pathMTUs(t *testing.T) {
	defer s.narrow(t)()
	near, far := s.hosts[0], s.hosts[1]
	for family := range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), silence)
		if size, err := transfer(ctx, &near.pods["primary"].end, s.peer, family); err == nil {
			t.Fatalf("segments of %d bytes passed the path with an MTU of %d, want none", size, narrowMTU)
		}
		cancel()
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, k := range s.kinds {
		p := near.pods[k.name]
		p.pod.PathMTUs = []datapath.PathMTU{{Prefix: netip.MustParsePrefix("0.0.0.0/0"), MTU: narrowMTU}, {Prefix: netip.MustParsePrefix("::/0"), MTU: narrowMTU}}
		for _, v := range vpcConfig.VPC {
			p.pod.PathMTUs = append(p.pod.PathMTUs, datapath.PathMTU{Prefix: v, MTU: p.pod.MTU})
		}
		if _, err := near.path.AddPod(t.Context(), p.pod); err != nil {
			t.Fatalf("%s: %v", p.name, err)
		}
		for family := range 2 {
			for _, to := range []struct {
				*end
				mtu int
			}{{s.peer, narrowMTU}, {&far.end, 9001}} {
				t.Run(fmt.Sprintf("IPv%d/%s to %s", 4+2*family, p.name, to.name), func(t *testing.T) {
					const headers, timestamps = 40, 12 // of IPv4 and TCP; 20 more of IPv6
					want := to.mtu - headers - timestamps - 20*family
					if size, err := transfer(ctx, &p.end, to.end, family); err != nil || size != want {
						t.Errorf("segments of %d bytes, want %d (error: %v)", size, want, err)
					}
				})
			}
		}
	}
}

// narrow makes the router drop packets larger than narrowMTU between the peer
// network and the VPC, in both directions and without an ICMP error, until the
// caller calls widen.
func (s *suite) narrow(t *testing.T) (widen func()) {
	t.Helper()
	nft(t, s.Router(), `
table inet silence {
	chain output {
		type filter hook output priority filter;
		icmp type destination-unreachable drop
		icmpv6 type packet-too-big drop
	}
}`)
	const table = narrowMTU
	change := func(route func(*netlink.Route) error, rule func(*netlink.Rule) error) {
		t.Helper()
		run(t, s.Router(), func() error {
			for family, peer := range map[int]netip.Addr{unix.AF_INET: peerAddrs[0], unix.AF_INET6: peerAddrs[1]} {
				routes, err := netlink.RouteList(nil, family)
				if err != nil {
					return err
				}
				for _, r := range routes {
					if r.Gw == nil {
						continue
					}
					r.Table, r.MTU, r.Flags = table, narrowMTU, int(netlink.FLAG_ONLINK)
					if err := route(&r); err != nil {
						return fmt.Errorf("route %v: %w", r, err)
					}
				}
				in, out := netlink.NewRule(), netlink.NewRule()
				in.IifName = "tgw"
				out.Dst = &net.IPNet{IP: peer.AsSlice(), Mask: net.CIDRMask(peer.BitLen(), peer.BitLen())}
				for _, r := range []*netlink.Rule{in, out} {
					r.Family, r.Priority, r.Table = family, 100, table
					if err := rule(r); err != nil {
						return fmt.Errorf("rule %v: %w", r, err)
					}
				}
			}
			return nil
		})
	}
	change(netlink.RouteAdd, netlink.RuleAdd)
	return func() {
		change(netlink.RouteDel, netlink.RuleDel)
		nft(t, s.Router(), "delete table inet silence")
	}
}

// transfer sends long lines to an echo server, reads them back, and returns the
// maximum segment size of the connection.
func transfer(ctx context.Context, from, to *end, family int) (segment int, err error) {
	c, err := from.ns.Dial(ctx, "tcp", netip.AddrPortFrom(from.addrs[family], 0), netip.AddrPortFrom(to.addrs[family], fabric.EchoPort))
	if err != nil {
		return 0, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	line := strings.Repeat("x", 30000)
	back := bufio.NewReader(c)
	for range 4 {
		if _, err := fmt.Fprintln(c, line); err != nil {
			return 0, err
		}
		if got, err := back.ReadString('\n'); err != nil || !strings.HasSuffix(got, line+"\n") {
			return 0, fmt.Errorf("echo has %d bytes, want more than %d: %w", len(got), len(line), err)
		}
	}
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	failed := raw.Control(func(fd uintptr) { segment, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG) })
	if failed != nil {
		return 0, failed
	}
	return segment, err
}
