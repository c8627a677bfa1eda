// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
)

// TestGather checks how long the first Ensure waits for the calls for other ENIs: until they
// are there, but not longer than gatherTime, and not at all once the pods have their links.
func TestGather(t *testing.T) {
	const late = 2 * time.Millisecond
	for name, c := range map[string]struct {
		known     int // ENIs
		further   int // calls that come late
		converted bool
		want      time.Duration
	}{
		"all calls are there":         {known: 1},
		"another call comes":          {known: 2, further: 1, want: late},
		"two further calls come":      {known: 3, further: 2, want: 2 * late},
		"a call does not come":        {known: 3, further: 1, want: gatherTime},
		"the pods have their links":   {known: 3, converted: true},
		"more calls than known links": {known: 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newLinks(LinksConfig{})
			for i := range c.known {
				l.enis[string(rune('a'+i))] = datapath.ENI{}
			}
			l.asked, l.converted = 1, c.converted
			go func() {
				for range c.further {
					time.Sleep(late)
					l.mu.Lock()
					l.asked++
					l.mu.Unlock()
					signal(l.called)
				}
			}()
			began := time.Now()
			l.gather(t.Context())
			if took := time.Since(began); took != c.want {
				t.Errorf("%s: waited %v, want %v", name, took, c.want)
			}
			synctest.Wait()
		})
	}
	synctest.Test(t, func(t *testing.T) {
		l := newLinks(LinksConfig{})
		l.enis["a"] = datapath.ENI{}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		if l.gather(ctx); time.Since(began) != 0 {
			t.Error("gather waits although the context has ended")
		}
	})
}
