// SPDX-License-Identifier: Apache-2.0

package ipam_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vpcnet/vpcnet/internal/race"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/waljournal"
)

// heap returns the bytes of the heap that are in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// realRequest has names as long as those of a real pod.
func realRequest(i int) ipam.Request {
	id := fmt.Sprintf("%064x", i)
	return ipam.Request{
		Attachment: ipam.Attachment{Network: "vpcnet", ContainerID: id, IfName: "eth0"}, Netns: "/run/netns/cni-" + id[28:], Sandbox: uint64(1 + i),
		Pod: ipam.PodRef{Namespace: "default", Name: fmt.Sprint("deployment-7f9c6bb5d-", i), UID: id[:36]},
	}
}

// largest returns a pool of 15 ENIs with 70 slots each.
func largest(t *testing.T, cfg ipam.Config) *ipam.Pool {
	t.Helper()
	p, err := ipam.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 15 {
		var prefixes []string
		for slot := range 70 {
			prefixes = append(prefixes, fmt.Sprintf("10.0.%d.%d/32", n, 10+slot))
		}
		supply(t, p, ipam.ENI{ID: fmt.Sprint("eni-", n), Device: n}, prefixes...)
	}
	return p
}

// TestMemoryOfPods checks how much memory the pool and its journal take for 1,000 pods
// on 15 ENIs: at most 3 kB a pod, with its share of the ENIs.
func TestMemoryOfPods(t *testing.T) {
	const pods, most = 1000, 3 << 10
	before := heap()
	j, _, err := waljournal.Open(t.Context(), t.TempDir(), waljournal.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	p := largest(t, ipam.Config{Journal: j})
	for i := range pods {
		allocate(t, p, realRequest(i))
	}
	each := (heap() - before) / pods
	t.Logf("%d bytes a pod", each)
	if each > most {
		t.Errorf("%d bytes a pod, want at most %d", each, most)
	}
	runtime.KeepAlive(p)
}

// TestPodsLeaveNothing checks that pods that come and go leave nothing in memory and in
// the files of the journal.
func TestPodsLeaveNothing(t *testing.T) {
	pairs := 1_000_000
	if testing.Short() || race.Enabled {
		pairs = 30_000
	}
	dir := t.TempDir()
	j, _, err := waljournal.Open(t.Context(), dir, waljournal.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	p, err := ipam.Open(ipam.Config{Journal: j, Cooldown: -1})
	if err != nil {
		t.Fatal(err)
	}
	supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.16/28", "10.0.0.32/28")
	churn := func(from, to int) {
		for i := from; i < to; i++ {
			r := realRequest(i)
			allocate(t, p, r)
			if _, err := p.Release(r.Attachment); err != nil {
				t.Fatal(err)
			}
		}
	}
	churn(0, 10_000)
	was := heap()
	churn(10_000, pairs)
	grown, size := heap()-was, int64(0)
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	t.Logf("after %d pairs: %d bytes more in memory, %d bytes in files", pairs, grown, size)
	if grown > 512<<10 || size > 8<<20 {
		t.Errorf("%d bytes more in memory and %d in files, want at most 512 kB and 8 MB", grown, size)
	}
}
