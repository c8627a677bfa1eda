// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Balancer is a network load balancer. It is safe for concurrent use.
//
// The router translates the destination of the first packet of a flow to the balancer's
// address into one of the healthy targets, in turn, and connection tracking does the same
// for the other packets and the reverse for the answers. So the targets see the address of
// the client, and their answers need not pass the balancer's ENI. Security groups and
// network ACLs see the client and the target. A flow keeps its target, even if that
// becomes unhealthy.
//
// The health checks go from a namespace with the balancer's ENI through the VPC to the
// targets. If no target is healthy, flows get no answer; AWS would send them to all
// targets.
type Balancer struct {
	fabric *Fabric
	ns     *Netns
	in     BalancerInput
	cancel context.CancelFunc
	checks sync.WaitGroup
	once   sync.Once

	// mu protects the following fields and the table in the kernel.
	mu     sync.Mutex
	nft    *nftables.Conn
	health []map[netip.AddrPort]health // by listener
	err    error
}

// AddBalancer adds a network load balancer and starts its health checks. The caller should
// close it; Close of the Fabric closes it too.
func (f *Fabric) AddBalancer(in BalancerInput) (*Balancer, error) {
	for i, l := range in.Listeners {
		if err := l.validate(); err != nil {
			return nil, fmt.Errorf("fabric: balancer %s: listener %d: %w", in.Name, i+1, err)
		}
	}
	ns, err := f.AddInstance(in.Name)
	if err != nil {
		return nil, err
	}
	in.ENI.Instance, in.ENI.Card, in.ENI.Device = in.Name, 0, 0
	in.Listeners = slices.Clone(in.Listeners)
	ctx, cancel := context.WithCancel(context.Background())
	b := &Balancer{fabric: f, ns: ns, in: in, cancel: cancel}
	if err := b.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("fabric: balancer %s: %w", in.Name, err), b.Close())
	}
	f.closeLater(b)
	return b, nil
}

func (b *Balancer) start(ctx context.Context) (err error) {
	if err := b.fabric.Attach(b.in.ENI); err != nil {
		return err
	}
	if err := b.fabric.Boot(ctx, b.in.Name); err != nil {
		return err
	}
	// A balancer does not answer pings.
	if err := b.ns.sysctls("ipv4/icmp_echo_ignore_all", "1", "ipv6/icmp/echo_ignore_all", "1"); err != nil {
		return err
	}
	b.nft, err = nftables.New(nftables.WithNetNSFd(int(b.fabric.router.file.Fd())), nftables.AsLasting())
	if err != nil {
		return err
	}
	for i := range b.in.Listeners {
		l := &b.in.Listeners[i]
		l.Check = l.Check.withDefaults()
		b.health = append(b.health, map[netip.AddrPort]health{})
		for _, t := range l.Targets {
			b.health[i][t] = health{}
		}
	}
	if err := b.program(); err != nil {
		return err
	}
	// A segment that connection tracking takes for invalid would not be translated.
	if err := b.fabric.router.Sysctl("netfilter/nf_conntrack_tcp_be_liberal", "1"); err != nil {
		return err
	}
	for i, l := range b.in.Listeners {
		for _, t := range l.Targets {
			b.checks.Go(func() { b.watch(ctx, i, t) })
		}
	}
	return nil
}

