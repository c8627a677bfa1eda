// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/snat"
)

// quietFor is how long checkWarmPool checks that the agents make no call to EC2.
const quietFor = time.Second

// checkWarmPool waits until each node has as many free addresses again as its
// targets ask for, or as it can have. Then it checks that no agent calls EC2.
func (k *walk) checkWarmPool(ctx context.Context) error {
	n := k.nodes[0]
	k.p.section("The warm pool")
	k.p.text(`The agent gets addresses before pods need them, because calls to EC2 take time. With WARM_ENI_TARGET=1, as EKS sets
		it, the agent keeps as many addresses free as one whole ENI has. So it attached a second ENI after the first pod,
		and a third one after further pods, if the instance type allows. While nothing changes, the agent makes no call to EC2,
		but for one search for lost ENIs 20 s after its start.`)
	done := k.p.progress("waiting for the pools")
	waited, cancel := context.WithTimeout(ctx, k.patience)
	defer cancel()
	var details []string
	var err error
	for _, n := range k.nodes {
		detail, e := k.refilled(waited, n)
		details = append(details, detail)
		err = errors.Join(err, e)
	}
	done("")
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		k.check("warm-pool-refilled", "", fmt.Errorf("%s after %v: %w", strings.Join(details, "; "), k.patience, err))
		return nil
	}
	calls := -1
	for try := 0; calls != 0 && try <= len(k.nodes); try++ { // each agent searches once for lost ENIs
		before := total(k.cloud.Calls())
		select {
		case <-time.After(quietFor):
		case <-ctx.Done():
			return ctx.Err()
		}
		calls = total(k.cloud.Calls()) - before
	}
	if calls > 0 {
		err = fmt.Errorf("%d EC2 calls within %v although nothing changed", calls, quietFor)
	}
	pool, poolErr := n.pool(ctx)
	k.p.command(n.name, "curl --unix-socket status.sock http://ipamd/v2/status | jq .decisions[]", pool.Decisions)
	k.p.text("EC2 calls of all nodes so far:")
	k.p.block(callTable(k.cloud.Calls()))
	k.check("warm-pool-refilled", fmt.Sprintf("%s; no EC2 call within %v after that", strings.Join(details, "; "), quietFor), errors.Join(err, poolErr))
	return nil
}

// refilled waits until a node's pool has as many free addresses as it should have,
// and returns a description of the pool.
func (k *walk) refilled(ctx context.Context, n *node) (detail string, err error) {
	per, most := k.limits.SlotsPerENI(), k.limits.SlotsPerENI()*k.limits.MaxENIs(k.limits.DefaultCard)
	want := min(warmTarget(k.agentEnv, per), most-len(n.pods))
	var pool ipamd.Status
	err = poll(ctx, func() (done bool, err error) {
		pool, err = n.pool(ctx)
		return err == nil && pool.Free >= want && len(pool.InFlight) == 0, err
	})
	return fmt.Sprintf("%s has %d pods and %d free addresses on %d ENIs, the target is %d", n.name, len(n.pods), pool.Free, len(n.enis()), want), err
}

// warmTarget returns the number of free addresses that the agents' environment asks
// for, or 1 if the policy has no such number.
func warmTarget(env []string, perENI int) int {
	value := map[string]string{}
	for _, v := range env {
		name, text, _ := strings.Cut(v, "=")
		value[name] = text
	}
	if n, err := strconv.Atoi(value["WARM_IP_TARGET"]); err == nil && n > 0 {
		return n
	}
	if n, err := strconv.Atoi(value["WARM_ENI_TARGET"]); err == nil {
		return n * perENI
	}
	return 1
}

func total(calls map[string]int) int {
	n := 0
	for _, c := range calls {
		n += c
	}
	return n
}

