// SPDX-License-Identifier: Apache-2.0

//go:build linux

package iptables_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/snat"
	"github.com/vpcnet/vpcnet/snat/iptables"
)

// watching is a running Watch.
type watching struct {
	t       testing.TB
	h       *iptables.Handle
	repairs chan snat.Repair
	checks  atomic.Int64
	log     bytes.Buffer // read it after end
	end     func()

	mu   sync.Mutex
	want snat.IptablesRuleset
}

// patience is how long a test waits for a repair.
const patience = time.Minute

func watch(t testing.TB, h *iptables.Handle, r snat.IptablesRuleset) *watching {
	t.Helper()
	w := &watching{t: t, h: h, repairs: make(chan snat.Repair, 1000), want: r}
	if _, err := h.Apply(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- h.Watch(ctx, iptables.WatchConfig{
			Desired: w.desired, Every: 10 * time.Millisecond,
			Repaired: func(r snat.Repair) { w.repairs <- r },
			Logger:   slog.New(slog.NewTextHandler(&w.log, nil)),
		})
	}()
	w.end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch = %v, want context.Canceled", err)
		}
	})
	t.Cleanup(w.end)
	return w
}

func (w *watching) desired() (snat.IptablesRuleset, bool) {
	w.checks.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.want, true
}

func (w *watching) desire(r snat.IptablesRuleset) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.want = r
}

// repaired waits until the chains are as desired.
func (w *watching) repaired() {
	w.t.Helper()
	want, _ := w.desired()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		got, err := w.h.Observe(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		if got.Equal(want) {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("the chains are not repaired: %q", got.Changes(want))
		}
	}
}

func (w *watching) repair(what string) snat.Repair {
	w.t.Helper()
	select {
	case r := <-w.repairs:
		return r
	case <-time.After(patience):
		w.t.Fatalf("%s: no repair", what)
		return snat.Repair{}
	}
}

// damages are changes by another program, and a part of the text that Watch reports.
var damages = []struct{ program, text, says string }{
	{"iptables", "*nat\n-F VPCNET-PODS\nCOMMIT\n", "iptables nat chain VPCNET-PODS: deleted rule `"},
	{"iptables", "*nat\n-F POSTROUTING\nCOMMIT\n", "iptables nat jumps: deleted rule `POSTROUTING"},
	{"iptables", "*nat\n-I VPCNET-SOURCE -j ACCEPT\nCOMMIT\n", "iptables nat chain VPCNET-SOURCE: added rule `-j ACCEPT`"},
	{"iptables", "*nat\n-A PREROUTING -d 192.0.2.8/32 -j DNAT --to-destination 10.0.1.9\nCOMMIT\n", "iptables nat jumps: not after the rules of other programs"},
	{"iptables", "*nat\n:VPCNET-MORE - [0:0]\n-A OUTPUT -j VPCNET-MORE\nCOMMIT\n", "iptables nat chain VPCNET-MORE added"},
	{"iptables", "*mangle\n-F PREROUTING\n-F VPCNET-MARKS\n-X VPCNET-MARKS\nCOMMIT\n", "iptables mangle chain VPCNET-MARKS deleted"},
	{"ip6tables", "*mangle\n-F PREROUTING\n-F VPCNET-RETURNS\nCOMMIT\n", "ip6tables mangle chain VPCNET-RETURNS: deleted rule `"},
	{"ip6tables", "*mangle\n-A FORWARD -j VPCNET-RETURNS\nCOMMIT\n", "ip6tables mangle jumps: added rule `FORWARD -j VPCNET-RETURNS`"},
	{"iptables", "*nat\nCOMMIT\n", "iptables nat chain VPCNET-PODS deleted"}, // without --noflush
}

// TestWatchRepairs makes each damage. Watch repairs it and reports it.
func TestWatchRepairs(t *testing.T) {
	for _, v := range variants {
		t.Run(string(v), func(t *testing.T) {
			ns := namespace(t)
			addOthers(t, ns, v)
			h := open(t, iptables.Config{Netns: ns.Path(), Variant: v})
			w := watch(t, h, rules(t))
			for i, d := range damages {
				args := []string{"--noflush"}
				if i == len(damages)-1 {
					args = nil
				}
				tool(t, ns, d.text, d.program+"-"+string(v)+"-restore", args...)
				r := w.repair(d.text)
				w.repaired()
				if !strings.Contains(strings.Join(r.Changes, "\n"), d.says) {
					t.Errorf("%s: changes %q, want %q among them", d.text, r.Changes, d.says)
				}
				if r.Err != nil || r.Fighting || r.Took <= 0 {
					t.Errorf("%s: %+v, want a repair without error", d.text, r)
				}
			}
			w.end()
			if n := len(w.repairs); n != 0 {
				t.Errorf("%d more repairs than damages: %+v", n, <-w.repairs)
			}
			if n := strings.Count(w.log.String(), `msg="translation repaired"`); n != len(damages) {
				t.Errorf("%d lines in the log, want %d:\n%s", n, len(damages), &w.log)
			}
		})
	}
}

