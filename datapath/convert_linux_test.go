// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vpcnet/vpcnet/datapath"
)

// TestConvert changes the layout of a node several times while pods on both ENIs send
// packets of both families. It checks that no packet is lost and that nothing of the
// other layout remains.
func TestConvert(t *testing.T) {
	l := newLab(t, datapath.Flat)
	l.ensure()
	pods := []datapath.Pod{l.pod(0, "one"), l.pod(1, "two")}
	for _, p := range pods {
		l.add(p)
	}
	for _, p := range pods {
		for _, a := range p.Addrs {
			l.waitAnswer(p.Netns, a.Addr, outsideOf(a.Addr))
		}
	}
	before := l.state()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	flows := make([]flow, 4)
	for i := range flows {
		p := pods[i/2]
		wg.Go(func() { flows[i].run(t, p, p.Addrs[i%2].Addr, stop) })
	}
	for range 6 {
		for _, layout := range []datapath.Layout{datapath.PerPod, datapath.Flat} {
			l.n.Layout = layout
			for i := range pods {
				pods[i].Layout = layout
			}
			if err := l.h.Ensure(t.Context(), datapath.Desired{Node: *l.n, Pods: pods}); err != nil {
				t.Errorf("to %s: %v", layout, err)
			}
			for _, p := range pods {
				if err := l.h.CheckPod(t.Context(), p); err != nil {
					t.Errorf("%s: %v", layout, err)
				}
			}
			for i := range flows {
				flows[i].waitAnswers(t, 5)
			}
		}
	}
	close(stop)
	wg.Wait()
	if diff := cmp.Diff(before, l.state()); diff != "" {
		t.Errorf("state after the last conversion (-before +after):\n%s", diff)
	}
	for i := range flows {
		_, lost := flows[i].unexcused(nil)
		if lost > 0 {
			t.Errorf("flow %d: %d of %d packets lost", i, lost, len(flows[i].sent))
		}
		t.Logf("flow %d: %d packets", i, len(flows[i].sent))
	}
}