// checkSameNode sends packets between two pods of one node.
func (k *walk) checkSameNode(ctx context.Context) error {
	n := k.nodes[0]
	a, b := n.pods[0], n.pods[len(n.pods)-1]
	k.p.section("From pod to pod on one node")
	k.p.text(`%s sends to %s. The packet leaves the pod by eth0 to the gateway's MAC, which is the node's end of the
		veth pair. The node looks up its rules: rule 512 finds the route to %s, and the packet goes to that pod's
		link. It never reaches an ENI, no matter to which ENI the two addresses belong.`, a.name, b.name, b.addr)
	points := append([]point{a.point(), n.point(a.hostLink), n.point(b.hostLink), b.point()}, n.eniPoints()...)
	seen, err := record(points, func() error {
		err := ping(ctx, a.ns, b.addr)
		return err
	})
	k.p.command(n.name, fmt.Sprintf("tcpdump -i any -n icmp   # while %s runs ping -c 1 %s", a.name, b.addr), tcpdump(seen))
	var server netip.Addr
	if err == nil {
		server, err = ask(ctx, "tcp", a.ns, b.echo())
	}
	atENIs := 0
	for _, e := range n.enis() {
		atENIs += len(about(at(seen, n.name, link(e)), b.addr))
	}
	switch {
	case err != nil:
	case between(at(seen, b.name, ifName), a.addr, b.addr) == 0:
		err = errors.New("the echo request was not seen in the other pod with the first pod's address")
	case server != a.addr:
		err = fmt.Errorf("over TCP %s saw source %v, want %v", b.name, server, a.addr)
	case atENIs > 0:
		err = fmt.Errorf("%d of the packets were seen on ENIs, want none", atENIs)
	}
	k.check("pod-to-pod-same-node", fmt.Sprintf("%s %v -> %s %v: ICMP and TCP answered, source unchanged, nothing on any ENI", a.name, a.addr, b.name, b.addr), err)
	return nil
}

// checkAcrossNodes sends packets between pods of different nodes, and checks the
// packets on both ENIs.
func (k *walk) checkAcrossNodes(ctx context.Context) error {
	a, b := k.nodes[0].pods[0], k.nodes[1].pods[0]
	k.p.section("From pod to pod across nodes")
	k.p.text(`%s on %s sends to %s on %s, in another availability zone. No rule of the first node matches the destination,
		so the packet leaves by an ENI to the VPC's router, which delivers it to the ENI that owns %s. There, rule 512
		finds the pod. The packets on both ENIs have the pods' own addresses, without overlay or translation.`,
		a.name, a.node.name, b.name, b.node.name, b.addr)
	points := append(append([]point{a.point()}, a.node.eniPoints()...), append(b.node.eniPoints(), b.point())...)
	var server netip.Addr
	seen, err := record(points, func() error {
		if err := ping(ctx, a.ns, b.addr); err != nil {
			return err
		}
		var err error
		server, err = ask(ctx, "tcp", a.ns, b.echo())
		return err
	})
	out, _ := a.node.owner(a.addr)
	in, _ := b.node.owner(b.addr)
	k.p.command("all", fmt.Sprintf("tcpdump -n icmp   # while %s runs ping -c 1 %s", a.name, b.addr), tcpdump(icmp(seen)))

	pairs, reachErr := k.allAcross(ctx)
	k.check("pod-to-pod-across-nodes", fmt.Sprintf("%d pairs of pods on different nodes answered each other's ICMP echo", pairs), reachErr)

	sent, received := at(seen, a.node.name, link(out)), at(seen, b.node.name, link(in))
	switch {
	case err != nil:
	case server != a.addr:
		err = fmt.Errorf("%s saw source %v, want %v", b.name, server, a.addr)
	case between(sent, a.addr, b.addr) == 0 || between(received, a.addr, b.addr) != between(sent, a.addr, b.addr):
		err = fmt.Errorf("%d packets %v > %v at the first ENI, %d at the second", between(sent, a.addr, b.addr), a.addr, b.addr, between(received, a.addr, b.addr))
	case between(received, b.addr, a.addr) == 0 || between(sent, b.addr, a.addr) != between(received, b.addr, a.addr):
		err = fmt.Errorf("%d answers %v > %v at the second ENI, %d at the first", between(received, b.addr, a.addr), b.addr, a.addr, between(sent, b.addr, a.addr))
	case translated(sent, a, b)+translated(received, a, b) > 0:
		err = fmt.Errorf("packets of the two pods with other addresses were seen on the ENIs:\n%s", strings.Join(tcpdump(seen), "\n"))
	}
	k.check("no-nat-inside-vpc", fmt.Sprintf("%d packets %v > %v and %d back, the same at %s of %s and at %s of %s", between(sent, a.addr, b.addr), a.addr, b.addr,
		between(sent, b.addr, a.addr), link(out), a.node.name, link(in), b.node.name), err)
	return nil
}

