// SPDX-License-Identifier: Apache-2.0

package snat_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netns"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/snat"
)

// watching is a running Watch.
type watching struct {
	t       testing.TB
	h       *snat.Handle
	repairs chan snat.Repair
	checks  atomic.Int64
	onCheck func()       // called in each check; optional
	log     bytes.Buffer // read it after end
	end     func()
	mu      sync.Mutex
	want    snat.Ruleset
	wanted  bool
}

// watch applies the rules of c and starts a Watch for them.
func watch(t testing.TB, h *snat.Handle, c snat.Config) *watching {
	t.Helper()
	w := &watching{t: t, h: h, repairs: make(chan snat.Repair, 10000)}
	w.desire(ruleset(t, c))
	if _, err := h.Apply(t.Context(), w.want); err != nil {
		t.Fatal(err)
	}
	w.start(snat.WatchConfig{})
	return w
}

// start runs Watch until end is called or the test ends.
func (w *watching) start(cfg snat.WatchConfig) {
	if cfg.Desired == nil {
		cfg.Desired = w.desired
	}
	cfg.Repaired = func(r snat.Repair) { w.repairs <- r }
	cfg.Logger = slog.New(slog.NewTextHandler(&w.log, nil))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.h.Watch(ctx, cfg) }()
	w.end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			w.t.Errorf("Watch = %v, want context.Canceled", err)
		}
	})
	w.t.Cleanup(w.end)
	// Watch subscribes before its first check.
	w.eventually("first check", func() bool { return w.checks.Load() > 0 })
}

func (w *watching) desired() (snat.Ruleset, bool) {
	w.checks.Add(1)
	if w.onCheck != nil {
		w.onCheck()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.want, w.wanted
}

func (w *watching) desire(r snat.Ruleset) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.want, w.wanted = r, true
}

// eventually waits for a condition.
func (w *watching) eventually(what string, condition func() bool) {
	w.t.Helper()
	for end := time.Now().Add(20 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("no %s within 20 s", what)
		}
	}
}

