// SPDX-License-Identifier: Apache-2.0

package vpcrules_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/internal/fabric/vpcrules"
)

// TestAggregator reads growing counters and compares the records of each interval.
func TestAggregator(t *testing.T) {
	begin := time.Unix(1000, 0)
	a := vpcrules.NewAggregator("1", time.Minute, begin)
	request := vpcrules.Flow{
		ENI: "eni-1", Outbound: true, Action: vpcrules.Accept, Protocol: vpcrules.UDP, Src: ip("10.0.1.47"), Dst: ip("10.0.2.10"), SrcPort: 1000, DstPort: 53,
	}
	answer := vpcrules.Flow{
		ENI: "eni-1", Action: vpcrules.Accept, Protocol: vpcrules.UDP, Src: ip("10.0.2.10"), Dst: ip("10.0.1.47"), SrcPort: 53, DstPort: 1000,
	}
	six := vpcrules.Flow{ENI: "eni-2", Action: vpcrules.Reject, Protocol: vpcrules.ICMPv6, Src: ip("2001:db8::1"), Dst: ip("2001:db8::2")}
	enis := map[string]netip.Addr{"eni-1": ip("10.0.1.10"), "eni-2": {}}
	observe := func(after time.Duration, skipped bool, counts map[vpcrules.Flow]vpcrules.Count) {
		a.Observe(vpcrules.Observation{Time: begin.Add(after), ENIs: enis, Counts: counts, Skipped: skipped})
	}
	check := func(name string, want ...string) {
		t.Helper()
		var got []string
		for _, r := range a.Take() {
			got = append(got, r.String())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	observe(time.Second, false, map[vpcrules.Flow]vpcrules.Count{request: {1, 100}})
	observe(5*time.Second, false, map[vpcrules.Flow]vpcrules.Count{request: {3, 300}, answer: {1, 500}})
	observe(9*time.Second, false, map[vpcrules.Flow]vpcrules.Count{request: {3, 300}, answer: {1, 500}})
	check("before the end of the interval")
	observe(time.Minute, false, map[vpcrules.Flow]vpcrules.Count{request: {3, 300}, answer: {1, 500}})
	// The records show the primary address of the ENI.
	check("first interval",
		"2 1 eni-1 10.0.1.10 10.0.2.10 1000 53 17 3 300 1000 1005 ACCEPT OK",
		"2 1 eni-1 10.0.2.10 10.0.1.10 53 1000 17 1 500 1001 1005 ACCEPT OK",
		"2 1 eni-2 - - - - - - - 1000 1060 - NODATA",
	)
	// A counter that has expired begins again.
	observe(70*time.Second, false, map[vpcrules.Flow]vpcrules.Count{request: {2, 200}, six: {4, 400}})
	a.End()
	check("second interval",
		"2 1 eni-1 10.0.1.10 10.0.2.10 1000 53 17 2 200 1060 1070 ACCEPT OK",
		"2 1 eni-2 2001:db8::1 2001:db8::2 0 0 58 4 400 1060 1070 REJECT OK",
	)
	// A flow of an ENI that is not attached has no record; one that was attached has.
	enis = map[string]netip.Addr{}
	observe(80*time.Second, false, map[vpcrules.Flow]vpcrules.Count{request: {9, 900}})
	a.End()
	check("no ENI")
	enis = map[string]netip.Addr{"eni-1": ip("10.0.1.10")}
	observe(90*time.Second, true, map[vpcrules.Flow]vpcrules.Count{request: {10, 1000}})
	a.End()
	check("skipped",
		"2 1 eni-1 10.0.1.10 10.0.2.10 1000 53 17 1 100 1080 1090 ACCEPT OK",
		"2 1 eni-1 - - - - - - - 1080 1090 - SKIPDATA",
	)
	a.End()
	check("an interval without observation")
}
