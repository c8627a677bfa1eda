// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// crowds are the numbers of other pods on a node: 110 on an ordinary node, 250 on a
// node with delegated prefixes, 737 on the largest instance types with single
// addresses.
var crowds = []int{0, 110, 250, 737, 2000}

// sender sends packets from a pod with an address of the second ENI of its node.
type sender struct {
	name      string
	ping, udp int // sockets
	oneWay    figures
	roundTrip figures
}

// packetsPerRound is the number of packets of each kind that a sender sends in a
// row. Other processes of the machine disturb a short round less often than a long one.
const packetsPerRound = 64

// turns is the number of rounds of each sender in an iteration of a benchmark.
const turns = 8

// BenchmarkPacket sends packets from a pod on a second ENI, on nodes that differ
// in layout and number of pods: one way, to a socket at the other end of the ENI
// that is not read, in an established flow, and round trip by ICMP echo. The pod was added last, so that its
// rules are the last of their kind. The forwarding runs on the processor of the
// sender, so that the time includes its whole cost. The sender "services" is on a flat node
// with the translation of package snat and the tables of a proxy for Services, as on a
// node of a cluster, "accelerated" is on such a node with [datapath.Node.Accelerate] if the
// kernel has flowtables, and "hop" has a link to the router alone.
func BenchmarkPacket(b *testing.B) {
	f := newFabric(b)
	drain := sink(b, f.Router())
	all := map[datapath.Layout][]*sender{}
	i := 0
	for _, layout := range []datapath.Layout{datapath.Flat, datapath.PerPod} {
		for _, pods := range crowds {
			n := newNode(b, f, i, layout)
			holder, _ := n.run(0)
			n.addCrowd(holder, pods)
			_, ns := n.run(senderPod)
			all[layout] = append(all[layout], newSender(b, ns, fmt.Sprintf("%s-%d", layout, pods)))
			i++
		}
	}
	hop := newSender(b, bareHop(b, f, i), "hop")
	_, _, pod := newServiceNode(b, f, i+1)
	services := newSender(b, pod, "services")
	round := []*sender{hop, services}
	var accelerated *sender
	if pod, ok := newAccelerated(b, f, i+2); ok {
		accelerated = newSender(b, pod, "accelerated")
		round = append(round, accelerated)
	}
	for k := range crowds {
		round = append(round, all[datapath.Flat][k], all[datapath.PerPod][k])
	}
	for _, t := range round {
		t.establish(b, drain)
		t.round(b) // the first packets of an established flow make it an accelerated one
		t.oneWay, t.roundTrip = nil, nil
	}
	for b.Loop() {
		for range turns {
			for _, t := range round {
				t.round(b)
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, t := range round {
		b.ReportMetric(float64(t.oneWay.least())/1000, t.name+"_us")
		b.ReportMetric(float64(t.roundTrip.least())/1000, t.name+"_rtt_us")
	}
	flat, perPod := all[datapath.Flat], all[datapath.PerPod]
	ratio(b, "services/flat-0", services.oneWay.median(), flat[0].oneWay.median())
	ratio(b, "services/flat-0 rtt", services.roundTrip.median(), flat[0].roundTrip.median())
	if accelerated != nil {
		ratio(b, "accelerated/services", accelerated.oneWay.median(), services.oneWay.median())
	}
	ratio(b, "hop/services", hop.oneWay.median(), services.oneWay.median())
	ratio(b, "flat-2000/flat-0", flat[4].oneWay.median(), flat[0].oneWay.median())
	ratio(b, "flat-737/flat-0", flat[3].oneWay.least(), flat[0].oneWay.least())
	ratio(b, "flat-737/flat-0 rtt", flat[3].roundTrip.least(), flat[0].roundTrip.least())
	ratio(b, "per-pod-737/flat-737", perPod[3].oneWay.least(), flat[3].oneWay.least())
	ratio(b, "per-pod-737/flat-737 rtt", perPod[3].roundTrip.least(), flat[3].roundTrip.least())
}

const sinkPort = 9

// gateway is the address of the VPC router in the subnet, the first hop of packets
// from a node.
var gateway = netip.AddrFrom4([4]byte{10, 0, 0, 1})

// sink opens a UDP socket that is never read, so that the kernel drops packets as
// soon as its small buffer is full.
func sink(b testing.TB, ns *fabric.Netns) int {
	b.Helper()
	var fd int
	err := ns.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrInet4{Addr: gateway.As4(), Port: sinkPort})
	})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1)
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { unix.Close(fd) })
	return fd
}

func newSender(b testing.TB, ns *fabric.Netns, name string) *sender {
	b.Helper()
	t := &sender{name: name}
	err := ns.Do(func() (err error) {
		if t.ping, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP); err != nil {
			return err
		}
		t.udp, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { unix.Close(t.ping); unix.Close(t.udp) })
	timeout := unix.Timeval{Sec: 2}
	if err := unix.SetsockoptTimeval(t.ping, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		b.Fatal(err)
	}
	to := &unix.SockaddrInet4{Addr: gateway.As4()}
	if err := unix.Connect(t.ping, to); err != nil {
		b.Fatal(err)
	}
	to.Port = sinkPort
	if err := unix.Connect(t.udp, to); err != nil {
		b.Fatal(err)
	}
	return t
}

// establish makes the sink answer one packet, so that connection tracking takes the packets
// of the sender for those of an established flow.
func (t *sender) establish(b testing.TB, sink int) {
	b.Helper()
	buf := make([]byte, 256)
	for {
		if _, _, err := unix.Recvfrom(sink, buf, unix.MSG_DONTWAIT); err != nil {
			break // it is empty
		}
	}
	_, err := unix.Write(t.udp, buf[:64])
	var from unix.Sockaddr
	if err == nil {
		_, from, err = unix.Recvfrom(sink, buf, 0)
	}
	if err == nil {
		err = unix.Sendto(sink, buf[:64], 0, from)
	}
	if err == nil {
		_, err = unix.Read(t.udp, buf)
	}
	if err != nil {
		b.Fatalf("%s: establish the flow: %v", t.name, err)
	}
}

// echoRequest is an ICMP echo request without data, with its checksum.
var echoRequest = []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}

func (t *sender) round(b testing.TB) {
	b.Helper()
	buf := make([]byte, 256)
	start := time.Now()
	for range packetsPerRound {
		if _, err := unix.Write(t.ping, echoRequest); err != nil {
			b.Fatalf("%s: %v", t.name, err)
		}
		if _, err := unix.Read(t.ping, buf); err != nil {
			b.Fatalf("%s: read the echo reply: %v", t.name, err)
		}
	}
	t.roundTrip = append(t.roundTrip, time.Since(start)/packetsPerRound)
	start = time.Now()
	for range packetsPerRound {
		if _, err := unix.Write(t.udp, buf[:64]); err != nil {
			b.Fatalf("%s: %v", t.name, err)
		}
	}
	t.oneWay = append(t.oneWay, time.Since(start)/packetsPerRound)
}