// repaired waits until the table is as desired.
func (w *watching) repaired() {
	w.t.Helper()
	w.eventually("repaired table", func() bool {
		r, err := w.h.Observe(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		return r.Equal(w.want)
	})
}

// repair waits for the next repair.
func (w *watching) repair(what string) snat.Repair {
	w.t.Helper()
	select {
	case r := <-w.repairs:
		return r
	case <-time.After(20 * time.Second):
		w.t.Fatalf("%s: no repair within 20 s", what)
		return snat.Repair{}
	}
}

// damages are changes of the table by another program, and a part of the text that
// Watch reports.
var damages = []struct{ script, says string }{
	{"flush chain inet vpcnet-snat pods", "chain pods: deleted rule `"},
	{"flush set inet vpcnet-snat inside", "set inside: deleted 10.0.0.0/16"},
	{"delete element inet vpcnet-snat inside { 10.0.0.0/16 }", "set inside: deleted 10.0.0.0/16"},
	{"add element inet vpcnet-snat inside { 203.0.113.0/24 }", "set inside: added 203.0.113.0/24"},
	{"add element inet vpcnet-snat inside { 192.0.2.1-192.0.2.6 }", "set inside has the range"},
	{"delete table inet vpcnet-snat", "table deleted"},
	{"delete rule inet vpcnet-snat source handle $SOURCE", "chain source: deleted rule `oifname"},
	{"add rule inet vpcnet-snat pods accept", "chain pods: added rule `"},
	{"insert rule inet vpcnet-snat source drop", "chain source: added rule `"},
	{"flush chain inet vpcnet-snat source; delete chain inet vpcnet-snat source", "chain source deleted"},
	{"add set inet vpcnet-snat extra { type ipv6_addr; }", "set extra added"},
	{"add chain inet vpcnet-snat extra", "chain extra added"},
	{"add chain inet vpcnet-snat extra { type filter hook input priority 0; policy drop; }", "chain extra added"},
	{"add chain inet vpcnet-snat source { policy drop; }", "chain source: policy drop"},
	{"add table inet vpcnet-snat { flags dormant; }", "the table has flags"},
	{"flush table inet vpcnet-snat", "chain node-port: deleted rule `"},
	{"flush ruleset", "table deleted"},
}

// TestWatchRepairs makes each damage. Watch repairs it and reports it once, with the
// program behind it, and leaves the tables of other programs alone.
func TestWatchRepairs(t *testing.T) {
	ns, h := namespace(t)
	proxy{daddr: node1, port: 30007, to: podB, masquerade: true}.nft(t, ns)
	tool(t, ns, "table inet vpcnet { chain c { accept; }; }\ntable ip vpcnet-snat { chain c { accept; }; }", "nft", "-f", "-")
	theirs := tool(t, ns, "", "nft", "list", "ruleset")
	w := watch(t, h, base(nil))
	for _, d := range damages {
		script := strings.Replace(d.script, "$SOURCE", handleOf(t, ns, "source"), 1)
		tool(t, ns, script, "nft", "-f", "-")
		r := w.repair(d.script)
		w.repaired()
		if !strings.Contains(strings.Join(r.Changes, "\n"), d.says) {
			t.Errorf("%s: changes %q, want %q among them", d.script, r.Changes, d.says)
		}
		if r.Err != nil || r.Fighting || r.Took <= 0 || len(r.By) != 1 || !strings.HasPrefix(r.By[0], "nft (pid ") {
			t.Errorf("%s: %+v, want a repair without error, By nft", d.script, r)
		}
		if d.script == "flush ruleset" {
			tool(t, ns, theirs, "nft", "-f", "-")
		}
	}
	w.end()
	if n := len(w.repairs); n != 0 {
		t.Errorf("%d more repairs than damages: %+v", n, <-w.repairs)
	}
	if n := strings.Count(w.log.String(), `msg="translation repaired"`); n != len(damages) {
		t.Errorf("%d lines in the log, want %d:\n%s", n, len(damages), &w.log)
	}
	if err := h.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(theirs, tool(t, ns, "", "nft", "list", "ruleset")); diff != "" {
		t.Errorf("tables of other programs changed (-before +after):\n%s", diff)
	}
}

// handleOf returns the handle of the last rule of a chain.
func handleOf(t *testing.T, ns *fabric.Netns, chain string) string {
	t.Helper()
	fields := words(tool(t, ns, "", "nft", "-a", "list", "chain", "inet", "vpcnet-snat", chain))
	last := ""
	for i, f := range fields {
		if f == "handle" {
			last = fields[i+1]
		}
	}
	return last
}

// TestWatchAndApply has the caller change the rules from many goroutines. Watch reports
// no repair, and at the end the table holds the rules that Desired returns.
func TestWatchAndApply(t *testing.T) {
	_, h := namespace(t)
	all := []snat.Ruleset{ruleset(t, base(nil)), ruleset(t, configs["excluded"]), ruleset(t, configs["external"]), {}}
	w := watch(t, h, base(nil))
	var group sync.WaitGroup
	for i := range 500 {
		group.Go(func() {
			r := all[i%len(all)]
			w.desire(r)
			if _, err := h.Apply(t.Context(), r); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	w.repaired()
	w.end()
	if n := len(w.repairs); n != 0 {
		t.Errorf("%d repairs of changes by the same handle, want none: %+v", n, <-w.repairs)
	}
	if w.log.Len() != 0 {
		t.Errorf("log: %s", &w.log)
	}
}

// TestWatchOvertaken calls Apply after Desired has returned and before Watch reads the
// table. Watch does not apply the older rules that Desired returned.
func TestWatchOvertaken(t *testing.T) {
	ns, h := namespace(t)
	w := &watching{t: t, h: h, repairs: make(chan snat.Repair, 10000)}
	w.desire(ruleset(t, base(nil)))
	var handle string
	w.start(snat.WatchConfig{Desired: func() (snat.Ruleset, bool) {
		old, _ := w.desired()
		if w.checks.Load() == 1 {
			w.desire(ruleset(t, configs["excluded"]))
			if _, err := h.Apply(t.Context(), w.want); err != nil {
				t.Error(err)
			}
			handle = tableHandle(t, ns)
		}
		return old, true
	}})
	w.eventually("second check", func() bool { return w.checks.Load() > 1 })
	w.repaired()
	w.end()
	if now := tableHandle(t, ns); now != handle {
		t.Errorf("the table was replaced: its handle was %s and is now %s", handle, now)
	}
}

// tableHandle returns the handle of the table, which differs from those of all later
// tables.
func tableHandle(t *testing.T, ns *fabric.Netns) string {
	t.Helper()
	line, _, _ := strings.Cut(tool(t, ns, "", "nft", "-a", "list", "table", "inet", "vpcnet-snat"), "\n")
	_, number, _ := strings.Cut(line, "# handle ")
	return number
}

// TestWatchExclusive has checks and calls of Apply exclude each other, so that Desired
// may also change after the Apply.
func TestWatchExclusive(t *testing.T) {
	ns, h := namespace(t)
	w := &watching{t: t, h: h, repairs: make(chan snat.Repair, 10000)}
	w.desire(ruleset(t, base(nil)))
	var turn sync.Mutex
	exclusively := func(do func() error) error {
		turn.Lock()
		defer turn.Unlock()
		return do()
	}
	w.onCheck = func() {
		if turn.TryLock() {
			turn.Unlock()
			t.Error("a check outside of Exclusive")
		}
	}
	w.start(snat.WatchConfig{Exclusive: func(_ context.Context, check func() error) error { return exclusively(check) }})
	w.repaired() // without a report: the table was absent, so no other program changed it
	for i := range 10 {
		r := ruleset(t, configs[[]string{"excluded", "default"}[i%2]])
		_ = exclusively(func() error {
			if _, err := h.Apply(t.Context(), r); err != nil {
				t.Error(err)
			}
			w.desire(r)
			return nil
		})
		tool(t, ns, "flush chain inet vpcnet-snat source", "nft", "-f", "-")
		w.repair("flush chain")
		w.repaired()
	}
	w.end()
	if n := len(w.repairs); n != 0 {
		t.Errorf("%d more repairs than damages: %+v", n, <-w.repairs)
	}
}

// TestWatchIgnoresOtherTables changes other tables. Watch does not check the table.
func TestWatchIgnoresOtherTables(t *testing.T) {
	ns, h := namespace(t)
	w := watch(t, h, base(nil))
	before := w.checks.Load()
	for range 20 {
		tool(t, ns, "table inet other { set s { type ipv4_addr; elements = { 10.0.0.1 }; }; chain vpcnet-snat { accept; }; }", "nft", "-f", "-")
		tool(t, ns, "table ip vpcnet-snat { chain pods { accept; }; }", "nft", "-f", "-")
		tool(t, ns, "delete table ip vpcnet-snat; delete table inet other", "nft", "-f", "-")
	}
	// Watch receives this report after those of the other tables.
	tool(t, ns, "flush chain inet vpcnet-snat source", "nft", "-f", "-")
	w.repair("flush chain")
	// One check repairs; some others follow the reports about the repair itself.
	if n := w.checks.Load() - before; n > 10 {
		t.Errorf("%d checks after one change of the table and 60 of other tables, want at most 10", n)
	}
}

// TestWatchWithoutRules has Desired return no rules at first. Watch leaves the table
// alone until there are some.
func TestWatchWithoutRules(t *testing.T) {
	ns, h := namespace(t)
	tool(t, ns, "table inet vpcnet-snat { chain theirs { accept; }; }", "nft", "-f", "-")
	before := observe(t, h)
	w := &watching{t: t, h: h, repairs: make(chan snat.Repair, 10000)}
	w.start(snat.WatchConfig{Every: time.Millisecond})
	w.eventually("second check", func() bool { return w.checks.Load() > 1 })
	if after := observe(t, h); !after.Equal(before) {
		t.Errorf("changed although Desired returned false:\n%s", after)
	}
	w.desire(ruleset(t, base(nil)))
	w.repaired()
}

// TestWatchFight has another program empty the set without a pause. Watch pauses between
// its checks, still repairs other parts, and repairs all when the other program stops.
func TestWatchFight(t *testing.T) {
	ns, h := namespace(t)
	w := watch(t, h, base(nil))
	peer := peerConn(t, ns)
	inside := &nftables.Set{Table: table, Name: "inside", KeyType: nftables.TypeIPAddr, Interval: true}
	element := []nftables.SetElement{{Key: []byte{192, 0, 2, 1}}, {Key: []byte{192, 0, 2, 2}, IntervalEnd: true}}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default: // the kernel reports the element even if the set was empty before
				_ = peer.SetAddElements(inside, element)
				peer.FlushSet(inside)
				if err := peer.Flush(); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	defer func() { <-stopped }()
	var yielded bool
	for !yielded {
		yielded = w.repair("a fight").Fighting
	}
	before, start := w.checks.Load(), time.Now()
	w.eventually("ten more checks", func() bool { return w.checks.Load() >= before+10 })
	if took := time.Since(start); took < 300*time.Millisecond {
		t.Errorf("ten checks within %v of a fight, want pauses of 100 ms", took)
	}
	tool(t, ns, "flush chain inet vpcnet-snat source", "nft", "-f", "-")
	w.eventually("repair of another part", func() bool {
		return slices.ContainsFunc(w.repair("a fight").Changes, func(s string) bool { return strings.HasPrefix(s, "chain source: deleted") })
	})
	close(stop)
	<-stopped
	w.repaired()
	w.end()
}

// table is the table of the package.
var table = &nftables.Table{Family: nftables.TableFamilyINet, Name: "vpcnet-snat"}

// peerConn is another program's connection.
func peerConn(t testing.TB, n *fabric.Netns) *nftables.Conn {
	t.Helper()
	ns, err := netns.GetFromPath(n.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	c, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(int(ns)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.CloseLasting() })
	return c
}

// TestWatchRefused has another program own the table, so that no other process may
// change it. Watch reports the error, and repairs the table when the owner has ended.
func TestWatchRefused(t *testing.T) {
	ns, h := namespace(t)
	w := watch(t, h, base(nil))
	tool(t, ns, "", "nft", "--version")
	cmd := exec.CommandContext(t.Context(), "nft", "-i")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(stdin, "delete table inet vpcnet-snat; add table inet vpcnet-snat { flags owner; }")
	if r := w.repair("own the table"); !errors.Is(r.Err, os.ErrPermission) {
		t.Errorf("%+v, want a permission error", r)
	}
	// The kernel deletes the table with its owner.
	if err := errors.Join(stdin.Close(), cmd.Wait()); err != nil {
		t.Fatal(err)
	}
	w.repaired()
}

// TestWatchClosed calls Watch on a closed handle.
func TestWatchClosed(t *testing.T) {
	_, h := namespace(t)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	err := h.Watch(t.Context(), snat.WatchConfig{Desired: func() (snat.Ruleset, bool) { return snat.Ruleset{}, true }})
	if !errors.Is(err, os.ErrClosed) {
		t.Errorf("Watch of a closed handle = %v, want os.ErrClosed", err)
	}
}

// TestWatchUnderTraffic damages the table while connections are open. They keep their
// source, and later connections get the right one.
func TestWatchUnderTraffic(t *testing.T) {
	w := newWorld(t)
	watcher := watch(t, w.snat, base(nil))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, in := w.conversation(ctx, t, fabric.InternetAddr), w.conversation(ctx, t, node2)
	before, inside := out(), in()
	if before.Addr() != node1 || inside.Addr() != podB {
		t.Fatalf("before: the internet saw %v and the other node %v, want %v and %v", before, inside, node1, podB)
	}
	for _, d := range damages {
		script := strings.Replace(d.script, "$SOURCE", handleOf(t, w.node, "source"), 1)
		tool(t, w.node, script, "nft", "-f", "-")
		watcher.repair(d.script)
		watcher.repaired()
		if got := out(); got != before {
			t.Errorf("after %q the source of the flow to the internet is %v, before %v", d.script, got, before)
		}
		if got := in(); got != inside {
			t.Errorf("after %q the source of the flow in the VPC is %v, before %v", d.script, got, inside)
		}
		w.asks(t, w.b, podB, echoAt(fabric.InternetAddr), node1)
		w.asks(t, w.b, podB, echoAt(node2), podB)
	}
	watcher.end()
}

// BenchmarkRepair empties the set, or all tables, and waits for the repair. p50-ms
// is the time from the kernel's report to the end of the repair.
func BenchmarkRepair(b *testing.B) {
	for name, damage := range map[string]func(*nftables.Conn){
		"set":     func(c *nftables.Conn) { c.FlushSet(&nftables.Set{Table: table, Name: "inside"}) },
		"ruleset": func(c *nftables.Conn) { c.FlushRuleset() },
	} {
		b.Run(name, func(b *testing.B) {
			ns, h := namespace(b)
			peer := peerConn(b, ns)
			var (
				took []time.Duration
				w    *watching
			)
			for b.Loop() {
				if len(took)%10 == 0 { // before it takes this for a fight
					if w != nil {
						w.end()
					}
					w = watch(b, h, base(nil))
				}
				damage(peer)
				if err := peer.Flush(); err != nil {
					b.Fatal(err)
				}
				took = append(took, w.repair(name).Took)
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}
