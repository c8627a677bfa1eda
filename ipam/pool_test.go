// SPDX-License-Identifier: Apache-2.0

package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vpcnet/vpcnet/ipam"
)

var equate = cmp.Options{
	cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty(), cmpopts.IgnoreFields(ipam.Allocation{}, "RequestedAt"),
}

// memory is a journal in memory that can be made to fail.
type memory struct {
	mu     sync.Mutex
	events []ipam.Event
	fail   error
	writes int
	// replaced counts the calls of Replace.
	replaced int
	// before is called before each write, without the lock.
	before func()
}

func (m *memory) Load() ([]ipam.Event, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.events), m.fail
}

func (m *memory) Append(events []ipam.Event) error {
	return m.write(func() { m.events = append(m.events, events...) })
}

func (m *memory) Replace(events []ipam.Event) error {
	return m.write(func() { m.events, m.replaced = slices.Clone(events), m.replaced+1 })
}

func (m *memory) write(do func()) error {
	if m.before != nil {
		m.before()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writes++
	if m.fail == nil {
		do()
	}
	return m.fail
}

func attachment(id string) ipam.Attachment {
	return ipam.Attachment{Network: "net", ContainerID: id, IfName: "eth0"}
}

func request(id string, families ...ipam.Family) ipam.Request {
	return ipam.Request{Attachment: attachment(id), Families: families}
}

func open(t testing.TB, cfg ipam.Config) *ipam.Pool {
	t.Helper()
	p, err := ipam.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func blocks(eni string, prefixes ...string) (out []ipam.Block) {
	for _, p := range prefixes {
		out = append(out, ipam.Block{Prefix: netip.MustParsePrefix(p), ENI: eni})
	}
	return out
}

// supply puts a ready ENI with blocks into the pool.
func supply(t testing.TB, p *ipam.Pool, e ipam.ENI, prefixes ...string) {
	t.Helper()
	must(t, p.SetENI(e), p.AddBlocks(blocks(e.ID, prefixes...)...), p.SetReady(e.ID, true))
}

func allocate(t testing.TB, p *ipam.Pool, r ipam.Request) []netip.Addr {
	t.Helper()
	got, err := p.Allocate(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return addrs(got)
}

func addrs(all []ipam.Allocation) (out []netip.Addr) {
	for _, a := range all {
		out = append(out, a.Addr)
	}
	return out
}

func refused(t testing.TB, err error) *ipam.ExhaustedError {
	t.Helper()
	var e *ipam.ExhaustedError
	if !errors.As(err, &e) || !errors.Is(err, ipam.ErrExhausted) {
		t.Fatalf("%v is not an *ExhaustedError", err)
	}
	return e
}

func TestAllocateIsIdempotent(t *testing.T) {
	p := open(t, ipam.Config{})
	supply(t, p, ipam.ENI{ID: "eni-1", Device: 1}, "10.0.0.1/32", "10.0.0.2/32", "2001:db8::/80")
	r := request("a", ipam.IPv4, ipam.IPv6)
	r.Pod, r.Netns = ipam.PodRef{Namespace: "ns", Name: "web"}, "/run/netns/a"
	first, err := p.Allocate(t.Context(), r)
	must(t, err)
	want := []ipam.Allocation{
		{Addr: netip.MustParseAddr("10.0.0.1"), Block: netip.MustParsePrefix("10.0.0.1/32")},
		{Addr: netip.MustParseAddr("2001:db8::1"), Block: netip.MustParsePrefix("2001:db8::/80")},
	}
	for i := range want {
		want[i].Attachment, want[i].ENI, want[i].Device = r.Attachment, "eni-1", 1
		want[i].Pod, want[i].Netns, want[i].At = r.Pod, r.Netns, first[0].At
	}
	if diff := cmp.Diff(want, first, equate); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	again, err := p.Allocate(t.Context(), r)
	if diff := cmp.Diff(first, again, equate); diff != "" || err != nil {
		t.Errorf("second request: %v (-first +second):\n%s", err, diff)
	}
	allocate(t, p, request("b", ipam.IPv4))
	if _, err := p.Allocate(t.Context(), request("b", ipam.IPv4, ipam.IPv6)); !errors.Is(err, ipam.ErrConflict) {
		t.Errorf("request for another family: %v, want ErrConflict", err)
	}
	if diff := cmp.Diff(first, p.Lookup(r.Attachment), equate); diff != "" {
		t.Errorf("Lookup (-want +got):\n%s", diff)
	}
}

func TestAllOrNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, ipam.Config{})
		supply(t, p, ipam.ENI{ID: "eni-1"}, "10.0.0.1/32")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := p.Allocate(ctx, request("a", ipam.IPv4, ipam.IPv6))
		if e := refused(t, err); e.Family != ipam.IPv6 || e.Reason != ipam.ReasonNoBlocks || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want IPv6, %s and DeadlineExceeded", err, ipam.ReasonNoBlocks)
		}
		if got := allocate(t, p, request("b")); got[0] != netip.MustParseAddr("10.0.0.1") {
			t.Errorf("b got %v, want the IPv4 address that the refused request left free", got)
		}
	})
}

