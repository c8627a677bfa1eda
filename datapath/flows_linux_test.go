// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/datapathtest"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/datapath/policy"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// TestAccelerate holds flows of pods open while they are accelerated, which the forward hook
// shows: it sees no packet of them. If this kernel has no flowtables, the errors must say so,
// and the test of internal/vm runs the rest on one that has.
func TestAccelerate(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			l := newLab(t, layout)
			l.n.Accelerate = true
			if lacking := l.h.Accelerates(t.Context()); lacking != nil {
				err := l.h.EnsureNode(t.Context(), *l.n)
				if os.Getenv(vmEnv) != "" || !errors.Is(lacking, errors.ErrUnsupported) || !errors.Is(err, errors.ErrUnsupported) {
					t.Errorf("Accelerates: %v; EnsureNode: %v", lacking, err)
				}
				return
			}
			testAccelerate(t, &accelerated{lab: l})
		})
	}
}

// accelerated is a lab with two pods that have accelerated flows: on the second ENI and on the
// primary one.
type accelerated struct {
	*lab
	vpcHost string // path
	pods    [2]datapath.Pod
	wanted  atomic.Pointer[datapath.Desired]
	repairs atomic.Int64
}

func (l *accelerated) desired() datapath.Desired { return *l.wanted.Load() }

func testAccelerate(t *testing.T, l *accelerated) {
	l.vpcHost = l.AddVPCHost()
	l.n.ENIs[1].MTU = 1500
	l.Translate()
	l.ensure()
	for i := range l.pods {
		p := l.pod(1-i, fmt.Sprintf("accelerated%d", i))
		p.MTU = 1400 + 100*i // so that the node has to tell the second about the first
		l.pods[i] = p
		l.add(p)
		for _, a := range p.Addrs {
			l.listen(p.Netns, a.Addr)
		}
	}
	l.nft(l.services())
	l.wanted.Store(&datapath.Desired{Node: *l.n, Pods: l.pods[:]})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- l.h.Watch(ctx, datapath.WatchConfig{
			Desired: l.desired, Every: time.Second,
			Repaired: func(r datapath.Repair) { l.repairs.Add(1); t.Logf("repaired %v", r.Changes) },
		})
	}()
	defer func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	l.waitLinks(l.pods[0].HostLink(), l.pods[1].HostLink())
	for family := range 2 {
		t.Run(fmt.Sprintf("IPv%d", 4+2*family), func(t *testing.T) {
			for _, r := range l.rows(family) {
				for _, network := range []string{"tcp", "udp"} {
					t.Run(r.name+"/"+network, func(t *testing.T) { l.testRow(t, r, network) })
				}
			}
		})
	}
	if n := l.repairs.Load(); n != 0 {
		t.Errorf("Watch repaired %d times, want none", n)
	}
	t.Run("policy", l.testLimit)
	t.Run("repair", l.testFlowsRepaired)
	t.Run("forged", l.testForged)
	t.Run("reused", l.testReused)
}

// services returns rules of a proxy for Services: addresses of Services with the endpoints
// that the rows name, and node port 30007 of the first pod.
func (l *accelerated) services() string {
	var rules strings.Builder
	for family, name := range []string{"ip", "ip6"} {
		one, two := l.pods[0].Addrs[family].Addr, l.pods[1].Addrs[family].Addr
		for k, to := range [][2]netip.Addr{{datapathtest.VPCHost4, datapathtest.VPCHost6}, {outside4, outside6}, {two, two}, {one, one}} {
			fmt.Fprintf(&rules, "%s daddr %s meta l4proto { tcp, udp } th dport 7 dnat %s to %s\n", name, service(family, k), name, netip.AddrPortFrom(to[family], 7))
		}
		fmt.Fprintf(&rules, "%s daddr %s meta l4proto { tcp, udp } th dport 30007 dnat %s to %s\n", name, [2]netip.Addr{host4, host6}[family], name, netip.AddrPortFrom(one, 7))
	}
	return `table inet proxy {
	chain services { type nat hook prerouting priority -100; ` + strings.ReplaceAll(rules.String(), "\n", "; ") + ` }
	chain hairpin {
		type nat hook postrouting priority 99
		ip saddr ` + l.pods[0].Addrs[0].Addr.String() + ` ip daddr ` + l.pods[0].Addrs[0].Addr.String() + ` masquerade
		ip6 saddr ` + l.pods[0].Addrs[1].Addr.String() + ` ip6 daddr ` + l.pods[0].Addrs[1].Addr.String() + ` masquerade
	}
}
table inet seen { chain forward { type filter hook forward priority 5; counter; }; }
`
}

