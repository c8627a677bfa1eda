// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
)

// TestCostOfDel compares how much a DEL reads from the kernel on a node with many pods and
// on one without, by the memory that it allocates. The amount must not grow with the pods,
// whether the pod's link exists or went with its sandbox.
func TestCostOfDel(t *testing.T) {
	h, path := crashNode(t)
	const pods, rows = 40, 3
	for _, layout := range []Layout{Flat, PerPod} {
		for name, mode := range map[string]Mode{"veth": {}, "bridge": {Bridge: &Bridge{}}} {
			pod := func(n int) Pod {
				return Pod{
					ContainerID: "cost", IfName: fmt.Sprintf("e%d", n), Netns: path, Layout: layout, Mode: mode,
					Addrs: []PodAddr{{Addr: netip.AddrFrom4([4]byte{10, 0, byte(n / 250), byte(n % 250)}), Table: 2}},
				}
			}
			// cost returns the bytes that a DEL allocates. The DEL has only the pod's key, and
			// if there is no link also the addresses.
			cost := func(there bool, del func(context.Context, Pod) error) (bytes uint64) {
				for n := range rows {
					p := pod(pods + n)
					if there {
						host(t, h, p)
					}
					var before, after runtime.MemStats
					runtime.ReadMemStats(&before)
					d := Pod{ContainerID: p.ContainerID, IfName: p.IfName}
					if !there {
						d.Addrs = p.Addrs
					}
					if err := del(t.Context(), d); err != nil {
						t.Fatal(err)
					}
					runtime.ReadMemStats(&after)
					bytes += after.TotalAlloc - before.TotalAlloc
				}
				if err := h.Sweep(t.Context()); err != nil {
					t.Fatal(err)
				}
				return bytes / rows
			}
			measure := func() [4]uint64 {
				return [4]uint64{cost(true, h.RetirePod), cost(true, h.DelPod), cost(false, h.RetirePod), cost(false, h.DelPod)}
			}
			measure() // for what happens only once
			alone := measure()
			for n := range pods {
				host(t, h, pod(n))
			}
			among := measure()
			t.Logf("%s %s: RetirePod, DelPod, and both without link: %d bytes alone, %d among %d pods", layout, name, alone, among, pods)
			for i := range alone {
				if among[i] > alone[i]+alone[i]/2 {
					t.Errorf("%s %s: %d bytes are read where %d pods are, %d where none is", layout, name, among[i], pods, alone[i])
				}
			}
			for n := range pods {
				if err := h.RetirePod(t.Context(), Pod{ContainerID: "cost", IfName: pod(n).IfName}); err != nil {
					t.Fatal(err)
				}
			}
			if err := h.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// host does the steps of AddPod that concern the node.
func host(t *testing.T, h *kernel, p Pod) {
	t.Helper()
	a := newTestAddition(t, h, p)
	if err := errors.Join(a.place(t.Context()), a.setHostSysctls(t.Context()), a.wireHost(t.Context()), a.finish(t.Context())); err != nil {
		t.Fatal(err)
	}
}