func TestOrderOfChoice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, ipam.Config{Cooldown: time.Second})
		supply(t, p, ipam.ENI{ID: "eni-2", Device: 2}, "10.0.2.0/28")
		supply(t, p, ipam.ENI{ID: "eni-1", Device: 1}, "10.0.1.16/28", "10.0.1.1/32")
		expect := func(id, want string) {
			t.Helper()
			if got := allocate(t, p, request(id)); got[0] != netip.MustParseAddr(want) {
				t.Errorf("%s got %v, want %s", id, got, want)
			}
		}
		expect("single before prefix", "10.0.1.1")
		expect("a", "10.0.1.16")
		expect("b", "10.0.1.17")
		must(t, p.SetReady("eni-1", false))
		expect("c", "10.0.2.0")
		expect("d", "10.0.2.1")
		expect("e", "10.0.2.2")
		must(t, p.SetReady("eni-1", true))
		expect("fullest block", "10.0.2.3")
		must(t, p.SetReady("eni-1", false))
		for _, id := range []string{"d", "c"} {
			_, err := p.Release(attachment(id))
			must(t, err)
			time.Sleep(2 * time.Second)
		}
		for i := range 12 {
			expect(fmt.Sprint("never used first ", i), fmt.Sprint("10.0.2.", 4+i))
		}
		expect("oldest released", "10.0.2.1")
		expect("then the other", "10.0.2.0")
	})
}

func TestPodStaysOnOneENI(t *testing.T) {
	p := open(t, ipam.Config{})
	supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.1/32", "2001:db8:0:0::/80")
	supply(t, p, ipam.ENI{ID: "eni-1", Device: 1}, "10.0.1.0/28", "2001:db8:0:1::/80")
	for i := range 5 {
		got, err := p.Allocate(t.Context(), request(fmt.Sprint(i), ipam.IPv4, ipam.IPv6))
		must(t, err)
		if got[0].ENI != got[1].ENI {
			t.Errorf("%v is on %s and %v on %s, want one ENI", got[0].Addr, got[0].ENI, got[1].Addr, got[1].ENI)
		}
	}
}

// TestPodOnENIWithBothFamilies has an ENI without IPv6, from which IPv4 addresses come first.
// A pod with both families gets those of the other ENI, as long as it has any.
func TestPodOnENIWithBothFamilies(t *testing.T) {
	p := open(t, ipam.Config{})
	supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.0/28")
	supply(t, p, ipam.ENI{ID: "eni-1", Device: 1}, "10.0.1.1/32", "10.0.1.2/32", "2001:db8:0:1::/80")
	for i, want := range []string{"eni-1", "eni-1", "eni-0"} {
		got, err := p.Allocate(t.Context(), request(fmt.Sprint(i), ipam.IPv4, ipam.IPv6))
		must(t, err)
		if got[0].ENI != want || got[1].ENI != "eni-1" {
			t.Errorf("pod %d has %v of %s and %v of %s, want IPv4 of %s", i, got[0].Addr, got[0].ENI, got[1].Addr, got[1].ENI, want)
		}
	}
}

