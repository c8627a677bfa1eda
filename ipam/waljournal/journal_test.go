// SPDX-License-Identifier: Apache-2.0

package waljournal_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/waljournal"
)

var netipEqual = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

// sameWall compares times without their monotonic reading, as a journal stores
// them.
var sameWall = cmp.Comparer(func(a, b time.Time) bool { return a.Round(0).Equal(b.Round(0)) })

// open opens the journal in dir. The journal is closed when the test ends, or
// earlier by the function that open returns.
func open(t testing.TB, dir string) (j *waljournal.Journal, closed func()) {
	t.Helper()
	j, report, err := waljournal.Open(t.Context(), dir, config())
	if err != nil {
		t.Fatal(err)
	}
	if report.Why != nil || report.Rebooted {
		t.Fatalf("open: %+v", report)
	}
	closed = sync.OnceFunc(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(closed)
	return j, closed
}

func config() waljournal.Config { return waljournal.Config{BootID: "boot-1"} }

func events() []ipam.Event {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	return []ipam.Event{
		{Kind: ipam.EventENISet, At: at, ENI: "eni-1", Device: 1},
		{Kind: ipam.EventBlockAdded, At: at, ENI: "eni-1", Block: netip.MustParsePrefix("10.0.0.16/28")},
		{
			Kind: ipam.EventAllocated, At: at.Add(1), Attachment: ipam.Attachment{Network: "net", ContainerID: "c1", IfName: "eth0"},
			Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.16")}, Pod: ipam.PodRef{Namespace: "ns", Name: "p"}, Netns: "/run/netns/c1",
		},
	}
}

func TestEventsSurviveReopening(t *testing.T) {
	dir := t.TempDir()
	j, closed := open(t, dir)
	want := events()
	for _, e := range want {
		if err := j.Append([]ipam.Event{e}); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want []ipam.Event) {
		t.Helper()
		closed()
		j, closed = open(t, dir)
		got, err := j.Load()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, netipEqual, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	}
	check(want)
	if err := j.Replace(want[:2]); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(want[2:]); err != nil {
		t.Fatal(err)
	}
	check(want)
}

func TestAppendIsAllOrNone(t *testing.T) {
	j, _ := open(t, t.TempDir())
	bad := append(events(), ipam.Event{Kind: "from-the-future"})
	if err := j.Append(bad); !errors.Is(err, ipam.ErrInvalid) {
		t.Fatalf("append of an unknown event: %v", err)
	}
	if got, err := j.Load(); err != nil || len(got) != 0 {
		t.Errorf("after a failed append: %v, %v", got, err)
	}
}

// fill returns a pool with a hundred free addresses.
func fill(t testing.TB, j ipam.Journal) *ipam.Pool {
	t.Helper()
	p, err := ipam.Open(ipam.Config{Journal: j, Cooldown: -1})
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(p.SetENI(ipam.ENI{ID: "eni-1"}), p.SetReady("eni-1", true))
	addr := netip.MustParseAddr("10.0.0.0")
	var blocks []ipam.Block
	for range 100 {
		blocks = append(blocks, ipam.Block{Prefix: netip.PrefixFrom(addr, 32), ENI: "eni-1"})
		addr = addr.Next()
	}
	if err = errors.Join(err, p.AddBlocks(blocks...)); err != nil {
		t.Fatal(err)
	}
	return p
}

func request(i int) ipam.Request {
	return ipam.Request{Attachment: ipam.Attachment{Network: "net", ContainerID: fmt.Sprint("c", i), IfName: "eth0"}}
}

func burst(ctx context.Context, t testing.TB, p *ipam.Pool) {
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if _, err := p.Allocate(ctx, request(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestConcurrentAllocationsSurvive: the addresses of a hundred concurrent callers
// are in the journal after reopening.
func TestConcurrentAllocationsSurvive(t *testing.T) {
	dir := t.TempDir()
	j, closed := open(t, dir)
	p := fill(t, j)
	burst(t.Context(), t, p)
	closed()
	j, _ = open(t, dir)
	again, err := ipam.Open(ipam.Config{Journal: j})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		want, got := p.Lookup(request(i).Attachment), again.Lookup(request(i).Attachment)
		if diff := cmp.Diff(want, got, netipEqual, sameWall, cmpopts.IgnoreFields(ipam.Allocation{}, "RequestedAt")); diff != "" || len(got) != 1 {
			t.Errorf("attachment %d after reopening (-want +got):\n%s", i, diff)
		}
	}
}

func BenchmarkAllocateRelease(b *testing.B) {
	j, _ := open(b, b.TempDir())
	p := fill(b, j)
	for b.Loop() {
		if _, err := p.Allocate(b.Context(), request(0)); err != nil {
			b.Fatal(err)
		}
		if _, err := p.Release(request(0).Attachment); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAllocate100AtOnce(b *testing.B) {
	j, _ := open(b, b.TempDir())
	p := fill(b, j)
	for b.Loop() {
		burst(b.Context(), b, p)
		if _, err := p.ReleaseIf(func(ipam.Allocation) bool { return true }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	j, _ := open(b, b.TempDir())
	e := events()[2:]
	for b.Loop() {
		if err := j.Append(e); err != nil {
			b.Fatal(err)
		}
	}
}
