// SPDX-License-Identifier: Apache-2.0

package ipam_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
)

// TestPrintedAllocations checks that fmt prints every field of the types that embed
// an Attachment: its String method would hide the others.
func TestPrintedAllocations(t *testing.T) {
	a := ipam.Attachment{Network: "net", ContainerID: "c1", IfName: "eth7"}
	pod := ipam.PodRef{Namespace: "default", Name: "web", UID: "u-1"}
	at := time.Date(2026, 11, 29, 16, 27, 1, 0, time.UTC)
	const shared = "net/c1/eth7 default web u-1 /run/netns/c1 0xabc 02:00:00:00:00:0a"
	for _, tc := range []struct {
		value any
		want  string
	}{
		{ipam.Request{Attachment: a, Families: []ipam.Family{ipam.IPv6}, Card: 9, Pod: pod, Netns: "/run/netns/c1", Sandbox: 0xabc,
			Addrs: []netip.Addr{netip.MustParseAddr("2001:db8::7")}, MAC: "02:00:00:00:00:0a"}, "IPv6 2001:db8::7 9"},
		{ipam.Allocation{
			Attachment: a, Addr: netip.MustParseAddr("10.0.1.5"), Block: netip.MustParsePrefix("10.0.1.0/28"), ENI: "eni-1", Card: 8, Device: 9,
			Pod: pod, Netns: "/run/netns/c1", Sandbox: 0xabc, MAC: "02:00:00:00:00:0a", At: at, RequestedAt: at.Add(time.Second),
		}, "10.0.1.5 10.0.1.0/28 eni-1 8 9 2026-11-29T16:27:01Z 2026-11-29T16:27:02Z"},
	} {
		for _, verb := range []string{"%v", "%+v", "%s"} {
			got := fmt.Sprintf(verb, tc.value)
			for _, want := range strings.Fields(tc.want + " " + shared) {
				if !strings.Contains(got, want) {
					t.Errorf("Sprintf(%q, %T) = %q, want %q in it", verb, tc.value, got, want)
				}
			}
		}
	}
}