func TestCardsAreSeparate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, ipam.Config{})
		supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.1/32")
		supply(t, p, ipam.ENI{ID: "eni-c1", Card: 1, Device: 1}, "10.0.1.1/32")
		r := request("a")
		r.Card = 1
		got, err := p.Allocate(t.Context(), r)
		must(t, err)
		if got[0].ENI != "eni-c1" || got[0].Card != 1 || got[0].Device != 1 {
			t.Errorf("got %+v, want card 1, device 1 of eni-c1", got[0])
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r = request("b")
		r.Card = 1
		if _, err := p.Allocate(ctx, r); refused(t, err).Card != 1 {
			t.Error(err)
		}
	})
}

func TestBadInput(t *testing.T) {
	p := open(t, ipam.Config{})
	supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.16/28")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	tests := map[string]struct {
		do   func() error
		want error
	}{
		"no container":   {func() error { _, err := p.Allocate(t.Context(), request("")); return err }, ipam.ErrInvalid},
		"unknown family": {func() error { _, err := p.Allocate(t.Context(), request("a", 5)); return err }, ipam.ErrInvalid},
		"family twice":   {func() error { _, err := p.Allocate(t.Context(), request("a", 4, 4)); return err }, ipam.ErrInvalid},
		"negative card": {func() error {
			_, err := p.Allocate(t.Context(), ipam.Request{Attachment: attachment("a"), Card: -1})
			return err
		}, ipam.ErrInvalid},
		"ended context":     {func() error { _, err := p.Allocate(ended, request("a")); return err }, context.Canceled},
		"unknown release":   {func() error { _, err := p.Release(attachment("a")); return err }, ipam.ErrNotAllocated},
		"unknown ENI":       {func() error { return p.AddBlocks(blocks("eni-9", "10.0.9.0/28")...) }, ipam.ErrUnknown},
		"overlap below":     {func() error { return p.AddBlocks(blocks("eni-0", "10.0.0.17/32")...) }, ipam.ErrConflict},
		"overlap above":     {func() error { return p.AddBlocks(blocks("eni-0", "10.0.0.0/24")...) }, ipam.ErrConflict},
		"unmasked block":    {func() error { return p.AddBlocks(blocks("eni-0", "10.0.7.1/28")...) }, ipam.ErrInvalid},
		"ENI moved":         {func() error { return p.SetENI(ipam.ENI{ID: "eni-0", Device: 3}) }, ipam.ErrConflict},
		"ENI without name":  {func() error { return p.SetENI(ipam.ENI{}) }, ipam.ErrInvalid},
		"ready unknown ENI": {func() error { return p.SetReady("eni-9", true) }, ipam.ErrUnknown},
		"drain unknown":     {func() error { return p.DrainBlocks(netip.MustParsePrefix("10.9.0.0/28")) }, ipam.ErrUnknown},
		"drain unknown ENI": {func() error { return p.DrainENI("eni-9") }, ipam.ErrUnknown},
		"doubt unknown":     {func() error { return p.DoubtBlocks(true, netip.MustParsePrefix("10.9.0.0/28")) }, ipam.ErrUnknown},
		"remove unknown":    {func() error { return p.RemoveBlocks(netip.MustParsePrefix("10.9.0.0/28")) }, nil},
		"remove no ENI":     {func() error { return p.RemoveENI("eni-9") }, nil},
		"same block again":  {func() error { return p.AddBlocks(blocks("eni-0", "10.0.0.16/28")...) }, nil},
		"same ENI again":    {func() error { return p.SetENI(ipam.ENI{ID: "eni-0"}) }, nil},
	}
	for name, tt := range tests {
		before := p.View()
		if err := tt.do(); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
		after := p.View()
		after.At = before.At
		if diff := cmp.Diff(before, after, equate); diff != "" {
			t.Errorf("%s changed the pool:\n%s", name, diff)
		}
	}
}

func TestWaitersAreServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, ipam.Config{})
		must(t, p.SetENI(ipam.ENI{ID: "eni-0"}), p.SetReady("eni-0", true))
		var mu sync.Mutex
		var order []int
		for i := range 6 {
			go func() {
				if _, err := p.Allocate(t.Context(), request(fmt.Sprint(i))); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				order = append(order, i)
			}()
			synctest.Wait()
		}
		if got := len(p.View().Waiting); got != 6 {
			t.Errorf("%d requests wait, want 6", got)
		}
		for i := range 6 {
			must(t, p.AddBlocks(blocks("eni-0", fmt.Sprintf("10.0.0.%d/32", i))...))
			synctest.Wait()
		}
		if diff := cmp.Diff([]int{0, 1, 2, 3, 4, 5}, order); diff != "" {
			t.Errorf("order (-want +got):\n%s", diff)
		}
	})
}

func TestLaterRequestsDoNotOvertake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, ipam.Config{})
		supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.1/32")
		both := make(chan []netip.Addr)
		go func() { both <- allocate(t, p, request("both", ipam.IPv4, ipam.IPv6)) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if got, err := p.Allocate(ctx, request("late")); err == nil {
			t.Errorf("a later request got %v before an older one", got)
		}
		must(t, p.AddBlocks(blocks("eni-0", "2001:db8::/80")...))
		if got := <-both; len(got) != 2 {
			t.Errorf("got %v, want two addresses", got)
		}
	})
}

func TestCoolingAddressServesWaiterOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, ipam.Config{Cooldown: 30 * time.Second})
		supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.1/32", "10.0.0.2/32")
		for i := range 2 {
			allocate(t, p, request(fmt.Sprint("old", i)))
		}
		go func() {
			for i := range 2 {
				time.Sleep(10 * time.Second)
				if _, err := p.Release(attachment(fmt.Sprint("old", i))); err != nil {
					t.Error(err)
				}
			}
		}()
		start := time.Now()
		for i := range 2 {
			allocate(t, p, request(fmt.Sprint("new", i)))
			if got, want := time.Since(start), time.Duration(40+10*i)*time.Second; got != want {
				t.Errorf("request %d was served after %v, want %v", i, got, want)
			}
		}
	})
}

func TestReasons(t *testing.T) {
	full := func(t *testing.T, p *ipam.Pool) {
		supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.1/32")
		allocate(t, p, request("old"))
	}
	cooling := func(t *testing.T, p *ipam.Pool) {
		full(t, p)
		_, err := p.Release(attachment("old"))
		must(t, err)
	}
	tests := []struct {
		name    string
		prepare func(t *testing.T, p *ipam.Pool)
		outlook ipam.Outlook
		limit   time.Duration
		want    ipam.Reason
		retry   time.Duration // at the time of the refusal
		waited  time.Duration
	}{
		{name: "nothing there", limit: time.Second, want: ipam.ReasonNoBlocks, waited: time.Second},
		{name: "all used", prepare: full, limit: time.Second, want: ipam.ReasonAllInUse, waited: time.Second},
		{name: "cooling", prepare: cooling, limit: 10 * time.Second, want: ipam.ReasonCooling, waited: 10 * time.Second, retry: 20 * time.Second},
		{name: "not verified", limit: time.Second, want: ipam.ReasonLinkNotReady, waited: time.Second, prepare: func(t *testing.T, p *ipam.Pool) {
			supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.1/32")
			must(t, p.SetReady("eni-0", false))
		}},
		{name: "refilling", prepare: full, limit: time.Second, outlook: ipam.Outlook{Reason: ipam.ReasonRefilling}, want: ipam.ReasonRefilling, waited: time.Second},
		{
			name: "subnet full", prepare: full, limit: 10 * time.Second, want: ipam.ReasonSubnetFull, waited: 10 * time.Second, retry: 50 * time.Second,
			outlook: ipam.Outlook{Reason: ipam.ReasonSubnetFull, Evidence: "EC2 said no", RetryAt: time.Date(2000, 1, 1, 0, 1, 0, 0, time.UTC)},
		},
		{name: "at the limit", prepare: full, limit: time.Minute, outlook: ipam.Outlook{Reason: ipam.ReasonENILimit, Final: true}, want: ipam.ReasonENILimit},
		{
			name: "at the limit, cooling too late", prepare: cooling, limit: 10 * time.Second, want: ipam.ReasonCooling, retry: 30 * time.Second,
			outlook: ipam.Outlook{Reason: ipam.ReasonENILimit, Final: true},
		},
		{name: "max pods", limit: time.Minute, want: ipam.ReasonPoolLimit, prepare: func(t *testing.T, p *ipam.Pool) {
			supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.0/28")
			for i := range 3 {
				allocate(t, p, request(fmt.Sprint(i)))
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := open(t, ipam.Config{Cooldown: 30 * time.Second, MaxPods: 3})
				if tt.prepare != nil {
					tt.prepare(t, p)
				}
				p.SetOutlook(0, ipam.IPv4, tt.outlook)
				ctx, cancel := context.WithTimeout(t.Context(), tt.limit)
				defer cancel()
				start := time.Now()
				_, err := p.Allocate(ctx, request("new"))
				e := refused(t, err)
				if e.Reason != tt.want || e.RetryAfter != tt.retry || time.Since(start) != tt.waited || e.Waited != tt.waited {
					t.Errorf("%v\nreason %s retry %v after %v, want %s, %v, %v", err, e.Reason, e.RetryAfter, time.Since(start), tt.want, tt.retry, tt.waited)
				}
				if (tt.waited > 0) != errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("waited %v: error %v, want DeadlineExceeded only after a wait", tt.waited, err)
				}
				if e.Evidence == "" || !strings.Contains(e.Evidence, tt.outlook.Evidence) {
					t.Errorf("evidence %q, want it to contain %q", e.Evidence, tt.outlook.Evidence)
				}
				if n := len(p.View().Waiting); n != 0 {
					t.Errorf("%d requests still wait", n)
				}
			})
		})
	}
}

func TestWaitForCoolingAddressAtLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, ipam.Config{Cooldown: 30 * time.Second})
		supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.1/32")
		p.SetOutlook(0, ipam.IPv4, ipam.Outlook{Reason: ipam.ReasonENILimit, Final: true})
		allocate(t, p, request("old"))
		_, err := p.Release(attachment("old"))
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := p.Allocate(ctx, request("new")); err != nil {
			t.Error(err)
		}
	})
}

func TestDrainRefusedWhileUsedOrCooling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, ipam.Config{Cooldown: 30 * time.Second})
		supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.16/28", "10.0.0.32/28")
		used, other := netip.MustParsePrefix("10.0.0.16/28"), netip.MustParsePrefix("10.0.0.32/28")
		allocate(t, p, request("a"))
		refuse := func(when string) {
			t.Helper()
			for name, err := range map[string]error{
				"drain": p.DrainBlocks(other, used), "remove": p.RemoveBlocks(other, used),
				"drain ENI": p.DrainENI("eni-0"), "remove ENI": p.RemoveENI("eni-0"),
			} {
				if !errors.Is(err, ipam.ErrInUse) {
					t.Errorf("%s while %s: %v, want ErrInUse", name, when, err)
				}
			}
			for _, b := range p.View().ENIs[0].Blocks {
				if b.Draining {
					t.Errorf("%v is draining although the call was refused", b.Prefix)
				}
			}
		}
		refuse("used")
		_, err := p.Release(attachment("a"))
		must(t, err)
		refuse("cooling")
		time.Sleep(31 * time.Second)
		must(t, p.DrainBlocks(used, other))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if got, err := p.Allocate(ctx, request("b")); err == nil {
			t.Errorf("%v was allocated from a draining block", got)
		}
		must(t, p.RemoveBlocks(used), p.DrainENI("eni-0"), p.RemoveENI("eni-0"))
		v := p.View()
		if len(v.ENIs) != 0 || v.Removed["eni-0"].IsZero() || v.Removed["10.0.0.32/28"].IsZero() || v.Removed[used.String()].IsZero() {
			t.Errorf("got %+v, want no ENIs, and the ENI and both blocks as removed", v)
		}
		supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.16/28")
		if v := p.View(); !v.Removed["eni-0"].IsZero() || !v.Removed[used.String()].IsZero() {
			t.Errorf("added again, but still listed as removed: %+v", v.Removed)
		}
	})
}