// service returns the address of Service k.
func service(family, k int) netip.Addr {
	if family == 0 {
		return netip.AddrFrom4([4]byte{172, 20, 0, byte(10 + k)})
	}
	a := netip.MustParseAddr("fd00:20::10").As16()
	a[15] += byte(k)
	return netip.AddrFrom16(a)
}

// nft loads rules into the kernel of the node.
func (l *accelerated) nft(text string) string {
	l.t.Helper()
	var out strings.Builder
	args := []string{"-f", "-"}
	if !strings.Contains(text, "{") {
		args = strings.Fields(text)
	}
	on(l.t, l.node, func() error {
		cmd := exec.Command("nft", args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(text), &out, &out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("nft: %w: %s", err, &out)
		}
		return nil
	})
	return out.String()
}

// seen returns how many packets the forward hook has seen.
func (l *accelerated) seen() uint64 {
	l.t.Helper()
	var rules []*nftables.Rule
	on(l.t, l.node, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := &nftables.Table{Name: "seen", Family: nftables.TableFamilyINet}
		rules, err = c.GetRules(table, &nftables.Chain{Name: "forward", Table: table})
		return err
	})
	return rules[0].Exprs[0].(*expr.Counter).Packets
}

// row is a flow: from a namespace and a source address to an echo server, with the source that
// the server sees. A zero source is any.
type row struct {
	name   string
	from   string // path
	local  netip.Addr
	to     netip.AddrPort
	source netip.Addr
}

func (l *accelerated) rows(family int) (rows []row) {
	pick := func(addrs ...netip.Addr) netip.Addr { return addrs[family] }
	one, two := l.pods[0].Addrs[family].Addr, l.pods[1].Addrs[family].Addr
	host, out, node := pick(datapathtest.VPCHost4, datapathtest.VPCHost6), pick(outside4, outside6), pick(host4, host6)
	// Package snat translates IPv4 alone.
	translated := func(a netip.Addr) netip.Addr { return pick(host4, a) }
	for _, x := range []struct {
		name   string
		from   string
		local  netip.Addr
		to     netip.Addr
		port   uint16
		source netip.Addr
	}{
		{"pod on the second ENI to the VPC", l.pods[0].Netns, one, host, 7, one},
		{"pod on the second ENI to outside", l.pods[0].Netns, one, out, 7, translated(one)},
		{"pod on the primary ENI to the VPC", l.pods[1].Netns, two, host, 7, two},
		{"pod on the primary ENI to outside", l.pods[1].Netns, two, out, 7, translated(two)},
		{"pod to pod", l.pods[0].Netns, one, two, 7, one},
		{"pod to a Service in the VPC", l.pods[0].Netns, one, service(family, 0), 7, one},
		{"pod to a Service outside", l.pods[0].Netns, one, service(family, 1), 7, translated(one)},
		{"pod to a Service of a pod", l.pods[0].Netns, one, service(family, 2), 7, one},
		{"pod to its own Service", l.pods[0].Netns, one, service(family, 3), 7, netip.Addr{}},
		{"VPC to pod on the second ENI", l.vpcHost, host, one, 7, host},
		{"VPC to pod on the primary ENI", l.vpcHost, host, two, 7, host},
		{"VPC to node port", l.vpcHost, host, node, 30007, host},
	} {
		rows = append(rows, row{x.name, x.from, x.local, netip.AddrPortFrom(x.to, x.port), x.source})
	}
	return rows
}

// testRow opens a flow, waits until it is accelerated, and sends through it what must leave
// the short way: large packets.
func (l *accelerated) testRow(t *testing.T, r row, network string) {
	c := l.open(t, r, network)
	c.waitAccelerated()
	if network == "udp" {
		c.mustSay(strings.Repeat("l", 1450)) // more than the MTU of the first pod
		c.mustSay(strings.Repeat("f", 4000)) // in fragments
	} else {
		c.mustSay(strings.Repeat("s", 30_000)) // in segments larger than the MTU of an ENI
	}
	c.waitAccelerated()
}

// conversation is an open flow to an echo server.
type conversation struct {
	l    *accelerated
	t    *testing.T
	row  row
	conn net.Conn
	in   *bufio.Reader
	said int
}

