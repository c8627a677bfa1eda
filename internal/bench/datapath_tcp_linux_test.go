// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// streamSize is the number of bytes that one pod sends in a round.
const streamSize = 32 << 20

// BenchmarkTCP sends a stream from a pod on a second ENI, with 737 other pods on its
// node, in both layouts. The kernel forwards large segments as one packet, so that
// the layout has less effect on a stream than on small packets.
func BenchmarkTCP(b *testing.B) {
	f := newFabric(b)
	l, err := f.Peer().Listen(b.Context(), netip.AddrPortFrom(fabric.PeerAddr, sinkPort))
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(io.Discard, c)
			}()
		}
	}()
	layouts := []datapath.Layout{datapath.Flat, datapath.PerPod}
	sandboxes, times := map[datapath.Layout]*fabric.Netns{}, map[datapath.Layout]figures{}
	for i, layout := range layouts {
		n := newNode(b, f, i, layout)
		holder, _ := n.run(0)
		n.addCrowd(holder, 737)
		_, sandboxes[layout] = n.run(senderPod)
	}
	for b.Loop() {
		for _, layout := range layouts {
			times[layout] = append(times[layout], stream(b, sandboxes[layout]))
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, layout := range layouts {
		b.ReportMetric(8*streamSize/times[layout].least().Seconds()/1e9, string(layout)+"-737_Gbit/s")
	}
	ratio(b, "per-pod-737/flat-737 time", times[datapath.PerPod].least(), times[datapath.Flat].least())
}

// stream sends streamSize bytes and returns the time until the peer has read them.
func stream(b *testing.B, ns *fabric.Netns) time.Duration {
	b.Helper()
	c, err := ns.Dial(b.Context(), "tcp", netip.AddrPort{}, netip.AddrPortFrom(fabric.PeerAddr, sinkPort))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 1<<20)
	start := time.Now()
	for range streamSize / len(buf) {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		b.Fatal(err)
	}
	if _, err := c.Read(buf[:1]); !errors.Is(err, io.EOF) {
		b.Fatalf("end of stream: error %v, want EOF", err)
	}
	return time.Since(start)
}
