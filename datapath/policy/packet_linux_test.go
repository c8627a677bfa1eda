// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/datapathtest"
	"github.com/vpcnet/vpcnet/datapath/policy"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// deny denies everything in both directions.
var deny = policy.Class{Ingress: policy.Rules{Isolated: true}, Egress: policy.Rules{Isolated: true}}

// peers returns blocks of the addresses of hosts.
func peers(hosts ...*host) (blocks []policy.Block) {
	for _, h := range hosts {
		for _, a := range h.addrs {
			blocks = append(blocks, policy.Block{Prefix: netip.PrefixFrom(a, a.BitLen())})
		}
	}
	return blocks
}

// echoPorts are the ports of echo servers.
func echoPorts() []policy.Ports {
	return []policy.Ports{{Protocol: policy.TCP, First: fabric.EchoPort}, {Protocol: policy.UDP, First: fabric.EchoPort}}
}

func forLayouts(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	for _, layout := range datapathtest.Layouts() {
		t.Run(string(layout), func(t *testing.T) { f(t, newWorld(t, layout)) })
	}
}

// TestDefaultDeny isolates a pod in one direction after the other. The node reaches its own
// pod, and the pod its node, under all of them.
func TestDefaultDeny(t *testing.T) {
	forLayouts(t, func(t *testing.T, w *world) {
		node := func() {
			t.Helper()
			w.passes(w.node, w.b)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			for _, a := range w.node.addrs {
				if _, err := w.b.ns.Ping(ctx, netip.Addr{}, a); err != nil {
					t.Errorf("the pod to its node: %v", err)
				}
			}
		}
		w.apply(policy.State{})
		for _, h := range []*host{w.a, w.c, w.vpc, w.out} {
			w.passes(h, w.b)
			w.passes(w.b, h)
		}
		w.apply(w.state(map[string]policy.Class{"b": {Ingress: policy.Rules{Isolated: true}}}))
		for _, h := range []*host{w.a, w.c, w.vpc} {
			w.stops(h, w.b)
			w.passes(w.b, h)
		}
		node()
		w.apply(w.state(map[string]policy.Class{"b": {Egress: policy.Rules{Isolated: true}}}))
		for _, h := range []*host{w.a, w.c, w.vpc} {
			w.passes(h, w.b)
			w.stops(w.b, h)
		}
		node()
		w.apply(w.state(map[string]policy.Class{"b": deny}))
		w.stops(w.a, w.b)
		w.stops(w.b, w.vpc)
		node()
		w.apply(policy.State{})
		w.passes(w.a, w.b)
		w.passes(w.b, w.vpc)
	})
}

// conversation is an open connection to an echo server.
type conversation struct {
	t    *testing.T
	conn net.Conn
}

func (w *world) converse(t *testing.T, network string, from, to *host, six bool) conversation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := from.ns.Dial(ctx, network, netip.AddrPortFrom(from.of(six), 0), netip.AddrPortFrom(to.of(six), fabric.EchoPort))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return conversation{t, c}
}

// says sends a line and waits for the answer.
func (c conversation) says(within time.Duration) error {
	ctx, cancel := context.WithTimeout(c.t.Context(), within)
	defer cancel()
	_, err := fabric.Exchange(ctx, c.conn, "still here")
	return err
}

// TestOpenFlows changes policies under open connections, in the direction of the client and
// of the server. What is denied stops at once, and what is allowed goes on.
func TestOpenFlows(t *testing.T) {
	forLayouts(t, func(t *testing.T, w *world) {
		to := func(h *host) policy.Rules { return allow(policy.Rule{Peers: peers(h), Ports: echoPorts()}) }
		allowed := w.state(map[string]policy.Class{"a": {Egress: to(w.b)}, "b": {Ingress: to(w.a), Egress: policy.Rules{Isolated: true}}})
		for name, denied := range map[string]policy.State{
			"server": w.state(map[string]policy.Class{"a": {Egress: to(w.b)}, "b": deny}),
			"client": w.state(map[string]policy.Class{"a": deny, "b": {Ingress: to(w.a), Egress: policy.Rules{Isolated: true}}}),
			"port":   w.state(map[string]policy.Class{"a": {Egress: allow(policy.Rule{Peers: peers(w.b), Ports: []policy.Ports{{Protocol: policy.TCP, First: 80}}})}, "b": {Ingress: to(w.a)}}),
		} {
			w.each(func(network string, six bool) {
				w.apply(allowed)
				c := w.converse(t, network, w.a, w.b, six)
				if err := c.says(patience); err != nil {
					t.Fatalf("%s %s: %v", name, network, err)
				}
				w.apply(denied)
				if err := c.says(datapathtest.AnswerTime); err == nil {
					t.Errorf("%s %s: a denied connection goes on", name, network)
				}
				w.apply(allowed)
				// The answers to what was sent meanwhile come first.
				if err := c.says(patience); err != nil {
					t.Errorf("%s %s: a connection that is allowed again is cut: %v", name, network, err)
				}
			})
		}
	})
}

