// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
)

// TestCostOfDel compares what a DEL reads from the kernel on a node with many pods
// and on one with none, by the memory that it allocates for that: it must not grow with
// the pods, whether the pod's link is there or went with its sandbox.
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
			// cost is that of a DEL with nothing but the pod's key, and with its addresses
			// where no link tells of them.
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
			measure() // whatever happens once
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

// host makes the node's side of a pod.
func host(t *testing.T, h *Handle, p Pod) {
	t.Helper()
	sandbox, err := openNetns(p.Netns)
	if err != nil {
		t.Fatal(err)
	}
	defer sandbox.Close()
	link, err := h.createVeth(t.Context(), p, sandbox)
	if err == nil && !p.Mode.isVeth() {
		_, err = h.place(t.Context(), p, newHandle(sandbox))
	}
	if err == nil && p.Mode.isVeth() {
		err = h.wireHost(t.Context(), p, link.Index)
	} else if err == nil {
		err = h.applyHost(t.Context(), p, false)
	}
	if err != nil {
		t.Fatal(err)
	}
}