// TestDrainingENIServesNoPods: no address of a draining ENI is allocated, also
// after a restart, until SetENI cancels the draining.
func TestDrainingENIServesNoPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := ipam.Config{Journal: &memory{}}
		p := open(t, cfg)
		supply(t, p, ipam.ENI{ID: "eni-1", Device: 1}, "10.0.0.16/28")
		must(t, p.DrainENI("eni-1"))
		for _, when := range []string{"drained", "restarted"} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			got, err := p.Allocate(ctx, request("a"))
			cancel()
			if !errors.Is(err, ipam.ErrExhausted) {
				t.Fatalf("%s: %v, %v, want ErrExhausted", when, got, err)
			}
			p = open(t, cfg)
			must(t, p.SetReady("eni-1", true))
		}
		must(t, p.SetENI(ipam.ENI{ID: "eni-1", Device: 1}))
		allocate(t, p, request("a"))
	})
}

func TestDoubtedBlocksAreNotAllocated(t *testing.T) {
	p := open(t, ipam.Config{})
	supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.1/32", "10.0.0.2/32")
	b := netip.MustParsePrefix("10.0.0.1/32")
	must(t, p.DoubtBlocks(true, b))
	if got := allocate(t, p, request("a")); got[0] == b.Addr() {
		t.Errorf("got %v of a doubted block", got)
	}
	must(t, p.DoubtBlocks(false, b))
	if got := allocate(t, p, request("b")); got[0] != b.Addr() {
		t.Errorf("got %v, want %v", got, b.Addr())
	}
}

func TestReleaseIf(t *testing.T) {
	p := open(t, ipam.Config{})
	supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.0/28", "2001:db8::/80")
	for _, id := range []string{"a", "b", "c"} {
		allocate(t, p, request(id, ipam.IPv4, ipam.IPv6))
	}
	got, err := p.ReleaseIf(func(a ipam.Allocation) bool { return a.ContainerID != "b" })
	must(t, err)
	left := slices.Collect(p.Allocations())
	if len(got) != 4 || len(left) != 2 || left[0].ContainerID != "b" {
		t.Errorf("released %v, left %v, want only the addresses of b left", got, left)
	}
}

// TestLimitsChange checks that another maximum of pods and another cooldown hold at once.
func TestLimitsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, ipam.Config{Cooldown: time.Hour, MaxPods: 1})
		supply(t, p, ipam.ENI{ID: "eni-0"}, "10.0.0.10/32", "10.0.0.11/32")
		first, second := request("a"), request("b")
		addr := allocate(t, p, first)
		refused := func(r ipam.Request, reason ipam.Reason) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var e *ipam.ExhaustedError
			if _, err := p.Allocate(ctx, r); !errors.As(err, &e) || e.Reason != reason {
				t.Errorf("%v, want the reason %s", err, reason)
			}
		}
		refused(second, ipam.ReasonPoolLimit)
		p.SetMaxPods(2)
		allocate(t, p, second)
		p.SetMaxPods(1)
		if got := len(p.Lookup(first.Attachment)) + len(p.Lookup(second.Attachment)); got != 2 {
			t.Errorf("%d allocations with a lower maximum, want 2", got)
		}
		release(t, p, second)
		p.SetMaxPods(3)
		if !p.SetOtherPods(2) {
			t.Error("1 pod and 2 others are more than 3")
		}
		refused(second, ipam.ReasonPoolLimit)
		if p.SetOtherPods(3) {
			t.Error("1 pod and 3 others are at most 3")
		}
		p.SetOtherPods(0)
		p.SetMaxPods(0)
		release(t, p, first)
		refused(request("c"), ipam.ReasonCooling)
		p.SetCooldown(-1)
		if got := allocate(t, p, request("c")); got[0] != addr[0] {
			t.Errorf("%v without a cooldown, want %v", got, addr)
		}
		p.SetCooldown(0)
		release(t, p, second)
		time.Sleep(29 * time.Second)
		if v := p.View(); v.ENIs[0].Blocks[0].Cooling+v.ENIs[0].Blocks[1].Cooling != 1 {
			t.Errorf("%+v, want an address that is cooling", v.ENIs[0].Blocks)
		}
		time.Sleep(2 * time.Second)
		allocate(t, p, request("d"))
	})
}