// TestStreamOfReplies denies a UDP flow in which only the server sends any more.
func TestStreamOfReplies(t *testing.T) {
	forLayouts(t, func(t *testing.T, w *world) {
		w.record(w.a)
		w.record(w.b)
		class := policy.Class{Ingress: allow(policy.Rule{Peers: peers(w.a), Ports: []policy.Ports{{Protocol: policy.UDP, First: 53}}})}
		for i := range w.a.addrs {
			w.apply(w.state(map[string]policy.Class{"b": class}))
			q := w.send(w.a, w.b, policy.Flow{Src: w.a.addrs[i], Dst: w.b.addrs[i], Protocol: policy.UDP, Port: 53})
			w.wait(q)
			w.wait(w.reply(q))
			w.apply(w.state(map[string]policy.Class{"b": {Ingress: policy.Rules{Isolated: true}}}))
			lost := w.reply(q)
			w.apply(w.state(map[string]policy.Class{"b": class}))
			w.wait(w.reply(q))
			if w.arrived([]sent{lost})[string(lost.marker)] {
				t.Error("a reply has passed although its connection is denied")
			}
		}
	})
}

// wait waits for a packet.
func (w *world) wait(s sent) {
	w.t.Helper()
	for end := time.Now().Add(patience); !w.arrived([]sent{s})[string(s.marker)]; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("from %s to %s, %+v: not arrived", s.from.name, s.to.name, s.Flow)
		}
	}
}

// TestAllowedPort opens a new connection from the port of a server that clients may reach, to
// a client that it may not reach. It is no reply.
func TestAllowedPort(t *testing.T) {
	forLayouts(t, func(t *testing.T, w *world) {
		w.record(w.a)
		w.record(w.b)
		server := policy.Class{
			Ingress: allow(policy.Rule{Peers: peers(w.a), Ports: []policy.Ports{{Protocol: policy.UDP, First: 53}, {Protocol: policy.TCP, First: 53}, {Protocol: policy.SCTP, First: 53}}}),
			Egress:  policy.Rules{Isolated: true},
		}
		w.apply(w.state(map[string]policy.Class{"b": server}))
		for i := range w.a.addrs {
			for _, p := range []policy.Protocol{policy.TCP, policy.UDP, policy.SCTP} {
				back := policy.Flow{Src: w.b.addrs[i], Dst: w.a.addrs[i], Protocol: p, Port: 9999}
				forged := sent{Flow: back, from: w.b, to: w.a, sport: 53, marker: []byte(fmt.Sprintf("forged-%d-%d", p, i))}
				w.raw(w.b, back.Src, back.Dst, p, forged.first())
				asked := w.send(w.a, w.b, policy.Flow{Src: w.a.addrs[i], Dst: w.b.addrs[i], Protocol: p, Port: 53})
				w.wait(asked)
				if w.arrived([]sent{forged})[string(forged.marker)] {
					t.Errorf("%s: a new connection from the server's port has passed", p)
				}
			}
		}
	})
}

// TestFragments sends datagrams of several fragments to an allowed port, and again when it is
// not allowed any more.
func TestFragments(t *testing.T) {
	forLayouts(t, func(t *testing.T, w *world) {
		exchange := func(i int, within time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			c, err := w.a.ns.Dial(ctx, "udp", netip.AddrPortFrom(w.a.addrs[i], 0), netip.AddrPortFrom(w.b.addrs[i], fabric.EchoPort))
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = fabric.Exchange(ctx, c, strings.Repeat("x", 1800))
			return err
		}
		w.apply(w.state(map[string]policy.Class{"b": {Ingress: allow(policy.Rule{Peers: peers(w.a), Ports: echoPorts()})}}))
		for i := range w.a.addrs {
			if err := exchange(i, patience); err != nil {
				t.Errorf("fragments to %v: %v", w.b.addrs[i], err)
			}
		}
		w.apply(w.state(map[string]policy.Class{"b": {Ingress: allow(policy.Rule{Peers: peers(w.c), Ports: echoPorts()})}}))
		for i := range w.a.addrs {
			if err := exchange(i, 500*time.Millisecond); err == nil {
				t.Errorf("fragments to %v arrive although no rule allows them", w.b.addrs[i])
			}
		}
	})
}