// translated counts packets of which only one address belongs to one of the two
// pods. The other address of such a packet was translated.
func translated(seen []sighting, a, b *pod) int {
	n := 0
	for _, s := range seen {
		src, dst := s.flow.Src.Addr(), s.flow.Dst.Addr()
		if (src == a.addr || src == b.addr) != (dst == a.addr || dst == b.addr) {
			n++
		}
	}
	return n
}

// icmp selects the ICMP packets.
func icmp(seen []sighting) []sighting {
	var out []sighting
	for _, s := range seen {
		if s.flow.Protocol == 1 {
			out = append(out, s)
		}
	}
	return out
}

// pingsAtOnce is the number of concurrent pings of allAcross.
const pingsAtOnce = 8

// allAcross pings from each pod to the first and last pod of each other node.
func (k *walk) allAcross(ctx context.Context) (pairs int, err error) {
	done := k.p.progress("pinging across nodes")
	defer done("")
	var g errgroup.Group
	g.SetLimit(pingsAtOnce)
	var failed []error
	var mu sync.Mutex
	for _, a := range k.pods() {
		for _, n := range k.nodes {
			if n == a.node {
				continue
			}
			for _, b := range ends(n.pods) {
				pairs++
				g.Go(func() error {
					if err := ping(ctx, a.ns, b.addr); err != nil {
						mu.Lock()
						defer mu.Unlock()
						failed = append(failed, fmt.Errorf("%s -> %s: %w", a.name, b.name, err))
					}
					return nil
				})
			}
		}
	}
	err = g.Wait()
	return pairs, errors.Join(append(failed, err)...)
}

// ends returns the first and the last of pods.
func ends(pods []*pod) []*pod {
	if len(pods) < 2 {
		return pods
	}
	return []*pod{pods[0], pods[len(pods)-1]}
}

// checkSecondENI sends packets from a pod on a secondary ENI to another node.
func (k *walk) checkSecondENI(ctx context.Context) error {
	a, b := k.nodes[0].onSecondENI(), k.nodes[1].pods[0]
	k.p.section("From a pod on the second ENI")
	if a == nil {
		k.check("second-eni-egress", "", fmt.Errorf("no pod of %s has an address of a secondary ENI", k.nodes[0].name))
		return nil
	}
	own, _ := a.node.owner(a.addr)
	first := a.node.enis()[0]
	k.p.text(`%s has an address of the ENI with device index %d. EC2 would drop its packets if they left by the primary ENI,
		because that ENI does not own the address. So rule 1536 sends them to table %d, whose default route leads to
		%s. Packets to the pod arrive by the same ENI.`, a.name, own.Attachment.Device, own.Attachment.Device+1, link(own))
	before, err := k.vpc.CountDrops()
	if err != nil {
		return err
	}
	seen, err := record(a.node.eniPoints(), func() error {
		err := ping(ctx, a.ns, b.addr)
		return err
	})
	k.p.command(a.node.name, fmt.Sprintf("tcpdump -i any -n icmp   # while %s runs ping -c 1 %s", a.name, b.addr), tcpdump(seen))
	after, dropErr := k.vpc.CountDrops()
	switch {
	case err != nil || dropErr != nil:
		err = errors.Join(err, dropErr)
	case between(at(seen, a.node.name, link(own)), a.addr, b.addr) == 0:
		err = fmt.Errorf("the echo request did not leave by %s", link(own))
	case len(about(at(seen, a.node.name, link(first)), a.addr)) > 0:
		err = fmt.Errorf("packets of %s were seen on the primary ENI", a.name)
	case after.Spoofed[own.ID]+after.Spoofed[first.ID] != before.Spoofed[own.ID]+before.Spoofed[first.ID]:
		err = errors.New("the VPC dropped packets because of their source address")
	}
	k.check("second-eni-egress", fmt.Sprintf("packets of %s %v left by %s (%s) and the answers arrived there; none was seen on %s", a.name, a.addr, link(own), own.ID, link(first)), err)
	return nil
}

