// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/nftables"
)

// FuzzPrefixes writes prefixes as intervals and reads them back, in any order.
func FuzzPrefixes(f *testing.F) {
	f.Add([]byte{10, 0, 0, 0, 16, 192, 168, 0, 0, 24}, false)
	f.Add([]byte{0, 0, 0, 0, 0}, true)
	f.Add([]byte{255, 255, 255, 255, 32, 0, 0, 0, 0, 32, 10, 0, 1, 0, 24, 10, 0, 2, 0, 24}, true)
	f.Fuzz(func(t *testing.T, data []byte, backwards bool) {
		var list []netip.Prefix
		for ; len(data) >= 5; data = data[5:] {
			list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte(data)), int(data[4]%33)))
		}
		want := inside4(list)
		elements := intervals(want)
		if backwards {
			for i, j := 0, len(elements)-1; i < j; i, j = i+1, j-1 {
				elements[i], elements[j] = elements[j], elements[i]
			}
		}
		got, err := prefixes(elements)
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}), cmpopts.EquateEmpty()); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	})
}

// FuzzElements reads whatever a kernel might hold.
func FuzzElements(f *testing.F) {
	f.Add([]byte{10, 0, 0, 1, 0, 10, 0, 0, 7, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		var elements []nftables.SetElement
		for ; len(data) >= 5; data = data[5:] {
			elements = append(elements, nftables.SetElement{Key: data[:4:4], IntervalEnd: data[4]&1 != 0})
		}
		list, err := prefixes(elements)
		for _, p := range list {
			if p != p.Masked() {
				t.Errorf("%v is no prefix, %v", p, err)
			}
		}
	})
}

func TestEndOfInterval(t *testing.T) {
	for text, want := range map[string]uint32{
		"10.0.0.0/8": 11 << 24, "0.0.0.0/1": 1 << 31, "10.0.0.255/32": 10<<24 + 256,
	} {
		end, ok := behind(netip.MustParsePrefix(text))
		if got := binary.BigEndian.Uint32(end.AsSlice()); !ok || got != want {
			t.Errorf("behind %s: %v, %v", text, end, ok)
		}
	}
	for _, text := range []string{"0.0.0.0/0", "255.255.255.255/32", "240.0.0.0/4"} {
		if end, ok := behind(netip.MustParsePrefix(text)); ok {
			t.Errorf("behind %s there is %v", text, end)
		}
	}
}