// TestWatchAndApply has the caller change the rules while Watch runs. Watch reports no
// repair, and at the end the chains hold the desired rules.
func TestWatchAndApply(t *testing.T) {
	ns := namespace(t)
	h := open(t, iptables.Config{Netns: ns.Path()})
	all := []snat.IptablesRuleset{rules(t), rules(t, "192.0.2.0/24"), rules(t, "198.51.100.0/24"), {}}
	w := watch(t, h, all[0])
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			w.desire(all[i%len(all)])
			if _, err := h.Apply(t.Context(), all[i%len(all)]); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	w.repaired()
	w.desire(rules(t))
	w.repaired()
	w.end()
	if n := len(w.repairs); n != 0 {
		t.Errorf("%d repairs of changes by the same handle, want none: %+v", n, <-w.repairs)
	}
}

// TestWatchFights has another program undo each repair: Watch reports the fight and then
// waits before it repairs again. Then the other program ends.
func TestWatchFights(t *testing.T) {
	ns := namespace(t)
	h := open(t, iptables.Config{Netns: ns.Path()})
	w := watch(t, h, rules(t))
	repairs := 0
	for fighting := false; !fighting; repairs++ {
		tool(t, ns, "*nat\n-F VPCNET-PODS\nCOMMIT\n", "iptables-"+string(h.Variant())+"-restore", "--noflush")
		fighting = w.repair("flush").Fighting
	}
	if repairs < 20 {
		t.Errorf("a fight after %d repairs, want at least 20", repairs)
	}
	tool(t, ns, "*nat\n-F VPCNET-PODS\nCOMMIT\n", "iptables-"+string(h.Variant())+"-restore", "--noflush")
	w.repaired()
	w.end()
	if !strings.Contains(w.log.String(), "fighting=true") {
		t.Errorf("the log does not say that another program fights:\n%s", &w.log)
	}
}

// TestWatchLocked wants other rules while another program holds the lock: Watch does not end,
// logs why it could not apply them, and applies them once the lock is free.
func TestWatchLocked(t *testing.T) {
	ns := namespace(t)
	h := open(t, iptables.Config{Netns: ns.Path(), Variant: iptables.Legacy, Within: 3 * time.Second})
	w := watch(t, h, rules(t))
	release := holdLock(t)
	w.desire(rules(t, "192.0.2.0/24"))
	for before := w.checks.Load(); w.checks.Load() < before+3; time.Sleep(10 * time.Millisecond) {
	}
	release()
	w.repaired()
	w.end()
	if !strings.Contains(w.log.String(), iptables.ErrLocked.Error()) {
		t.Errorf("the log does not say that the lock was held:\n%s", &w.log)
	}
}

// TestWatchQuiet checks that Watch starts no program while no table of nftables changes, and
// repairs a change afterwards.
func TestWatchQuiet(t *testing.T) {
	ns := namespace(t)
	started := filepath.Join(t.TempDir(), "started")
	program(t, "iptables-nft-save", "echo >>"+started+`; exec $real "$@"`+"\n")
	h := open(t, iptables.Config{Netns: ns.Path(), Variant: iptables.NFT})
	w := watch(t, h, rules(t))
	wait := func(checks int64) int {
		for before := w.checks.Load(); w.checks.Load() < before+checks; time.Sleep(time.Millisecond) {
		}
		b, err := os.ReadFile(started)
		if err != nil {
			t.Fatal(err)
		}
		return len(b)
	}
	before := wait(3)
	if after := wait(50); after != before {
		t.Errorf("%d programs in 50 checks, want none", after-before)
	}
	tool(t, ns, "*nat\n-F VPCNET-PODS\nCOMMIT\n", "iptables-nft-restore", "--noflush")
	w.repair("flush")
	w.repaired()
}
