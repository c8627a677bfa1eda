// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"sync"
	"testing"
)

// TestSameAddAtOnce repeats an ADD while the first one is still at work, as a runtime does
// that has given it up. All of them succeed, and the pod is complete.
func TestSameAddAtOnce(t *testing.T) {
	h, _ := crashNode(t)
	for _, layout := range []Layout{Flat, PerPod} {
		for round := range 20 {
			p := takenPod(t, "same", layout, 2)
			var errs [8]error
			var wg sync.WaitGroup
			for i := range errs {
				wg.Go(func() { _, errs[i] = h.AddPod(t.Context(), p) })
			}
			wg.Wait()
			for i, err := range errs {
				if err != nil {
					t.Errorf("%s, round %d: ADD %d: %v", layout, round, i, err)
				}
			}
			if err := h.CheckPod(t.Context(), p); err != nil {
				t.Errorf("%s, round %d: %v", layout, round, err)
			}
			if err := h.DelPod(t.Context(), p); err != nil {
				t.Error(err)
			}
			dropNetns(p.Netns)
		}
	}
}
