// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ServeDNS serves DNS on the addresses of the VPC's resolver until Close: on
// [ResolverAddr] of the blocks of the VPC, 169.254.169.253 and [ResolverAddr6], over
// UDP and TCP. It answers the names and the reverse names of the addresses of attached
// ENIs, in the domain that AWS gives to the region, and those that Set adds. For other
// names the answer is NXDOMAIN.
//
// Instances that boot after ServeDNS get a host route to the resolver.
func (f *Fabric) ServeDNS(region string) (*Resolver, error) {
	r := newResolver(PrivateDomain(region), func(a netip.Addr) bool { return f.owner(a) != nil })
	f.mu.Lock()
	if f.net == nil {
		f.mu.Unlock()
		return nil, errClosed
	}
	if f.resolver.IsValid() {
		f.mu.Unlock()
		return nil, fmt.Errorf("fabric: resolver: %w", os.ErrExist)
	}
	f.resolver = ResolverAddr(f.cfg.VPC)
	addrs := []netip.Addr{resolverLinkLocal, ResolverAddr6}
	if f.resolver.IsValid() {
		addrs = append(addrs, f.resolver)
	}
	var err error
	for _, a := range addrs {
		err = errors.Join(err, f.net.addGateway(a))
	}
	f.mu.Unlock()
	for _, a := range addrs {
		if err == nil {
			err = f.serveDNS(r, netip.AddrPortFrom(a, ResolverPort))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("fabric: resolver: %w", err)
	}
	return r, nil
}

func (f *Fabric) serveDNS(r *Resolver, local netip.AddrPort) error {
	ctx := context.Background() // Listen returns at once
	udp, err := f.router.ListenPacket(ctx, local)
	if err != nil {
		return err
	}
	tcp, err := f.router.Listen(ctx, local)
	if err != nil {
		return errors.Join(err, udp.Close())
	}
	s := &dnsServer{resolver: r, udp: udp, tcp: tcp, conns: map[net.Conn]bool{}}
	s.running.Go(s.serveUDP)
	s.running.Go(s.serveTCP)
	f.closeLater(s)
	return nil
}

// dnsServer serves a resolver on one address.
type dnsServer struct {
	resolver *Resolver
	udp      net.PacketConn
	tcp      net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]bool
}

// Close ends the server and its connections.
func (s *dnsServer) Close() error {
	err := errors.Join(s.udp.Close(), s.tcp.Close())
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
	return err
}

// maxMessage is the size of the longest DNS message, in bytes.
const maxMessage = 1<<16 - 1

func (s *dnsServer) serveUDP() {
	buf := make([]byte, maxMessage)
	for {
		n, from, err := s.udp.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		if out, err := s.resolver.answer(buf[:n], 0); err == nil {
			_, _ = s.udp.WriteTo(out, from) // a client repeats its query
		}
	}
}

func (s *dnsServer) serveTCP() {
	for {
		c, err := s.tcp.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			c.Close()
		}
		s.conns[c] = true
		s.mu.Unlock()
		s.running.Go(func() {
			s.serveConn(c)
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
			c.Close()
		})
	}
}

// idleConn is how long a connection may wait for its next query.
const idleConn = 10 * time.Second

// serveConn answers the queries of a connection, each of which follows its length.
func (s *dnsServer) serveConn(c net.Conn) {
	buf := make([]byte, maxMessage)
	for {
		_ = c.SetReadDeadline(time.Now().Add(idleConn))
		var length [2]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return
		}
		query := buf[:binary.BigEndian.Uint16(length[:])]
		if _, err := io.ReadFull(c, query); err != nil {
			return
		}
		out, err := s.resolver.answer(query, maxMessage)
		if err != nil {
			return
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)); err != nil {
			return
		}
	}
}

// bootLease adds the host routes that systemd-networkd adds for a DHCP lease that names a
// DNS server: to the gateway, and to the DNS server by the gateway, or directly if it is in
// the subnet. Without a resolver it adds none.
func bootLease(h *netlink.Handle, link netlink.Link, own, resolver netip.Addr, s Subnet) error {
	if !resolver.IsValid() || !own.Is4() {
		return nil
	}
	gateway := s.gateway(own)
	for _, a := range []netip.Addr{gateway, resolver} {
		r := netlink.Route{
			LinkIndex: link.Attrs().Index, Dst: ipNet(netip.PrefixFrom(a, a.BitLen())), Src: own.AsSlice(),
			Protocol: unix.RTPROT_DHCP, Priority: bootMetric,
		}
		if p, ok := s.prefix(own); ok && p.Contains(a) {
			r.Scope = netlink.SCOPE_LINK
		} else {
			r.Gw, r.Flags = gateway.AsSlice(), int(netlink.FLAG_ONLINK)
		}
		if err := h.RouteReplace(&r); err != nil {
			return fmt.Errorf("route %v: %w", r, err)
		}
	}
	return nil
}