func (l *accelerated) open(t *testing.T, r row, network string) *conversation {
	t.Helper()
	ns, err := fabric.OpenNetns(r.from)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	conn, err := ns.Dial(t.Context(), network, netip.AddrPortFrom(r.local, 0), r.to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &conversation{l: l, t: t, row: r, conn: conn, in: bufio.NewReaderSize(conn, 1<<16)}
}

// say sends a line and returns an error if its echo does not arrive in time. A datagram is
// sent again, since a path MTU or a neighbour may have to be found first.
func (c *conversation) say(text string, within time.Duration) error {
	c.said++
	text = fmt.Sprintf("%d %s", c.said, text)
	end := time.Now().Add(within)
	for {
		if c.conn.LocalAddr().Network() == "tcp" {
			if _, err := fmt.Fprintln(c.conn, text); err != nil {
				return err
			}
			_ = c.conn.SetReadDeadline(end)
			answer, err := c.in.ReadString('\n')
			if err != nil {
				return err
			}
			return c.check(strings.TrimSuffix(answer, "\n"), text)
		}
		_, _ = c.conn.Write([]byte(text))
		_ = c.conn.SetReadDeadline(time.Now().Add(min(time.Second, time.Until(end))))
		buf := make([]byte, 1<<16)
		n, err := c.conn.Read(buf)
		switch {
		case err == nil && strings.Contains(string(buf[:min(n, 80)]), fmt.Sprintf(" %d ", c.said)):
			return c.check(string(buf[:n]), text)
		case err == nil && strings.Contains(string(buf[:n]), "forged"):
			return fmt.Errorf("the answer to a forged packet arrived: %q", buf[:n])
		case time.Now().After(end):
			return fmt.Errorf("no answer within %v: %w", within, os.ErrDeadlineExceeded)
		}
	}
}

// check compares an answer with what was said, and the source that the server saw.
func (c *conversation) check(answer, text string) error {
	source, said, _ := strings.Cut(answer, " ")
	if said != text {
		return fmt.Errorf("answer of %d bytes, want %d: %.40q", len(said), len(text), answer)
	}
	if a, err := netip.ParseAddrPort(source); err != nil || c.row.source.IsValid() && a.Addr() != c.row.source {
		return fmt.Errorf("the server saw %s, want %s", source, c.row.source)
	}
	return nil
}

const longTime = time.Minute

func (c *conversation) mustSay(text string) {
	c.t.Helper()
	if err := c.say(text, longTime); err != nil {
		c.t.Fatal(err)
	}
}

// isAccelerated reports whether the forward hook sees no packet of the flow.
func (c *conversation) isAccelerated() bool {
	c.t.Helper()
	before := c.l.seen()
	for range 5 {
		c.mustSay("hello")
	}
	return c.l.seen() == before
}

func (c *conversation) waitAccelerated() {
	c.t.Helper()
	for end := time.Now().Add(longTime); !c.isAccelerated(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatalf("the flow is not accelerated: %s", c.l.nft("list ruleset"))
		}
	}
}

// waitLinks waits until the table has exactly these links of pods.
func (l *accelerated) waitLinks(want ...string) {
	l.t.Helper()
	slices.Sort(want)
	var have []string
	for end := time.Now().Add(longTime); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		s, err := l.h.Observe(l.t.Context())
		if err != nil {
			l.t.Fatal(err)
		}
		have = nil
		for _, x := range s.Flows.Links {
			if !x.ENI && !x.Unhooked {
				have = append(have, x.Name)
			}
		}
		if slices.Equal(have, want) {
			return
		}
	}
	l.t.Fatalf("the table has the links %q, want %q", have, want)
}

// find returns the row of a family and a name.
func (l *accelerated) find(family int, name string) row {
	for _, r := range l.rows(family) {
		if r.name == name {
			return r
		}
	}
	l.t.Fatalf("no row %s", name)
	return row{}
}

