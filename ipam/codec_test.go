// SPDX-License-Identifier: Apache-2.0

package ipam_test

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/ipam"
)

var eventAt = time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)

// wireFormat has the text of each kind of event in a journal. A newer version
// must read the journals of all earlier ones, so these texts never change.
var wireFormat = []struct {
	event ipam.Event
	text  string
}{
	{ipam.Event{Kind: ipam.EventENISet, ENI: "eni-1", Card: 1, Device: 2}, `{"kind":"eni-set","at":"2026-01-02T03:04:05.000000678Z","eni":"eni-1","card":1,"device":2}`},
	{ipam.Event{Kind: ipam.EventENIDraining, ENI: "eni-1"}, `{"kind":"eni-draining","at":"2026-01-02T03:04:05.000000678Z","eni":"eni-1"}`},
	{ipam.Event{Kind: ipam.EventENIRemoved, ENI: "eni-1"}, `{"kind":"eni-removed","at":"2026-01-02T03:04:05.000000678Z","eni":"eni-1"}`},
	{
		ipam.Event{Kind: ipam.EventBlockAdded, ENI: "eni-1", Block: netip.MustParsePrefix("10.0.0.0/28"), Next: netip.MustParseAddr("10.0.0.3")},
		`{"kind":"block-added","at":"2026-01-02T03:04:05.000000678Z","eni":"eni-1","block":"10.0.0.0/28","next":"10.0.0.3"}`,
	},
	{ipam.Event{Kind: ipam.EventBlockDraining, Block: netip.MustParsePrefix("10.0.0.0/28")}, `{"kind":"block-draining","at":"2026-01-02T03:04:05.000000678Z","block":"10.0.0.0/28"}`},
	{ipam.Event{Kind: ipam.EventBlockRemoved, Block: netip.MustParsePrefix("2001:db8::/80")}, `{"kind":"block-removed","at":"2026-01-02T03:04:05.000000678Z","block":"2001:db8::/80"}`},
	{
		ipam.Event{
			Kind: ipam.EventAllocated, Attachment: attachment("c1"), Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("2001:db8::1")},
			Pod: ipam.PodRef{Namespace: "ns", Name: "web", UID: "u"}, Netns: "/run/netns/c1",
		},
		`{"kind":"allocated","at":"2026-01-02T03:04:05.000000678Z","attachment":{"network":"net","containerID":"c1","ifName":"eth0"},` +
			`"addrs":["10.0.0.3","2001:db8::1"],"pod":{"namespace":"ns","name":"web","uid":"u"},"netns":"/run/netns/c1"}`,
	},
	{ipam.Event{Kind: ipam.EventReleased, Attachment: attachment("c1")}, `{"kind":"released","at":"2026-01-02T03:04:05.000000678Z","attachment":{"network":"net","containerID":"c1","ifName":"eth0"}}`},
	{ipam.Event{Kind: ipam.EventAddrsReleased, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.4")}}, `{"kind":"rested","at":"2026-01-02T03:04:05.000000678Z","addrs":["10.0.0.4"]}`},
}

func TestEventsAsWritten(t *testing.T) {
	for _, tt := range wireFormat {
		tt.event.At = eventAt
		got, err := ipam.EncodeEvent(tt.event)
		if err != nil || string(got) != tt.text {
			t.Errorf("%s: %v\n got %s\nwant %s", tt.event.Kind, err, got, tt.text)
		}
		back, err := ipam.DecodeEvent([]byte(tt.text))
		if diff := cmp.Diff(tt.event, back, equate); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got)\n%s", tt.event.Kind, err, diff)
		}
	}
}

func TestDecodeMalformed(t *testing.T) {
	for _, text := range []string{
		``, `null`, `{}`, `[]`, `{"kind":"eni-set"}`, `{"kind":"eni-set","eni":"10.0.0.0/28"}`, `{"kind":"eni-set","eni":"e","card":-1}`,
		`{"kind":"block-added","eni":"e","block":"10.0.0.1/28"}`, `{"kind":"block-added","eni":"e","block":"10.0.0.0/28","next":"::1"}`,
		`{"kind":"block-added","eni":"e","block":"::ffff:10.0.0.0/124"}`, `{"kind":"allocated","attachment":{"network":"n"},"addrs":["10.0.0.1"]}`,
		`{"kind":"allocated","attachment":{"network":"n","containerID":"c","ifName":"i"}}`, `{"kind":"rested","addrs":["fe80::1%eth0"]}`,
		`{"kind":"from-the-future"}`, `{"kind":"released","at":"yesterday"}`,
	} {
		if e, err := ipam.DecodeEvent([]byte(text)); !errors.Is(err, ipam.ErrInvalid) {
			t.Errorf("%s: decoded as %+v with error %v, want ErrInvalid", text, e, err)
		}
	}
	if _, err := ipam.DecodeEvent([]byte(`{"kind":"eni-set","eni":"e","colour":"blue"}`)); err != nil {
		t.Errorf("decode an event with an unknown field: %v", err)
	}
}

// FuzzJournal opens pools over arbitrary journals. Every line that decodes must
// encode to the same event, and a journal that applies must give a pool that
// keeps its invariants.
func FuzzJournal(f *testing.F) {
	var all []byte
	for _, w := range wireFormat {
		f.Add([]byte(w.text))
		all = append(append(all, w.text...), '\n')
	}
	f.Add(all)
	f.Fuzz(func(t *testing.T, data []byte) {
		j := &memory{}
		for line := range bytes.Lines(data) {
			e, err := ipam.DecodeEvent(line)
			if err != nil {
				continue
			}
			again, err := ipam.EncodeEvent(e)
			if err != nil {
				t.Fatalf("%s was decoded but cannot be encoded: %v", line, err)
			}
			if back, err := ipam.DecodeEvent(again); err != nil || !cmp.Equal(e, back, equate) {
				t.Fatalf("%s was encoded as %s, which decodes differently: %v", line, again, err)
			}
			j.events = append(j.events, e)
			if _, err := ipam.Open(ipam.Config{Journal: j}); err != nil {
				j.events = j.events[:len(j.events)-1]
			}
			if len(j.events) > 50 {
				break
			}
		}
		p := open(t, ipam.Config{Journal: j})
		owner := map[netip.Addr]ipam.Attachment{}
		for a := range p.Allocations() {
			if o, taken := owner[a.Addr]; taken || !a.Block.Contains(a.Addr) {
				t.Errorf("%v of block %v belongs to both %v and %v", a.Addr, a.Block, o, a.Attachment)
			}
			owner[a.Addr] = a.Attachment
		}
		for _, n := range p.View().ENIs {
			for _, b := range n.Blocks {
				if b.Free < 0 || b.Used < 0 || b.Cooling < 0 {
					t.Errorf("negative counts: %+v", b)
				}
			}
		}
	})
}