// service installs the rules of kube-proxy for a Service, in one of its modes.
func service(t *testing.T, ns *fabric.Netns, mode string, vip netip.Addr, to netip.Addr) {
	t.Helper()
	family := "ip"
	if to.Is6() {
		family = "ip6"
	}
	endpoint := netip.AddrPortFrom(to, fabric.EchoPort)
	if mode == "nftables" {
		err := script(t, ns, fmt.Sprintf(`
table %[1]s kube-proxy {
	chain services {
		type nat hook prerouting priority dstnat; policy accept;
		%[1]s saddr %[4]v %[1]s daddr %[2]v meta l4proto { tcp, udp } th dport 80 meta mark set mark | 0x4000
		%[1]s daddr %[2]v meta l4proto { tcp, udp } th dport 80 dnat to %[3]v
	}
	chain masquerading {
		type nat hook postrouting priority srcnat; policy accept;
		meta mark & 0x4000 == 0x4000 masquerade fully-random
	}
}`, family, vip, endpoint, to))
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	program := "iptables-" + mode
	if to.Is6() {
		program = "ip6tables-" + mode
	}
	run := func(args ...string) {
		t.Helper()
		var out strings.Builder
		cmd := exec.CommandContext(t.Context(), program, append([]string{"-w", "-t", "nat"}, args...)...)
		cmd.Stdout, cmd.Stderr = &out, &out
		err := ns.Start(cmd)
		if err == nil {
			err = cmd.Wait()
		}
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", program, args, err, &out)
		}
	}
	for _, protocol := range []string{"tcp", "udp"} {
		match := []string{"-A", "PREROUTING", "-d", vip.String(), "-p", protocol, "--dport", "80"}
		run(append(match, "-s", to.String(), "-j", "MARK", "--or-mark", "0x4000")...)
		run(append(match, "-j", "DNAT", "--to-destination", endpoint.String())...)
	}
	run("-A", "POSTROUTING", "-m", "mark", "--mark", "0x4000/0x4000", "-j", "MASQUERADE", "--random-fully")
}

// TestServices asks pods by Services in the modes of kube-proxy. A policy sees the pod behind
// the Service and its port. A pod that is its own endpoint reaches itself in any case.
func TestServices(t *testing.T) {
	for _, mode := range []string{"nftables", "nft", "legacy"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t, datapath.Flat)
			vips := []netip.Addr{addr("172.20.0.10"), addr("fd00:20::10")}
			for i, a := range w.b.addrs {
				service(t, w.Netns, mode, vips[i], a)
			}
			try := func(from *host, i int, network string, within time.Duration) error {
				ctx, cancel := context.WithTimeout(t.Context(), within)
				defer cancel()
				_, err := from.ns.Ask(ctx, network, netip.AddrPortFrom(from.addrs[i], 0), netip.AddrPortFrom(vips[i], 80))
				return err
			}
			check := func(from *host, passes bool) {
				t.Helper()
				for i := range from.addrs {
					for _, network := range []string{"tcp", "udp"} {
						within := patience
						if !passes {
							within = datapathtest.AnswerTime
						}
						if err := try(from, i, network, within); (err == nil) != passes {
							t.Errorf("%s from %s by the Service of %v: %v, want it to pass: %t", network, from.name, w.b.addrs[i], err, passes)
						}
					}
				}
			}
			w.apply(policy.State{})
			check(w.a, true)
			check(w.b, true)
			toB := allow(policy.Rule{Peers: peers(w.b), Ports: echoPorts()})
			w.apply(w.state(map[string]policy.Class{"a": {Egress: toB}, "b": {Ingress: allow(policy.Rule{Peers: peers(w.a), Ports: echoPorts()}), Egress: policy.Rules{Isolated: true}}}))
			check(w.a, true)
			check(w.c, false)
			check(w.b, true)
			w.apply(w.state(map[string]policy.Class{"a": deny, "b": {}}))
			check(w.a, false)
			check(w.c, true)
			w.apply(w.state(map[string]policy.Class{"b": deny}))
			check(w.a, false)
			check(w.b, true)
		})
	}
}

// TestFlushUnderTraffic has another program flush the ruleset again and again while a pod
// sends what is denied. No packet passes where tables have owners; on other kernels Watch
// closes the way again.
func TestFlushUnderTraffic(t *testing.T) {
	w := newWorld(t, datapath.Flat)
	w.record(w.b)
	watch(t, w.h)
	w.apply(w.state(map[string]policy.Class{"a": deny}))
	var all []sent
	for range 40 {
		for range 25 {
			all = append(all, w.send(w.a, w.b, policy.Flow{Src: w.a.addrs[0], Dst: w.b.addrs[0], Protocol: policy.UDP, Port: 53}))
		}
		if err := script(t, w.Netns, "flush ruleset"); err != nil {
			t.Fatal(err)
		}
	}
	slipped := len(w.arrived(all))
	if policy.IsPlain(w.h) {
		t.Logf("%d of %d packets have passed between flush and repair", slipped, len(all))
		return
	}
	if slipped > 0 {
		t.Errorf("%d of %d denied packets have passed", slipped, len(all))
	}
}

