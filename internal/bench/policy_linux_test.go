// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/policy"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// limited is a node with policies for its pods.
type limited struct {
	name           string
	policies, pods int
	// other sets up another implementation in the place of package policy.
	other func(b *testing.B, n *node, sender netip.Addr, pods int)

	*sender
	// fresh is the time of a round trip that is the first of its connection.
	fresh figures
	id    uint16
}

// BenchmarkPolicyPacket sends packets from a pod on a second ENI, on nodes that differ in the
// number of policies that select the pod and in the number of other pods with policies: one way
// and round trip in an open connection, and a round trip that begins one. By turns it measures
// a node without policies, one that only tracks connections, nodes with package policy, a node
// with a chain of iptables-nft for each pod, and a node where first packets go through an
// nfqueue. The queue's program only accepts, and accepted connections have a mark and do not
// come to it again, as in kube-network-policies, of which it is the least.
func BenchmarkPolicyPacket(b *testing.B) {
	f := newFabric(b)
	sink(b, f.Router())
	all := []*limited{{name: "none"}, {name: "tracked", other: connectionTracking}}
	for _, policies := range []int{0, 100, 1000} {
		for _, pods := range []int{0, 250, 737} {
			all = append(all, &limited{name: fmt.Sprintf("policies-%d-pods-%d", policies, pods), policies: policies, pods: pods})
		}
	}
	all = append(all,
		&limited{name: "iptables-737", pods: 737, other: chainsOfPods},
		&limited{name: "nfqueue", pods: 0, other: queueOfFirstPackets})
	for i, l := range all {
		n := newNode(b, f, i, datapath.Flat)
		n.run(0)
		p, ns := n.run(senderPod)
		switch {
		case l.other != nil:
			l.other(b, n, p.Addrs[0].Addr, l.pods)
		case l.name != "none":
			applyPolicies(b, n.ns, stateOf(b, n, p.Addrs[0].Addr, l.policies, l.pods))
		}
		l.sender = newSender(b, ns, l.name)
	}
	for b.Loop() {
		for _, l := range all {
			l.round(b)
			l.begin(b)
		}
	}
	b.ReportMetric(0, "ns/op")
	none, tracked := all[0], all[1]
	for _, l := range all {
		b.ReportMetric(float64(l.oneWay.least())/1000, l.name+"_us")
		b.ReportMetric(float64(l.roundTrip.least())/1000, l.name+"_rtt_us")
		b.ReportMetric(float64(l.fresh.least())/1000, l.name+"_first_us")
		ratio(b, l.name+"/none", l.oneWay.least(), none.oneWay.least())
		ratio(b, l.name+"/tracked", l.oneWay.least(), tracked.oneWay.least())
		ratio(b, l.name+"/tracked rtt", l.roundTrip.least(), tracked.roundTrip.least())
		ratio(b, l.name+"/tracked first", l.fresh.least(), tracked.fresh.least())
	}
}

// begin measures echo requests with an identifier of their own, which connection tracking takes
// for new connections.
func (l *limited) begin(b *testing.B) {
	b.Helper()
	buf := make([]byte, 256)
	start := time.Now()
	for range packetsPerRound {
		l.id++
		request := []byte{8, 0, 0, 0, byte(l.id >> 8), byte(l.id), 0, 0}
		binary.BigEndian.PutUint16(request[2:], ^(0x0800+l.id)-carry(l.id))
		if _, err := unix.Write(l.ping, request); err != nil {
			b.Fatalf("%s: %v", l.name, err)
		}
		if _, err := unix.Read(l.ping, buf); err != nil {
			b.Fatalf("%s: read the echo reply: %v", l.name, err)
		}
	}
	l.fresh = append(l.fresh, time.Since(start)/packetsPerRound)
}

// carry returns the carry of the sum of the type of an echo request and an identifier, which
// the ones' complement adds again.
func carry(id uint16) uint16 { return uint16((0x0800 + uint32(id)) >> 16) }