// watch checks a target of a listener until ctx ends.
func (b *Balancer) watch(ctx context.Context, listener int, target netip.AddrPort) {
	c := b.in.Listeners[listener].Check
	tick := time.NewTicker(c.Interval)
	defer tick.Stop()
	for {
		good := b.check(ctx, c, target) == nil
		if ctx.Err() != nil {
			return
		}
		b.mu.Lock()
		before := b.health[listener][target]
		after := before.after(good, c)
		b.health[listener][target] = after
		if before.healthy != after.healthy {
			b.err = errors.Join(b.err, b.programLocked())
		}
		b.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// check makes one health check from the balancer's address.
func (b *Balancer) check(ctx context.Context, c HealthCheck, target netip.AddrPort) error {
	if c.Port != 0 {
		target = netip.AddrPortFrom(target.Addr(), c.Port)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	conn, err := b.ns.Dial(ctx, "tcp", netip.AddrPortFrom(b.addr(target.Addr()), 0), target)
	if err != nil {
		return err
	}
	if c.HTTPPath == "" {
		return conn.Close()
	}
	client := &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext:       func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+target.String()+c.HTTPPath, nil)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	res, err := client.Do(req)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	defer res.Body.Close()
	if res.StatusCode < 200 || res.StatusCode > 399 {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	return nil
}

// addr returns the balancer's address in the family of a.
func (b *Balancer) addr(a netip.Addr) netip.Addr {
	for _, own := range append([]netip.Addr{b.in.ENI.Addr}, b.in.ENI.Addrs...) {
		if own.IsValid() && own.Is4() == a.Is4() {
			return own
		}
	}
	return netip.Addr{}
}

// Healthy returns the healthy targets of the listener on a port, in order.
func (b *Balancer) Healthy(network string, port uint16) []netip.AddrPort {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, l := range b.in.Listeners {
		if l.Network == network && l.Port == port {
			return b.healthyOf(i)
		}
	}
	return nil
}

// healthyOf returns the healthy targets of a listener. The caller holds b.mu.
func (b *Balancer) healthyOf(listener int) []netip.AddrPort {
	all := slices.SortedFunc(maps.Keys(b.health[listener]), netip.AddrPort.Compare)
	return slices.DeleteFunc(all, func(t netip.AddrPort) bool { return !b.health[listener][t].healthy })
}

// Err returns the errors of changes of the router that failed.
func (b *Balancer) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// Close ends the health checks and removes the balancer and its ENI. A second call does
// nothing.
func (b *Balancer) Close() (err error) {
	b.once.Do(func() {
		b.cancel()
		b.checks.Wait()
		b.mu.Lock()
		if b.nft != nil {
			b.nft.AddTable(b.table())
			b.nft.DelTable(b.table())
			err = errors.Join(b.nft.Flush(), b.nft.CloseLasting())
			b.nft = nil
		}
		b.mu.Unlock()
		err = errors.Join(err, b.fabric.RemoveInstance(b.in.Name))
	})
	return err
}

func (b *Balancer) table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: "balancer-" + b.in.ENI.ID}
}

func (b *Balancer) program() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.programLocked()
}

// programLocked replaces the rules in one transaction:
//
//	table inet balancer-eni-… {
//		chain prerouting {
//			type nat hook prerouting priority dstnat;
//			ct state
//			ip daddr 10.0.0.9 tcp dport 80 numgen inc mod 2 0 dnat to 10.0.0.10:8080
//			ip daddr 10.0.0.9 tcp dport 80 dnat to 10.0.0.11:8080
//		}
//	}
//
// The n-th rule of a listener takes every n-th flow that reaches it, counted from the end,
// so that each target gets an equal share. The caller holds b.mu.
func (b *Balancer) programLocked() error {
	t := b.nft.AddTable(b.table())
	c := b.nft.AddChain(&nftables.Chain{
		Table: t, Name: "prerouting", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	})
	b.nft.FlushChain(c)
	// The kernel tracks connections as long as a rule needs it. Without this rule the flows of
	// the last healthy target would lose their translation when it becomes unhealthy.
	b.nft.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: []expr.Any{&expr.Ct{Register: 1, Key: expr.CtKeySTATE}}})
	for i, l := range b.in.Listeners {
		for _, v := range ipVersions {
			var targets []netip.AddrPort
			for _, h := range b.healthyOf(i) {
				if versionOf(h.Addr()).family == v.family && b.addr(h.Addr()).IsValid() {
					targets = append(targets, h)
				}
			}
			for n, target := range targets {
				b.nft.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: slices.Concat(
					family(v.family), v.address(true).is(b.addr(target.Addr()).AsSlice()),
					listening(l), turn(len(targets)-n), translate(v.family, target),
				)})
			}
		}
	}
	if err := b.nft.Flush(); err != nil {
		return fmt.Errorf("rules of the balancer: %w", err)
	}
	return nil
}

// listening matches the packets to the port of a listener.
func listening(l Listener) []expr.Any {
	protocol := unix.IPPROTO_TCP
	if l.Network == "udp" {
		protocol = unix.IPPROTO_UDP
	}
	const portOffset, portLength = 2, 2
	return append(protocolIs(expr.CmpOpEq, protocol), layer4(portOffset, portLength).is(portNumber(int(l.Port)))...)
}

// turn matches every n-th flow.
func turn(n int) []expr.Any {
	return []expr.Any{
		&expr.Numgen{Register: 1, Modulus: uint32(n), Type: unix.NFT_NG_INCREMENTAL},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: make([]byte, 4)},
	}
}

// translate rewrites the destination to the target.
func translate(family byte, target netip.AddrPort) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: target.Addr().AsSlice()},
		&expr.Immediate{Register: 2, Data: portNumber(int(target.Port()))},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(family), RegAddrMin: 1, RegProtoMin: 2},
	}
}