// checkInternet sends packets from pods on both kinds of ENI to the internet.
func (k *walk) checkInternet(ctx context.Context) error {
	n := k.nodes[0]
	k.p.section("From a pod to the internet")
	k.p.text(`The internet gateway knows only the primary address of an ENI, and would drop a packet with a pod's address.
		So packets from a pod to destinations outside of the VPC leave by the primary ENI, with the node's primary
		address %v as their source. A packet gets the mark 0x80 when it leaves the pod's link, rule 1024 sends it to the
		main table, and the nftables chain at the end translates its source. This also applies to pods on secondary
		ENIs.`, n.addr)
	if err := k.showTranslation(ctx, n); err != nil {
		return err
	}
	remote := netip.AddrPortFrom(fabric.InternetAddr, fabric.EchoPort)
	sources := ends(n.pods)
	if p := n.onSecondENI(); p != nil {
		sources[len(sources)-1] = p
	}
	var failed error
	for _, p := range sources {
		points := append([]point{n.point(p.hostLink)}, append(n.eniPoints(), point{k.internet, "internet", "eth0"})...)
		seen, err := record(points, func() error {
			err := ping(ctx, p.ns, fabric.InternetAddr)
			return err
		})
		k.p.command("all", fmt.Sprintf("tcpdump -n icmp   # while %s runs ping -c 1 %v", p.name, fabric.InternetAddr), tcpdump(icmp(seen)))
		if err == nil && between(at(seen, n.name, link(n.enis()[0])), n.addr, fabric.InternetAddr) == 0 {
			err = fmt.Errorf("no packet %v > %v on the primary ENI", n.addr, fabric.InternetAddr)
		}
		for _, network := range []string{"tcp", "udp"} {
			server, e := ask(ctx, network, p.ns, remote)
			if e == nil && server != n.addr {
				e = fmt.Errorf("over %s the internet host saw source %v, want %v", network, server, n.addr)
			}
			err = errors.Join(err, e)
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", p.name, err))
		}
	}
	k.check("snat-to-node-primary", fmt.Sprintf("the internet host saw %v for ICMP, TCP and UDP from %s", n.addr, names(sources)), failed)
	return nil
}

// showTranslation prints the rules of the source translation.
func (k *walk) showTranslation(ctx context.Context, n *node) error {
	h, err := snat.Open(n.ns.Path())
	if err != nil {
		return err
	}
	defer h.Close()
	r, err := h.Observe(ctx)
	if err != nil {
		return err
	}
	k.p.command(n.name, "nft list table inet vpcnet-snat", strings.Split(strings.TrimSpace(r.String()), "\n"))
	return nil
}

func names(pods []*pod) string {
	var list []string
	for _, p := range pods {
		list = append(list, p.name)
	}
	return strings.Join(list, " and ")
}

// checkHostToPod connects from the nodes to pods, as the kubelet's probes do.
func (k *walk) checkHostToPod(ctx context.Context) error {
	k.p.section("From a node to pods")
	k.p.text(`The kubelet probes the pods of its node with the node's address as source, and other nodes connect to them too.
		The answer of a pod on a secondary ENI must go to the node itself and must not leave by that ENI.`)
	var failed error
	tried := 0
	for _, n := range k.nodes {
		for _, p := range append(ends(n.pods), ends(k.nodes[0].pods)...) {
			source, err := ask(ctx, "tcp", n.ns, p.echo())
			if err == nil && source != n.addr {
				err = fmt.Errorf("the pod saw source %v, want the node's %v", source, n.addr)
			}
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s -> %s: %w", n.name, p.name, err))
			}
			tried++
		}
	}
	k.check("host-to-pod", fmt.Sprintf("%d TCP connections from nodes to their own and to other nodes' pods, each with the node's primary address as source", tried), failed)
	return nil
}