// stateOf returns classes for the sender, which all policies select, and for other pods.
func stateOf(b *testing.B, n *node, sender netip.Addr, policies, pods int) policy.State {
	b.Helper()
	s := policy.State{Classes: map[string]policy.Compiled{}, Pods: map[netip.Addr]string{sender: ""}}
	rules := policy.Rules{Isolated: true, Allow: []policy.Rule{{
		Peers: []policy.Block{{Prefix: netip.PrefixFrom(gateway, 32)}}, Ports: []policy.Ports{{}},
	}}}
	for i := range policies {
		name := fmt.Sprint("policy-", i)
		s.Classes[name] = classOf(b, i, 10)
		rules.Allow = append(rules.Allow, policy.Rule{
			Peers: []policy.Block{{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), 32)}},
			Ports: []policy.Ports{{Protocol: policy.TCP, First: uint16(1000 + i)}},
		})
	}
	if policies > 0 {
		c, err := policy.Compile(policy.Class{Ingress: rules, Egress: rules})
		if err != nil {
			b.Fatal(err)
		}
		s.Classes["sender"], s.Pods[sender] = c, "sender"
	}
	for k := 1; k <= pods; k++ {
		name := ""
		if policies > 0 {
			name = fmt.Sprint("policy-", k%policies)
		}
		s.Pods[n.pod(k).Addrs[0].Addr] = name
	}
	return s
}

// classOf returns a class with so many peers in each direction.
func classOf(b *testing.B, i, peers int) policy.Compiled {
	b.Helper()
	rule := policy.Rule{Ports: []policy.Ports{{Protocol: policy.TCP, First: 80}}}
	for j := range peers {
		rule.Peers = append(rule.Peers, policy.Block{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i), byte(j >> 7), byte(j<<1) | byte(i>>8)&1}), 32)})
	}
	rules := policy.Rules{Isolated: true, Allow: []policy.Rule{rule}}
	c, err := policy.Compile(policy.Class{Ingress: rules, Egress: rules})
	if err != nil {
		b.Fatal(err)
	}
	return c
}

func applyPolicies(b *testing.B, ns *fabric.Netns, s policy.State) *policy.Handle {
	b.Helper()
	h, err := policy.Open(ns.Path())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { h.Close() })
	if _, err := h.Apply(b.Context(), s); err != nil {
		b.Fatal(err)
	}
	return h
}

// connectionTracking switches connection tracking on, as kube-proxy does on every node.
func connectionTracking(b *testing.B, n *node, _ netip.Addr, _ int) {
	b.Helper()
	inNamespace(b, n.ns, "*filter\n-A FORWARD -m conntrack --ctstate RELATED -j ACCEPT\nCOMMIT\n", "iptables-nft-restore")
}

// chainsOfPods makes a chain of iptables-nft for each pod, with ten peers, and a rule of
// FORWARD for each pod. The sender's are the last.
func chainsOfPods(b *testing.B, n *node, sender netip.Addr, pods int) {
	b.Helper()
	var chains, jumps, rules strings.Builder
	for k := 1; k <= pods+1; k++ {
		a, name := sender, "pod-sender"
		if k <= pods {
			a, name = n.pod(k).Addrs[0].Addr, fmt.Sprint("pod-", k)
		}
		fmt.Fprintf(&chains, ":%s - [0:0]\n", name)
		fmt.Fprintf(&jumps, "-A FORWARD -s %s -j %s\n", a, name)
		for j := range 10 {
			fmt.Fprintf(&rules, "-A %s -d 11.0.%d.%d -p tcp --dport 80 -j RETURN\n", name, k%250, j)
		}
		if a == sender {
			fmt.Fprintf(&rules, "-A %s -d %s -j RETURN\n", name, gateway)
		}
		fmt.Fprintf(&rules, "-A %s -j DROP\n", name)
	}
	text := "*filter\n:FORWARD ACCEPT [0:0]\n" + chains.String() +
		"-A FORWARD -m conntrack --ctstate RELATED -j ACCEPT\n" + jumps.String() + rules.String() + "COMMIT\n"
	inNamespace(b, n.ns, text, "iptables-nft-restore")
}

// inNamespace runs a program with an input.
func inNamespace(b testing.TB, ns *fabric.Netns, input, program string, args ...string) {
	b.Helper()
	var out bytes.Buffer
	cmd := exec.CommandContext(b.Context(), program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &out
	err := ns.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		b.Fatalf("%s: %v\n%s", program, err, &out)
	}
}

