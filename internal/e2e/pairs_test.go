// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"slices"
	"strings"
	"testing"
)

// factor is a setting with its values.
type factor struct {
	name   string
	values []string
}

// row is a combination: the value of each factor by its name.
type row map[string]string

// name returns the values in the order of the factors.
func (r row) name(factors []factor) string {
	var values []string
	for _, f := range factors {
		values = append(values, f.name+"="+r[f.name])
	}
	return strings.Join(values, ",")
}

// product returns all combinations.
func product(factors []factor) []row {
	rows := []row{{}}
	for _, f := range factors {
		var next []row
		for _, r := range rows {
			for _, v := range f.values {
				with := row{f.name: v}
				for k, v := range r {
					with[k] = v
				}
				next = append(next, with)
			}
		}
		rows = next
	}
	return rows
}

// pair is a value each of two factors.
type pair [4]string

// pairsOf returns the pairs in a combination.
func pairsOf(factors []factor, r row) (pairs []pair) {
	for i, f := range factors {
		for _, g := range factors[i+1:] {
			pairs = append(pairs, pair{f.name, r[f.name], g.name, r[g.name]})
		}
	}
	return pairs
}

// covering returns few combinations in which each pair of values occurs: the next one is
// always the first with the most pairs that are in none before.
func covering(factors []factor) (rows []row) {
	all := product(factors)
	missing := map[pair]bool{}
	for _, r := range all {
		for _, p := range pairsOf(factors, r) {
			missing[p] = true
		}
	}
	for len(missing) > 0 {
		var best row
		most := 0
		for _, r := range all {
			n := 0
			for _, p := range pairsOf(factors, r) {
				if missing[p] {
					n++
				}
			}
			if n > most {
				best, most = r, n
			}
		}
		rows = append(rows, best)
		for _, p := range pairsOf(factors, best) {
			delete(missing, p)
		}
	}
	return rows
}

// TestCovering checks that each pair of values occurs, in few combinations.
func TestCovering(t *testing.T) {
	rows := covering(factors)
	for i, f := range factors {
		for _, g := range factors[i+1:] {
			for _, v := range f.values {
				for _, w := range g.values {
					if !slices.ContainsFunc(rows, func(r row) bool { return r[f.name] == v && r[g.name] == w }) {
						t.Errorf("no combination has %s %s and %s %s", f.name, v, g.name, w)
					}
				}
			}
		}
	}
	if all := len(product(factors)); len(rows) > 16 || all != 288 {
		t.Errorf("%d combinations of %d, want at most 16 of 288", len(rows), all)
	}
}
