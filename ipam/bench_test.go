// SPDX-License-Identifier: Apache-2.0

package ipam_test

import (
	"fmt"
	"testing"

	"github.com/vpcnet/vpcnet/ipam"
)

// large returns a pool as on the largest instances: 15 ENIs with 49 slots each
// and 367 pods, which use half of the addresses when blocks are single addresses.
func large(b *testing.B, prefixBits int) *ipam.Pool {
	b.Helper()
	p := open(b, ipam.Config{Cooldown: -1})
	for n := range 15 {
		var prefixes []string
		for slot := range 49 {
			if prefixBits == 28 {
				prefixes = append(prefixes, fmt.Sprintf("10.%d.%d.%d/28", n, slot/16, slot%16*16))
			} else {
				prefixes = append(prefixes, fmt.Sprintf("10.0.%d.%d/32", n, slot))
			}
		}
		supply(b, p, ipam.ENI{ID: fmt.Sprint("eni-", n), Device: n}, prefixes...)
	}
	for i := range 367 {
		allocate(b, p, request(fmt.Sprint("old", i)))
	}
	return p
}

func BenchmarkAllocateRelease(b *testing.B) {
	for _, bits := range []int{32, 28} {
		b.Run(fmt.Sprintf("735 blocks of %d", bits), func(b *testing.B) {
			p := large(b, bits)
			r := request("new")
			for b.Loop() {
				if _, err := p.Allocate(b.Context(), r); err != nil {
					b.Fatal(err)
				}
				if _, err := p.Release(r.Attachment); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkView(b *testing.B) {
	p := large(b, 32)
	for b.Loop() {
		p.View()
	}
}