// arriveWithin is how long checkSpoofed waits for packets to arrive.
const arriveWithin = 300 * time.Millisecond

// checkSpoofed sends packets with source addresses that the sender does not own.
func (k *walk) checkSpoofed(ctx context.Context) error {
	n := k.nodes[0]
	a, b := n.pods[0], k.nodes[1].pods[0]
	k.p.section("A pod that forges its source address")
	k.p.text(`EC2 checks that an ENI owns the source address of each packet that it sends, but several pods share an ENI, so
		EC2 cannot tell them apart. The node can: a packet from a pod's link must have a source address whose route leads
		back to that link. %s sends to %s, first with its own address, and then with addresses that it does not own.`, a.name, b.name)
	var forged []netip.Addr
	for _, p := range []*pod{ends(n.pods)[len(ends(n.pods))-1], k.nodes[1].pods[len(k.nodes[1].pods)-1]} {
		if p != a && p != b {
			forged = append(forged, p.addr)
		}
	}
	forged = append(forged, n.addr, fabric.InternetAddr)
	before, err := k.vpc.CountDrops()
	if err != nil {
		return err
	}
	points := append(append([]point{a.point()}, n.eniPoints()...), b.point())
	seen, err := record(points, func() error {
		to := netip.AddrPortFrom(b.addr, 9)
		for _, source := range append([]netip.Addr{a.addr}, forged...) {
			if err := a.ns.Send(netip.AddrPortFrom(source, 999), to, []byte("who am I?")); err != nil {
				return fmt.Errorf("send as %v: %w", source, err)
			}
		}
		select {
		case <-time.After(arriveWithin):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	var shown []sighting
	for _, s := range seen {
		if s.flow.Dst == netip.AddrPortFrom(b.addr, 9) {
			shown = append(shown, s)
		}
	}
	k.p.command("all", "tcpdump -n udp dst port 9", tcpdump(shown))
	after, dropErr := k.vpc.CountDrops()
	err = errors.Join(err, dropErr)
	if err == nil && between(at(shown, b.name, ifName), a.addr, b.addr) == 0 {
		err = fmt.Errorf("the packet with the pod's own address did not arrive, so the check shows nothing")
	}
	for _, source := range forged {
		left := between(shown, source, b.addr) - between(at(shown, a.name, ifName), source, b.addr)
		if err == nil && left > 0 {
			err = fmt.Errorf("the node forwarded a packet with source %v", source)
		}
		if err == nil && between(at(shown, a.name, ifName), source, b.addr) == 0 {
			err = fmt.Errorf("the packet with source %v was not sent", source)
		}
	}
	if err == nil {
		err = k.checkVPCDrops(n, b, before.Spoofed, after.Spoofed)
	}
	k.check("spoofed-source-dropped", fmt.Sprintf("the node dropped %d packets of %s with forged sources and forwarded the one with its own; the VPC dropped a packet of the node itself with a forged source", len(forged), a.name), err)
	return nil
}

// checkVPCDrops sends a packet with a forged source from the node itself, to which
// the check of pods does not apply, and checks that the VPC drops and counts it.
func (k *walk) checkVPCDrops(n *node, to *pod, before, after map[string]uint64) error {
	primary := n.enis()[0].ID
	if after[primary] != before[primary] {
		return errors.New("the VPC dropped packets of the pod, which the node should have dropped")
	}
	forged := netip.MustParseAddr("10.9.9.9")
	if err := n.ns.Send(netip.AddrPortFrom(forged, 999), netip.AddrPortFrom(to.addr, 9), []byte("who am I?")); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	err := poll(ctx, func() (bool, error) {
		now, err := k.vpc.CountDrops()
		return err == nil && now.Spoofed[primary] == after[primary]+1, err
	})
	if err != nil {
		return fmt.Errorf("the VPC did not drop a packet with source %v that the node sent: %w", forged, err)
	}
	return nil
}
