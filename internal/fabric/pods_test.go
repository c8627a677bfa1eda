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

// noDrift checks that the state of the kernel is the desired one, and that CheckPod
// succeeds for each pod.
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
			t.Errorf("%s differs from its desired state: %v", h.name, changes)
		}
	}
}

// metadata checks that each pod gets the metadata of its node, on whichever ENI its
// addresses are.
func (s *suite) metadata(t *testing.T) {
	for _, h := range s.hosts {
		for _, p := range h.pods {
			for family, url := range []string{"http://169.254.169.254/", "http://[fd00:ec2::254]/"} {
				if status, body := get(t, p.ns, p.addrs[family], url); status != http.StatusOK || body != h.name {
					t.Errorf("%s of %s got %d %q from %s, want 200 %q", p.name, h.name, status, body, url, h.name)
				}
			}
		}
	}
}

// deletedPods deletes pods and checks that there are no answers from their
// addresses. Then it adds new pods with the same addresses.
func (s *suite) deletedPods(t *testing.T) {
	near, far := s.hosts[0], s.hosts[1]
	for _, k := range slices.Backward(s.kinds) {
		p := near.pods[k.name]
		wantSource(t, far.ns, far.addrs[0], p.addrs[0], far.addrs[0])
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
					t.Errorf("%v of a deleted pod answers %v", a, seen)
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
			wantSource(t, p.ns, p.addrs[family], far.addrs[family], p.addrs[family])
		}
	}
	s.noDrift(t)
}
