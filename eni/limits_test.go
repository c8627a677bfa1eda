// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/vpcnet/vpcnet/eni"
)

// TestTable compares the compiled table with the data it was generated from.
func TestTable(t *testing.T) {
	data, err := os.ReadFile("internal/limitsgen/instance-limits.csv")
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if got := len(eni.InstanceTypes()); got != len(rows)-1 {
		t.Errorf("%d types in the table, %d in the data", got, len(rows)-1)
	}
	for _, row := range rows[1:] {
		l, ok := eni.LimitsOf(row[0])
		if !ok {
			t.Errorf("%s is not in the table", row[0])
			continue
		}
		if got := strconv.Itoa(l.MaxENIs(l.DefaultCard)); got != row[1] {
			t.Errorf("%s: %s ENIs on the default card, want %s", row[0], got, row[1])
		}
		enis, _ := strconv.Atoi(row[1])
		addrs, _ := strconv.Atoi(row[2])
		if got, want := eni.MaxPods(l, eni.PodMode{}), enis*(addrs-1)+2; got != want {
			t.Errorf("%s: max-pods %d, want %d", row[0], got, want)
		}
	}
}

// TestMaxPods checks the published numbers of some types, and the other modes.
func TestMaxPods(t *testing.T) {
	for _, c := range []struct {
		kind string
		mode eni.PodMode
		want int
	}{
		{"t3.small", eni.PodMode{}, 11},
		{"t3.medium", eni.PodMode{}, 17},
		{"m5.large", eni.PodMode{}, 29},
		{"c5.4xlarge", eni.PodMode{}, 234},
		{"p3dn.24xlarge", eni.PodMode{}, 737},
		{"m5.large", eni.PodMode{Prefixes: true}, 434},
		{"m5.large", eni.PodMode{Prefixes: true, Cap: 110}, 110},
		{"m5.large", eni.PodMode{CustomNetworking: true}, 20},
		{"m5.large", eni.PodMode{Trunk: true}, 20},
		{"t3.medium", eni.PodMode{Trunk: true}, 17}, // supports no trunk
		{"m5.large", eni.PodMode{CustomNetworking: true, Trunk: true}, 11},
		{"m5.large", eni.PodMode{MaxENIs: 1}, 11},
		{"m5.large", eni.PodMode{MaxENIs: 1, CustomNetworking: true}, 2},
		{"p4d.24xlarge", eni.PodMode{}, 737},
		{"p4d.24xlarge", eni.PodMode{AllCards: true}, 4*15*49 + 2},
		{"m4.large", eni.PodMode{Prefixes: true}, 20}, // Xen supports no prefixes
	} {
		l, ok := eni.LimitsOf(c.kind)
		if !ok {
			t.Errorf("%s is not in the table", c.kind)
			continue
		}
		if got := eni.MaxPods(l, c.mode); got != c.want {
			t.Errorf("%s %+v: %d, want %d", c.kind, c.mode, got, c.want)
		}
	}
}

func ExampleMaxPods() {
	l, _ := eni.LimitsOf("m5.large")
	fmt.Println(eni.MaxPods(l, eni.PodMode{}))
	fmt.Println(eni.MaxPods(l, eni.PodMode{Prefixes: true, Cap: 110}))
	// Output:
	// 29
	// 110
}