// TestChangesUnderTraffic changes the class of a pod, and the rules of other classes, while
// it sends what every one of its classes denies and what every one allows. Nothing that is
// denied passes, and what is allowed is not cut.
func TestChangesUnderTraffic(t *testing.T) {
	w := newWorld(t, datapath.Flat)
	w.record(w.b)
	class := func(i int) policy.Class {
		extra := policy.Rule{Peers: []policy.Block{block(fmt.Sprintf("10.1.%d.0/24", i%200))}, Ports: []policy.Ports{{}}}
		return policy.Class{Egress: allow(policy.Rule{Peers: peers(w.b), Ports: echoPorts()}, extra)}
	}
	name := func(i int) string { return fmt.Sprint("class-", i%3) }
	apply := func(i int) {
		s := policy.State{Classes: map[string]policy.Compiled{name(i): compiled(t, class(i))}, Pods: map[netip.Addr]string{}}
		for _, a := range w.a.addrs {
			s.Pods[a] = name(i)
		}
		if _, err := w.h.Apply(t.Context(), s); err != nil {
			t.Error(err)
		}
	}
	apply(0)
	c := w.converse(t, "tcp", w.a, w.b, false)
	var stop atomic.Bool
	done := make(chan int)
	go func() {
		i := 1
		for ; !stop.Load(); i++ {
			apply(i)
		}
		done <- i
	}()
	var all []sent
	for range 60 {
		for range 25 {
			all = append(all, w.send(w.a, w.b, policy.Flow{Src: w.a.addrs[0], Dst: w.b.addrs[0], Protocol: policy.UDP, Port: 53}))
		}
		if err := c.says(patience); err != nil {
			t.Errorf("the allowed connection: %v", err)
			break
		}
	}
	stop.Store(true)
	t.Logf("%d changes", <-done)
	if slipped := len(w.arrived(all)); slipped > 0 {
		t.Errorf("%d of %d denied packets have passed", slipped, len(all))
	}
}

// TestKilledAtEveryStep ends the process of a handle before, between and after the
// transactions of a change of a pod's class, with and without an owner of the table. The pod
// sends what both classes deny all the time, and none of it passes. The next process brings
// the change to its end.
func TestKilledAtEveryStep(t *testing.T) {
	w := newWorld(t, datapath.Flat)
	w.record(w.b)
	class := func(name string, to *host) policy.State {
		s := policy.State{Classes: map[string]policy.Compiled{name: compiled(t, policy.Class{Egress: allow(policy.Rule{Peers: peers(to), Ports: echoPorts()})})}, Pods: map[netip.Addr]string{}}
		for _, a := range w.a.addrs {
			s.Pods[a] = name
		}
		return s
	}
	before, after := class("before", w.c), class("after", w.vpc)
	var all []sent
	flood := func() {
		for range 20 {
			all = append(all, w.send(w.a, w.b, policy.Flow{Src: w.a.addrs[0], Dst: w.b.addrs[0], Protocol: policy.UDP, Port: fabric.EchoPort}))
		}
	}
	for _, plain := range []bool{false, true} {
		for _, step := range []string{"before", "between", "after"} {
			h, err := policy.Open(w.Netns.Path())
			if err != nil {
				t.Fatal(err)
			}
			if plain {
				policy.Plain(h)
			}
			if _, err := h.Apply(t.Context(), before); err != nil {
				t.Fatal(err)
			}
			flood()
			switch step {
			case "between":
				err = policy.Begin(h, after)
			case "after":
				_, err = h.Apply(t.Context(), after)
			}
			flood()
			if err := errors.Join(err, h.Close()); err != nil {
				t.Fatal(err)
			}
			flood()
			allowed, denied := w.c, w.vpc
			if step == "after" {
				allowed, denied = w.vpc, w.c
			}
			w.passes(w.a, allowed)
			if err := w.ask("udp", w.a, denied, false, datapathtest.AnswerTime); err == nil {
				t.Errorf("plain %t, killed %s: the pod reaches %s", plain, step, denied.name)
			}
			next, err := policy.Open(w.Netns.Path())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := next.Apply(t.Context(), after); err != nil {
				t.Fatal(err)
			}
			flood()
			holds(t, next, after)
			w.passes(w.a, w.vpc)
			if err := next.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.h.Remove(t.Context()); err != nil { // a table without an owner is made only if there is none
			t.Fatal(err)
		}
	}
	if slipped := len(w.arrived(all)); slipped > 0 {
		t.Errorf("%d of %d denied packets have passed", slipped, len(all))
	}
}
