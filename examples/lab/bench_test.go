// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"testing"
	"time"
)

// BenchmarkPod measures CNI ADD and DEL from the point of view of a container
// runtime: libcni executes vpc-cni, which asks the node's ipamd. Run it with
// -benchtime=100x.
func BenchmarkPod(b *testing.B) {
	for _, layout := range []string{layoutFlat, layoutPerPod} {
		b.Run(layout, func(b *testing.B) {
			b.Setenv("WARM_IP_TARGET", "110") // no ADD waits for EC2
			o := small(layout)
			o.InstanceType = "m5.4xlarge"
			k := silent(testWorld(b, o))
			if err := k.startAgents(b.Context()); err != nil {
				b.Fatal(err)
			}
			n := k.nodes[0]
			if _, err := k.idleSnapshot(b.Context(), n); err != nil {
				b.Fatal(err)
			}
			var adds, dels []time.Duration
			for b.Loop() {
				p, err := n.addPod(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				adds = append(adds, p.took)
				if err := p.delete(b.Context()); err != nil {
					b.Fatal(err)
				}
				dels = append(dels, p.tookDel)
			}
			report := func(took []time.Duration, verb string) {
				slices.Sort(took)
				for _, q := range []struct {
					name string
					at   int
				}{{"p50", len(took) / 2}, {"p99", len(took) * 99 / 100}, {"max", len(took) - 1}} {
					b.ReportMetric(float64(took[q.at].Microseconds())/1000, q.name+"-"+verb+"-ms")
				}
			}
			report(adds, "ADD")
			report(dels, "DEL")
		})
	}
}
