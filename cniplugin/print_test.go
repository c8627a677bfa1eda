// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
)

// TestPrintedRequests checks that fmt prints every field of the types that embed an
// Attachment. Its String method would hide the others.
func TestPrintedRequests(t *testing.T) {
	a := cniplugin.Attachment{Network: "net", ContainerID: "c1", IfName: "eth7"}
	pod := cniplugin.Pod{Namespace: "default", Name: "web", UID: "u-1"}
	const podText = "default/web u-1"
	given := cniplugin.AddResponse{
		Addresses: []cniplugin.Address{{Addr: netip.MustParseAddr("10.0.1.5"), ENI: "eni-1", Card: 3, Device: 4, Table: 77}},
		Layout:    "flat", MTU: 9001, HostLinkPrefix: "vpc",
	}
	for _, tc := range []struct {
		value any
		want  string
	}{
		{cniplugin.AddRequest{
			Attachment: a, Netns: "/run/netns/c1", Pod: pod, MAC: "02:00:00:00:00:0a", Addrs: []netip.Addr{netip.MustParseAddr("10.0.1.7")},
			Annotations: map[string]string{"key": "value"},
		}, "/run/netns/c1 02:00:00:00:00:0a 10.0.1.7 key value " + podText},
		{cniplugin.DelRequest{Attachment: a, Pod: pod, Retired: true}, "retired " + podText},
		{cniplugin.CheckRequest{Attachment: a}, ""},
		{cniplugin.Tombstone{Attachment: a, At: time.Date(2026, 11, 29, 16, 27, 1, 5, time.UTC)}, "2026-11-29T16:27:01.000000005Z"},
		{
			cniplugin.WiringRequest{Attachment: a, Netns: "/run/netns/c1", Pod: pod, MAC: "02:00:00:00:00:0a", Allocated: given},
			"/run/netns/c1 02:00:00:00:00:0a " + podText + " 10.0.1.5 eni-1 Card:3 Device:4 Table:77 flat 9001 vpc",
		},
	} {
		for _, verb := range []string{"%v", "%+v", "%s"} {
			got := fmt.Sprintf(verb, tc.value)
			for _, want := range append(strings.Fields(tc.want), "net/c1/eth7") {
				if !strings.Contains(strings.ReplaceAll(got, "("+pod.UID+")", pod.UID), want) {
					t.Errorf("Sprintf(%q, %T) = %q, want %q in it", verb, tc.value, got, want)
				}
			}
		}
	}
	if got := fmt.Sprint(cniplugin.AddRequest{Netns: "/x"}); !strings.Contains(got, "/x") {
		t.Errorf("AddRequest with only a Netns prints %q, want /x in it", got)
	}
}
