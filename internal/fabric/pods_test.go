// SPDX-License-Identifier: Apache-2.0

//go:build linux

package fabric_test

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// noDrift: what was wired is what is desired, and each pod passes its check.
func (s *suite) noDrift(t *testing.T) {
	for _, h := range s.hosts {
		want := datapath.Desired{Node: h.node}
		for _, p := range h.pods {
			want.Pods = append(want.Pods, p.pod)
			if err := h.path.CheckPod(t.Context(), p.pod); err != nil {
				t.Errorf("%s of %s: %v", p.name, h.name, err)
			}
		}
		have, err := h.path.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if changes := want.Drift(have); len(changes) > 0 {
			t.Errorf("%s drifts: %v", h.name, changes)
		}
	}
}

// metadata: a pod is told about its node, whichever ENI it is on.
func (s *suite) metadata(t *testing.T) {
	for _, h := range s.hosts {
		for _, p := range h.pods {
			for family, url := range []string{"http://169.254.169.254/", "http://[fd00:ec2::254]/"} {
				if status, body := get(t, p.ns, p.addrs[family], url); status != http.StatusOK || body != h.name {
					t.Errorf("%s of %s is told %d %q by %s", p.name, h.name, status, body, url)
				}
			}
		}
	}
}

// deletedPods: nobody answers for a pod that is gone, and its addresses serve
// another.
func (s *suite) deletedPods(t *testing.T) {
	near, far := s.hosts[0], s.hosts[1]
	for _, k := range slices.Backward(s.kinds) {
		p := near.pods[k.name]
		asks(t, far.ns, far.addrs[0], p.addrs[0], far.addrs[0])
		if err := near.path.DelPod(t.Context(), p.pod); err != nil {
			t.Errorf("%s: %v", p.name, err)
		}
	}
	var silent sync.WaitGroup
	for _, p := range near.pods {
		for _, a := range p.addrs {
			silent.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), silence)
				defer cancel()
				if seen, err := far.ns.Ask(ctx, "udp", netip.AddrPort{}, netip.AddrPortFrom(a, fabric.EchoPort)); err == nil {
					t.Errorf("%v still answers: %v", a, seen)
				}
			})
		}
	}
	silent.Wait()
	for _, k := range s.kinds {
		s.add(t, near, k, "again-"+k.name)
	}
	for _, k := range s.kinds {
		p := near.pods[k.name]
		for family := range 2 {
			asks(t, p.ns, p.addrs[family], far.addrs[family], p.addrs[family])
		}
	}
	s.noDrift(t)
}