// testLimit puts a policy on a pod with open, accelerated flows: it stops them. After
// its end they go on, and are accelerated again.
func (l *accelerated) testLimit(t *testing.T) {
	h, err := policy.Open(l.node)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	var flows []*conversation
	for family, name := range []string{"VPC to pod on the second ENI", "pod on the second ENI to the VPC"} {
		for _, network := range []string{"tcp", "udp"} {
			c := l.open(t, l.find(family, name), network)
			c.waitAccelerated()
			flows = append(flows, c)
		}
	}
	isolated := policy.Rules{Isolated: true}
	class, err := policy.Compile(policy.Class{Ingress: isolated, Egress: isolated})
	if err != nil {
		t.Fatal(err)
	}
	limited, denied := l.desired(), policy.State{Classes: map[string]policy.Compiled{"deny": class}, Pods: map[netip.Addr]string{}}
	for _, a := range l.pods[0].Addrs {
		limited.Limited, denied.Pods[a.Addr] = append(limited.Limited, a.Addr), "deny"
	}
	l.wanted.Store(&limited)
	if err := l.h.Limit(t.Context(), l.desired); err != nil {
		t.Fatal(err)
	}
	for _, c := range flows {
		if c.isAccelerated() {
			t.Error("the flow of a limited pod is accelerated")
		}
	}
	if _, err := h.Apply(t.Context(), denied); err != nil {
		t.Fatal(err)
	}
	for _, c := range flows {
		if err := c.say("denied", 2*time.Second); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("in an open flow of a pod that may send and receive nothing: %v", err)
		}
	}
	l.waitLinks(l.pods[1].HostLink())
	if _, err := h.Apply(t.Context(), policy.State{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range flows {
		if c.conn.LocalAddr().Network() == "udp" { // the line that was denied comes late by TCP
			c.mustSay("allowed")
		}
	}
	unlimited := l.desired()
	unlimited.Limited = nil
	l.wanted.Store(&unlimited)
	l.waitLinks(l.pods[0].HostLink(), l.pods[1].HostLink())
	for _, c := range flows {
		if c.conn.LocalAddr().Network() == "udp" {
			c.waitAccelerated()
		}
	}
	if err := h.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// testFlowsRepaired deletes the table, and takes a link out of it.
func (l *accelerated) testFlowsRepaired(t *testing.T) {
	before := l.state()
	for _, damage := range []string{
		"delete table inet " + netstate.FlowsTable,
		"flush chain inet " + netstate.FlowsTable + " forward",
		"delete element inet " + netstate.FlowsTable + " " + netstate.FlowENIs + " { \"ens6\" }",
		"delete element inet " + netstate.FlowsTable + " " + netstate.FlowPods + " { \"" + l.pods[0].HostLink() + "\" }",
	} {
		l.nft(damage)
		for end := time.Now().Add(longTime); l.state() != before; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("after %q:\n%s", damage, l.state())
			}
		}
	}
	c := l.open(t, l.find(0, "pod on the second ENI to outside"), "udp")
	c.waitAccelerated()
}

// testForged sends, by the link of another pod and from outside, packets with the addresses
// and ports of an accelerated flow.
func (l *accelerated) testForged(t *testing.T) {
	for family := range 2 {
		r := l.find(family, "pod on the second ENI to the VPC")
		c := l.open(t, r, "udp")
		c.waitAccelerated()
		other, err := fabric.OpenNetns(l.pods[1].Netns)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		for range 3 {
			if err := other.Send(c.conn.LocalAddr().(*net.UDPAddr).AddrPort(), r.to, []byte("forged")); err != nil {
				t.Fatal(err)
			}
		}
		c.mustSay("after the forged ones")
		if !c.isAccelerated() {
			t.Error("forged packets ended the flow")
		}
	}
}

// testReused deletes a pod with open flows, and gives its address to another one: the packets
// of the flows go to that one.
func (l *accelerated) testReused(t *testing.T) {
	var flows []*conversation
	for family := range 2 {
		c := l.open(t, l.find(family, "VPC to pod on the second ENI"), "udp")
		c.waitAccelerated()
		flows = append(flows, c)
	}
	gone := l.pods[0]
	next := gone
	next.ContainerID, next.Netns = "another", newNetns(t)
	if err := l.h.RetirePod(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	for _, c := range flows {
		if err := c.say("to a pod that has ended", time.Second); err == nil {
			t.Error("a pod that has ended answers")
		}
	}
	l.pods[0] = next
	l.wanted.Store(&datapath.Desired{Node: *l.n, Pods: l.pods[:]})
	l.add(next)
	for _, a := range next.Addrs {
		l.listen(next.Netns, a.Addr)
	}
	for _, c := range flows {
		c.mustSay("to the next pod")
	}
	l.waitLinks(next.HostLink(), l.pods[1].HostLink())
	for _, c := range flows {
		c.waitAccelerated()
	}
	if err := l.h.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range flows {
		c.waitAccelerated()
	}
	s, err := l.h.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if text := s.Flows.String(); strings.Contains(text, gone.HostLink()) {
		t.Errorf("the table has the link of a pod that has ended:\n%s", text)
	}
}
