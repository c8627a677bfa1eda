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

// crowds are how many other pods the node has: 110 is an ordinary node, 250 one
// with prefixes, 737 the most that EC2's largest types carry with single
// addresses.
var crowds = []int{0, 110, 250, 737, 2000}

// traveller sends packets from a pod whose address is on its node's second ENI.
type traveller struct {
	name      string
	ping, udp int // sockets
	oneWay    figures
	roundTrip figures
}

// packetsPerRound is how many packets of a kind each node sends in a row.
const packetsPerRound = 500

// BenchmarkPacket sends packets out of a pod on a second ENI of nodes that differ
// in layout and number of pods: one way, to a socket at the far end of the ENI that
// nobody reads, and round trip by ICMP echo. The pod is the last that came, so that its
// rules are the last of their kind. Sender and all forwarding share the
// sender's processor, so that the time is the cost.
func BenchmarkPacket(b *testing.B) {
	f := newFabric(b)
	sink(b, f.Router())
	all := map[datapath.Layout][]*traveller{}
	i := 0
	for _, layout := range []datapath.Layout{datapath.Flat, datapath.PerPod} {
		for _, pods := range crowds {
			n := newNode(b, f, i, layout)
			holder, _ := n.run(0)
			n.crowd(holder, pods)
			_, ns := n.run(traveller0)
			all[layout] = append(all[layout], newTraveller(b, ns, fmt.Sprintf("%s-%d", layout, pods)))
			i++
		}
	}
	for b.Loop() {
		for k := range crowds {
			for _, layout := range []datapath.Layout{datapath.Flat, datapath.PerPod} {
				all[layout][k].round(b)
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, layout := range []datapath.Layout{datapath.Flat, datapath.PerPod} {
		for _, t := range all[layout] {
			b.ReportMetric(float64(t.oneWay.least())/1000, t.name+"_us")
			b.ReportMetric(float64(t.roundTrip.least())/1000, t.name+"_rtt_us")
		}
	}
	flat, perPod := all[datapath.Flat], all[datapath.PerPod]
	ratio(b, "flat-737/flat-0", flat[3].oneWay.least(), flat[0].oneWay.least())
	ratio(b, "flat-737/flat-0 rtt", flat[3].roundTrip.least(), flat[0].roundTrip.least())
	ratio(b, "per-pod-737/flat-737", perPod[3].oneWay.least(), flat[3].oneWay.least())
	ratio(b, "per-pod-737/flat-737 rtt", perPod[3].roundTrip.least(), flat[3].roundTrip.least())
}

const sinkPort = 9

// gateway is the VPC router's address in the subnet: the first that a packet out of
// a node meets.
var gateway = netip.AddrFrom4([4]byte{10, 0, 0, 1})

// sink takes packets and drops them as soon as its small buffer is full.
func sink(b *testing.B, ns *fabric.Netns) {
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
}

func newTraveller(b *testing.B, ns *fabric.Netns, name string) *traveller {
	b.Helper()
	t := &traveller{name: name}
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

// echoRequest has a checksum of its own over type 8, code 0 and nothing else.
var echoRequest = []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}

func (t *traveller) round(b *testing.B) {
	b.Helper()
	buf := make([]byte, 256)
	start := time.Now()
	for range packetsPerRound {
		if _, err := unix.Write(t.ping, echoRequest); err != nil {
			b.Fatalf("%s: %v", t.name, err)
		}
		if _, err := unix.Read(t.ping, buf); err != nil {
			b.Fatalf("%s: no echo: %v", t.name, err)
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