// queueOfFirstPackets sends packets of the sender to an nfqueue until their connection has a
// mark.
func queueOfFirstPackets(b *testing.B, n *node, sender netip.Addr, _ int) {
	b.Helper()
	var c *netlink.Conn
	err := n.ns.Do(func() (err error) {
		c, err = netlink.Dial(unix.NETLINK_NETFILTER, nil)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error)
	ctx, cancel := context.WithCancel(context.Background())
	b.Cleanup(func() {
		cancel()
		_ = c.SetReadDeadline(time.Unix(1, 0))
		if err := errors.Join(<-done, c.Close()); err != nil {
			b.Error(err)
		}
	})
	const queue = 100
	bind := []netlink.Attribute{{Type: 1, Data: []byte{1, 0, 0, 0}}} // NFQA_CFG_CMD, NFQNL_CFG_CMD_BIND
	params := []netlink.Attribute{{Type: 2, Data: []byte{0, 0, 0, 128, 2}}}
	for _, attributes := range [][]netlink.Attribute{bind, params} {
		if _, err := c.Execute(queueMessage(b, 2, queue, attributes)); err != nil {
			b.Fatal(err)
		}
	}
	go func() { done <- acceptAll(ctx, b, c, queue) }()
	inNamespace(b, n.ns, fmt.Sprintf(`*mangle
-A POSTROUTING -s %[1]s -j CONNMARK --or-mark 0x40000000
COMMIT
*filter
-A FORWARD -m connmark --mark 0x40000000/0x40000000 -j ACCEPT
-A FORWARD -s %[1]s -j NFQUEUE --queue-num %[2]d --queue-bypass
-A FORWARD -d %[1]s -j NFQUEUE --queue-num %[2]d --queue-bypass
COMMIT
`, sender, queue), "iptables-nft-restore")
}

func queueMessage(b *testing.B, kind netlink.HeaderType, queue uint16, attributes []netlink.Attribute) netlink.Message {
	b.Helper()
	data, err := netlink.MarshalAttributes(attributes)
	if err != nil {
		b.Fatal(err)
	}
	flags := netlink.Request
	if kind == 2 { // NFQNL_MSG_CONFIG
		flags |= netlink.Acknowledge
	}
	return netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_QUEUE<<8 | kind, Flags: flags},
		Data:   append([]byte{unix.AF_UNSPEC, 0, byte(queue >> 8), byte(queue)}, data...),
	}
}

// acceptAll accepts all packets of a queue until ctx ends.
func acceptAll(ctx context.Context, b *testing.B, c *netlink.Conn, queue uint16) error {
	accept := binary.BigEndian.AppendUint32(nil, 1) // NF_ACCEPT
	for {
		messages, err := c.Receive()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for _, m := range messages {
			if len(m.Data) < 12 {
				continue
			}
			id := m.Data[8:12] // of the first attribute, NFQA_PACKET_HDR
			verdict := []netlink.Attribute{{Type: 2, Data: append(accept[:4:4], id...)}}
			if _, err := c.Send(queueMessage(b, 1, queue, verdict)); err != nil { // NFQNL_MSG_VERDICT
				return err
			}
		}
	}
}

// BenchmarkPolicyApply compiles and applies policies to a namespace without a table, each in
// one transaction: a class with 10,000 peers, 1,000 classes of one pod each, and 100,000 boxes
// in 500 classes. It reports the memory of this process for the states and the handle.
func BenchmarkPolicyApply(b *testing.B) {
	f := newFabric(b)
	ns, err := f.AddInstance("policies")
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name           string
		classes, peers int
	}{{"10000-peers", 1, 10_000}, {"1000-policies", 1000, 10}, {"100000-boxes", 500, 100}} {
		b.Run(c.name, func(b *testing.B) {
			var compile, apply, change, remove figures
			var heap uint64
			for b.Loop() {
				before := heapNow()
				start := time.Now()
				s := policy.State{Classes: map[string]policy.Compiled{}, Pods: map[netip.Addr]string{}}
				for i := range c.classes {
					name := fmt.Sprint("class-", i)
					s.Classes[name] = classOf(b, i, c.peers)
					s.Pods[netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)})] = name
				}
				compile = append(compile, time.Since(start))
				h := applyPolicies(b, ns, policy.State{})
				timed := func(to *figures, s policy.State) {
					start := time.Now()
					if _, err := h.Apply(b.Context(), s); err != nil {
						b.Fatal(err)
					}
					*to = append(*to, time.Since(start))
				}
				timed(&apply, s)
				heap = max(heap, heapNow()-min(before, heapNow()))
				s.Pods[netip.AddrFrom4([4]byte{10, 201, 0, 1})] = "class-0"
				timed(&change, s)
				start = time.Now()
				if err := errors.Join(h.Remove(b.Context()), h.Close()); err != nil {
					b.Fatal(err)
				}
				remove = append(remove, time.Since(start))
			}
			b.ReportMetric(0, "ns/op")
			for name, f := range map[string]figures{"compile_ms": compile, "apply_ms": apply, "one-pod-more_ms": change, "remove_ms": remove} {
				b.ReportMetric(float64(f.median().Microseconds())/1000, name)
			}
			b.ReportMetric(float64(heap)/(1<<20), "heap_MB")
		})
	}
}

// heapNow returns the bytes of the heap that are in use.
func heapNow() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
