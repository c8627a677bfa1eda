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

// watching is a Watch at work.
type watching struct {
	t       testing.TB
	h       *snat.Handle
	repairs chan snat.Repair
	looks   atomic.Int64
	looking func()       // called in each look; optional
	log     bytes.Buffer // read it after end
	end     func()
	mu      sync.Mutex
	want    snat.Ruleset
	wanted  bool
}

// watch starts a Watch that wants the rules of c, and waits until they are there.
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

// start runs Watch until the end of the test or of the watching.
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
			w.t.Errorf("Watch = %v, want the end of its context", err)
		}
	})
	w.t.Cleanup(w.end)
	// It has subscribed before it looks.
	w.eventually("a first look", func() bool { return w.looks.Load() > 0 })
}

func (w *watching) desired() (snat.Ruleset, bool) {
	w.looks.Add(1)
	if w.looking != nil {
		w.looking()
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
			w.t.Fatalf("no %s in 20 s", what)
		}
	}
}

// whole waits until the table is as it should be.
func (w *watching) whole() {
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
		w.t.Fatalf("%s: no repair in 20 s", what)
		return snat.Repair{}
	}
}

// damages are what others may do to the table, and the words for it.
var damages = []struct{ script, says string }{
	{"flush chain inet vpcnet-snat pods", "chain pods: deleted rule `"},
	{"flush set inet vpcnet-snat inside", "set inside: deleted 10.0.0.0/16"},
	{"delete element inet vpcnet-snat inside { 10.0.0.0/16 }", "set inside: deleted 10.0.0.0/16"},
	{"add element inet vpcnet-snat inside { 203.0.113.0/24 }", "set inside: added 203.0.113.0/24"},
	{"add element inet vpcnet-snat inside { 192.0.2.1-192.0.2.6 }", "set inside has a range"},
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

// TestWatchRepairs does each damage and wants it repaired and told of once, with
// the program behind it, and the tables of others as they were.
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
		w.whole()
		if !strings.Contains(strings.Join(r.Changes, "\n"), d.says) {
			t.Errorf("%s: changes %q, want %q among them", d.script, r.Changes, d.says)
		}
		if r.Err != nil || r.Fighting || r.Took <= 0 || len(r.By) != 1 || !strings.HasPrefix(r.By[0], "nft (pid ") {
			t.Errorf("%s: %+v, want it repaired, done by nft", d.script, r)
		}
		if d.script == "flush ruleset" {
			tool(t, ns, theirs, "nft", "-f", "-")
		}
	}
	w.end()
	if n := len(w.repairs); n != 0 {
		t.Errorf("%d repairs more than damages: %+v", n, <-w.repairs)
	}
	if n := strings.Count(w.log.String(), `msg="translation repaired"`); n != len(damages) {
		t.Errorf("%d lines in the log, want %d:\n%s", n, len(damages), &w.log)
	}
	if err := h.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(theirs, tool(t, ns, "", "nft", "list", "ruleset")); diff != "" {
		t.Errorf("tables of others changed (-before +after):\n%s", diff)
	}
}

// handleOf returns the number of the last rule of a chain.
func handleOf(t *testing.T, ns *fabric.Netns, chain string) string {
	t.Helper()
	fields := words(tool(t, ns, "", "nft", "-a", "list", "chain", "inet", snat.Table, chain))
	last := ""
	for i, f := range fields {
		if f == "handle" {
			last = fields[i+1]
		}
	}
	return last
}

// TestWatchAndApply has the caller change the rules all the time, from many
// goroutines: Watch tells of none of it, and the last word is Desired's.
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
	w.whole()
	w.end()
	if n := len(w.repairs); n != 0 {
		t.Errorf("%d repairs of what the handle itself did: %+v", n, <-w.repairs)
	}
	if w.log.Len() != 0 {
		t.Errorf("log: %s", &w.log)
	}
}

// TestWatchOvertaken has an Apply come after Desired has answered and before the
// table is read: the answer of before is not put back.
func TestWatchOvertaken(t *testing.T) {
	ns, h := namespace(t)
	w := &watching{t: t, h: h, repairs: make(chan snat.Repair, 10000)}
	w.desire(ruleset(t, base(nil)))
	var handle string
	w.start(snat.WatchConfig{Desired: func() (snat.Ruleset, bool) {
		old, _ := w.desired()
		if w.looks.Load() == 1 {
			w.desire(ruleset(t, configs["excluded"]))
			if _, err := h.Apply(t.Context(), w.want); err != nil {
				t.Error(err)
			}
			handle = tableHandle(t, ns)
		}
		return old, true
	}})
	w.eventually("second look", func() bool { return w.looks.Load() > 1 })
	w.whole()
	w.end()
	if now := tableHandle(t, ns); now != handle {
		t.Errorf("the table was made anew: it was number %s and is now %s", handle, now)
	}
}

// tableHandle returns the number of the table, which no later one has.
func tableHandle(t *testing.T, ns *fabric.Netns) string {
	t.Helper()
	line, _, _ := strings.Cut(tool(t, ns, "", "nft", "-a", "list", "table", "inet", snat.Table), "\n")
	_, number, _ := strings.Cut(line, "# handle ")
	return number
}

