// SPDX-License-Identifier: Apache-2.0

package instancetype_test

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/vpcnet/vpcnet/eni/instancetype"
)

// TestTable compares the compiled table with the data it was generated from.
func TestTable(t *testing.T) {
	data, err := os.ReadFile("../internal/limitsgen/instance-limits.csv")
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows[1:] {
		l, ok := instancetype.Lookup(row[0])
		if !ok {
			t.Errorf("%s is not in the table", row[0])
			continue
		}
		if got := strconv.Itoa(l.MaxENIs(l.DefaultCard)); got != row[1] {
			t.Errorf("%s: %s ENIs on the default card, want %s", row[0], got, row[1])
		}
		if known := row[7] != ""; l.TrunkKnown != known || l.Trunk != (row[7] == "true") || known && strconv.Itoa(l.Branches) != row[8] {
			t.Errorf("%s: trunk known %t, trunk %t, %d branches; want %q, %q", row[0], l.TrunkKnown, l.Trunk, l.Branches, row[7], row[8])
		}
		enis, _ := strconv.Atoi(row[1])
		addrs, _ := strconv.Atoi(row[2])
		if got, want := l.MaxPods(instancetype.PodMode{}), enis*(addrs-1)+2; got != want {
			t.Errorf("%s: max-pods %d, want %d", row[0], got, want)
		}
	}
	n, last := 0, ""
	for l := range instancetype.All() {
		if n++; l.Type <= last {
			t.Errorf("All lists %s after %s, want sorted types", l.Type, last)
		}
		last = l.Type
	}
	if n != len(rows)-1 {
		t.Errorf("All lists %d types, the data has %d", n, len(rows)-1)
	}
}

// TestAttributes compares the vCPUs, memory and EFAs of the table with the answers of
// DescribeInstanceTypes that they were generated from.
func TestAttributes(t *testing.T) {
	data, err := os.ReadFile("../enitest/instance-types.csv")
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	column := func(row []string, name string) string {
		return cmp.Or(row[slices.Index(rows[0], name)], "0")
	}
	known := map[string]bool{}
	for _, row := range rows[1:] {
		known[row[0]] = true
		l, ok := instancetype.Lookup(row[0])
		if !ok {
			t.Errorf("%s is not in the table", row[0])
			continue
		}
		got := []string{strconv.Itoa(l.VCPUs), strconv.Itoa(l.MemoryMiB), strconv.Itoa(l.EFAs)}
		want := []string{
			column(row, "vcpu-info.default-vcpus"), column(row, "memory-info.size-in-mib"),
			column(row, "network-info.efa-info.maximum-efa-interfaces"),
		}
		if !slices.Equal(got, want) || !l.EFAKnown || l.VCPUs == 0 || l.MemoryMiB == 0 {
			t.Errorf("%s: vCPUs, memory and EFAs %v, known %t; want %v", row[0], got, l.EFAKnown, want)
		}
	}
	for l := range instancetype.All() {
		if !known[l.Type] && (l.EFAKnown || l.VCPUs != 0 || l.MemoryMiB != 0 || l.Flexible != nil) {
			t.Errorf("%s: got %+v, want no attributes without a source", l.Type, l)
		}
	}
	if l, _ := instancetype.Lookup("c6in.32xlarge"); !slices.Equal(l.Flexible, []int{4, 4}) {
		t.Errorf("c6in.32xlarge: %v additional ENIs by card, want 4 and 4", l.Flexible)
	}
}

// TestLookupCopies checks that a caller can change the limits it got without an effect
// on the table.
func TestLookupCopies(t *testing.T) {
	l, _ := instancetype.Lookup("m5.large")
	l.Cards[0] = 99
	if again, _ := instancetype.Lookup("m5.large"); again.MaxENIs(0) != 3 {
		t.Errorf("m5.large has %d ENIs, want 3", again.MaxENIs(0))
	}
}

func TestLookupUnknown(t *testing.T) {
	for _, name := range []string{"", "m5", "m5.LARGE", "zz1.nano"} {
		if l, ok := instancetype.Lookup(name); ok || l.Type != "" {
			t.Errorf("%q: %+v, %t, want no limits", name, l, ok)
		}
	}
}

// TestSafe compares the safe limits with the table: only a few types allow less.
func TestSafe(t *testing.T) {
	safe := instancetype.Safe("x9.huge")
	if got := safe.MaxPods(instancetype.PodMode{}); got != 8 || safe.Type != "x9.huge" || safe.Source != "default" {
		t.Errorf("%+v: max-pods %d, want 8", safe, got)
	}
	smaller, total := 0, 0
	for l := range instancetype.All() {
		total++
		if l.AddrsPerENI < safe.AddrsPerENI || l.MaxENIs(l.DefaultCard) < safe.MaxENIs(0) {
			smaller++
		}
	}
	if smaller*50 > total {
		t.Errorf("%d of %d types allow less than the safe limits, want at most 2%%", smaller, total)
	}
}

// TestMaxPods checks the published numbers of some types, and the other modes.
func TestMaxPods(t *testing.T) {
	type mode = instancetype.PodMode
	for _, c := range []struct {
		kind string
		mode mode
		want int
	}{
		{"t3.small", mode{}, 11},
		{"t3.medium", mode{}, 17},
		{"m5.large", mode{}, 29},
		{"c5.4xlarge", mode{}, 234},
		{"p3dn.24xlarge", mode{}, 737},
		{"m5.large", mode{Prefixes: true}, 434},
		{"m5.large", mode{Prefixes: true, Cap: 110}, 110},
		{"m5.large", mode{Prefixes: true, Cap: instancetype.EKSCap(2)}, 110},
		{"m5.24xlarge", mode{Prefixes: true, Cap: instancetype.EKSCap(96)}, 250},
		{"m5.large", mode{CustomNetworking: true}, 20},
		{"m5.large", mode{Trunk: true}, 20},
		{"t3.medium", mode{Trunk: true}, 17}, // supports no trunk
		{"m5.large", mode{CustomNetworking: true, Trunk: true}, 11},
		{"m5.large", mode{MaxENIs: 1}, 11},
		{"m5.large", mode{MaxENIs: 1, CustomNetworking: true}, 2},
		{"p4d.24xlarge", mode{}, 737},
		{"p4d.24xlarge", mode{AllCards: true}, 4*15*49 + 2},
		{"m4.large", mode{Prefixes: true}, 20}, // Xen supports no prefixes
	} {
		l, ok := instancetype.Lookup(c.kind)
		if !ok {
			t.Errorf("%s is not in the table", c.kind)
			continue
		}
		if got := l.MaxPods(c.mode); got != c.want {
			t.Errorf("%s %+v: %d, want %d", c.kind, c.mode, got, c.want)
		}
	}
}

func TestMaxENIs(t *testing.T) {
	l, _ := instancetype.Lookup("p4d.24xlarge")
	for card, want := range map[int]int{-1: 0, 0: 15, 3: 15, 4: 0} {
		if got := l.MaxENIs(card); got != want {
			t.Errorf("card %d: %d ENIs, want %d", card, got, want)
		}
	}
	if got := (instancetype.Limits{}).SlotsPerENI(); got != 0 {
		t.Errorf("%d slots without addresses, want 0", got)
	}
}

func TestEKSCap(t *testing.T) {
	for vcpus, want := range map[int]int{1: 110, 30: 110, 31: 250, 192: 250} {
		if got := instancetype.EKSCap(vcpus); got != want {
			t.Errorf("%d vCPUs: %d, want %d", vcpus, got, want)
		}
	}
}
