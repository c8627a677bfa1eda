// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// FuzzDecodePlain compares decodePlain with encoding/json: where it accepts a line, the
// results are the same. It accepts what EncodeEvent writes of an event with all fields.
func FuzzDecodePlain(f *testing.F) {
	all := Event{
		Kind: EventAllocated, At: time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600)), ENI: "eni-1", Card: 1, Device: 2,
		Block: netip.MustParsePrefix("10.0.0.0/28"), Next: netip.MustParseAddr("10.0.0.1"),
		Attachment: Attachment{Network: "net", ContainerID: "c1", IfName: "eth0"}, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("2001:db8::1")},
		Pod: PodRef{Namespace: "ns", Name: "web", UID: "u"}, Netns: "/run/netns/c1", Sandbox: 1<<64 - 1, MAC: "02:00:00:00:00:01", By: "link eni1",
	}
	text, err := EncodeEvent(all)
	if err != nil {
		f.Fatal(err)
	}
	if _, ok := decodePlain(text); !ok {
		f.Fatalf("not accepted: %s", text)
	}
	f.Add(text)
	for _, text := range []string{
		`{"kind":"eni-set","device":007}`, `{"kind":"a","kind":"b"}`, `{"card":99999999999999999999}`, `{"card":-1}`, `{"netns":"\u0041"}`, `{"netns":"é"}`,
		`{"pod":{},"mac":""}`, `{"addrs":[],"at":"2026-01-02T03:04:05Z"}`, `{"addrs":["10.0.0.1"],"addrs":["10.0.0.2"]}`, `{"at":"2026-01-02t03:04:05Z"}`,
		`{"sandbox":1e3}`, `{"block":"10.0.0.0/28","next":""}`, `{"Kind":"x"}`, `{"kind":"x"}}`, `{"pod":{"name":"a"},"pod":{"uid":"b"}}`, `{"kind":"x",}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		got, ok := decodePlain(line)
		if !ok {
			return
		}
		var want Event
		if err := json.Unmarshal(line, &want); err != nil {
			t.Fatalf("%s is accepted, want %v", line, err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
			t.Fatalf("%s (-want +got)\n%s", line, diff)
		}
	})
}