// TestWatchExclusive runs each look and each Apply alone, so that Desired may also
// follow the Apply.
func TestWatchExclusive(t *testing.T) {
	ns, h := namespace(t)
	w := &watching{t: t, h: h, repairs: make(chan snat.Repair, 10000)}
	w.desire(ruleset(t, base(nil)))
	var turn sync.Mutex
	alone := func(do func() error) error {
		turn.Lock()
		defer turn.Unlock()
		return do()
	}
	w.looking = func() {
		if turn.TryLock() {
			turn.Unlock()
			t.Error("a look outside of Exclusive")
		}
	}
	w.start(snat.WatchConfig{Exclusive: func(_ context.Context, look func() error) error { return alone(look) }})
	w.whole() // without a word: nothing was there that others could have changed
	for i := range 10 {
		r := ruleset(t, configs[[]string{"excluded", "default"}[i%2]])
		_ = alone(func() error {
			if _, err := h.Apply(t.Context(), r); err != nil {
				t.Error(err)
			}
			w.desire(r)
			return nil
		})
		tool(t, ns, "flush chain inet vpcnet-snat source", "nft", "-f", "-")
		w.repair("flush chain")
		w.whole()
	}
	w.end()
	if n := len(w.repairs); n != 0 {
		t.Errorf("%d repairs more than damages: %+v", n, <-w.repairs)
	}
}

// TestWatchIgnoresOthers: what happens in other tables is no reason to look.
func TestWatchIgnoresOthers(t *testing.T) {
	ns, h := namespace(t)
	w := watch(t, h, base(nil))
	before := w.looks.Load()
	for range 20 {
		tool(t, ns, "table inet other { set s { type ipv4_addr; elements = { 10.0.0.1 }; }; chain vpcnet-snat { accept; }; }", "nft", "-f", "-")
		tool(t, ns, "table ip vpcnet-snat { chain pods { accept; }; }", "nft", "-f", "-")
		tool(t, ns, "delete table ip vpcnet-snat; delete table inet other", "nft", "-f", "-")
	}
	// Its report is read after all of theirs.
	tool(t, ns, "flush chain inet vpcnet-snat source", "nft", "-f", "-")
	w.repair("flush chain")
	// One look repairs; some others follow Watch's and the test's own changes.
	if n := w.looks.Load() - before; n > 10 {
		t.Errorf("%d looks for one change of ours and 60 of others", n)
	}
}

// TestWatchNothingWanted leaves the table alone until something is wanted.
func TestWatchNothingWanted(t *testing.T) {
	ns, h := namespace(t)
	tool(t, ns, "table inet vpcnet-snat { chain theirs { accept; }; }", "nft", "-f", "-")
	before := observe(t, h)
	w := &watching{t: t, h: h, repairs: make(chan snat.Repair, 10000)}
	w.start(snat.WatchConfig{Every: time.Millisecond})
	w.eventually("second look", func() bool { return w.looks.Load() > 1 })
	if after := observe(t, h); !after.Equal(before) {
		t.Errorf("changed though nothing was wanted:\n%s", after)
	}
	w.desire(ruleset(t, base(nil)))
	w.whole()
}

// TestWatchFight has another program empty the set without pause. Watch yields,
// looks now and then, repairs other parts meanwhile, and all when the fight is over.
func TestWatchFight(t *testing.T) {
	ns, h := namespace(t)
	w := watch(t, h, base(nil))
	peer := peerConn(t, ns)
	inside := &nftables.Set{Table: ours, Name: "inside", KeyType: nftables.TypeIPAddr, Interval: true}
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
	before, start := w.looks.Load(), time.Now()
	w.eventually("ten more looks", func() bool { return w.looks.Load() >= before+10 })
	if took := time.Since(start); took < 300*time.Millisecond {
		t.Errorf("ten looks within %v of a fight, want pauses of 100 ms", took)
	}
	tool(t, ns, "flush chain inet vpcnet-snat source", "nft", "-f", "-")
	w.eventually("repair of another part", func() bool {
		return slices.ContainsFunc(w.repair("a fight").Changes, func(s string) bool { return strings.HasPrefix(s, "chain source: deleted") })
	})
	close(stop)
	<-stopped
	w.whole()
	w.end()
}

var ours = &nftables.Table{Family: nftables.TableFamilyINet, Name: snat.Table}

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

// TestWatchRefused has another program own the table, which then no other program may
// change. Watch tells of it, and repairs once it can.
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
	// The table goes with its owner.
	if err := errors.Join(stdin.Close(), cmd.Wait()); err != nil {
		t.Fatal(err)
	}
	w.whole()
}

// TestWatchClosed ends a Watch with its handle.
func TestWatchClosed(t *testing.T) {
	_, h := namespace(t)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	err := h.Watch(t.Context(), snat.WatchConfig{Desired: func() (snat.Ruleset, bool) { return snat.Ruleset{}, true }})
	if !errors.Is(err, os.ErrClosed) {
		t.Errorf("Watch of a closed handle = %v", err)
	}
}

// TestWatchUnderTraffic damages the table while connections are open: they keep
// their source, and later ones get the right one.
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
		watcher.whole()
		if got := out(); got != before {
			t.Errorf("after %q the flow to the internet comes from %v, before from %v", d.script, got, before)
		}
		if got := in(); got != inside {
			t.Errorf("after %q the flow in the VPC comes from %v, before from %v", d.script, got, inside)
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
		"set":     func(c *nftables.Conn) { c.FlushSet(&nftables.Set{Table: ours, Name: "inside"}) },
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
