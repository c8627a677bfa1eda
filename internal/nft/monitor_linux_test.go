// SPDX-License-Identifier: Apache-2.0

package nft_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
	"github.com/vpcnet/vpcnet/internal/nft"
)

// monitored makes a namespace with a monitor of the table "ours".
func monitored(t *testing.T) (*fabric.Netns, *nft.Socket, *nft.Monitor) {
	t.Helper()
	isolatetest.Require(t)
	ns, err := fabric.CreateNetns("/run/netns/node")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	s := nft.New(f)
	m, err := nft.NewMonitor(f, "ours")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(m.Close(), s.Close(), f.Close(), ns.Delete()); err != nil {
			t.Error(err)
		}
	})
	return ns, s, m
}

// run runs a script of the nft program.
func run(t *testing.T, ns *fabric.Netns, script string) {
	t.Helper()
	if err := try(t, ns, script); err != nil {
		t.Fatal(err)
	}
}

// try is run, but returns the error.
func try(t *testing.T, ns *fabric.Netns, script string) error {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skipf("needs the program nft: %v", err)
	}
	var out strings.Builder
	cmd := exec.CommandContext(t.Context(), "nft", "-f", "-")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(script), &out, &out
	err := ns.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("nft: %w\n%s\n%s", err, script, &out)
	}
	return nil
}

// TestMonitor changes the table and others. Reports are about the table alone, and name
// the program.
func TestMonitor(t *testing.T) {
	ns, s, m := monitored(t)
	for _, tt := range []struct {
		script  string
		changed bool
	}{
		{"add table inet ours", true},
		{"add table inet theirs { set x { type ipv4_addr; }; chain c { accept; }; }", false},
		{"add table ip ours", false},
		{"add chain inet ours c", true},
		{"add rule inet ours c accept", true},
		{"add rule inet theirs c accept", false},
		{"add set inet ours s { type ipv4_addr; }", true},
		{"add element inet ours s { 10.0.0.1 }", true},
		{"add element inet theirs x { 10.0.0.1 }", false},
		{"flush set inet ours s", true},
		{"flush chain inet ours c", true},
		{"add counter inet ours n", true},
		{"delete table inet ours", true},
		{"flush ruleset", false},
		{"add table inet ours; add table inet theirs", true},
		{"flush ruleset", true},
	} {
		run(t, ns, tt.script)
		// The kernel has sent all reports when nft ends.
		r, err := m.Pending()
		if err != nil {
			t.Fatal(err)
		}
		named := len(r.By) == 1 && strings.HasPrefix(r.By[0], "nft (pid ")
		if r.Changed != tt.changed || named != tt.changed {
			t.Errorf("%s: %+v, want changed %v", tt.script, r, tt.changed)
		}
	}
	add(t, s, "ours")
	if r, err := m.Wait(t.Context(), time.Minute); !r.Changed || len(r.By) != 0 || err != nil {
		t.Errorf("transaction of this program: %+v, %v; want a change with By empty", r, err)
	}
}

// TestMonitorWaits has Wait end after its time, with a report, and with its context.
func TestMonitorWaits(t *testing.T) {
	ns, _, m := monitored(t)
	start := time.Now()
	if r, err := m.Wait(t.Context(), 20*time.Millisecond); r.Changed || err != nil || time.Since(start) < 20*time.Millisecond {
		t.Errorf("nothing changed: %+v, %v after %v", r, err, time.Since(start))
	}
	done := make(chan error, 1)
	go func() {
		r, err := m.Wait(t.Context(), time.Hour)
		if !r.Changed && err == nil {
			err = fmt.Errorf("Wait = %+v, want a change", r)
		}
		done <- err
	}()
	run(t, ns, "add table inet ours")
	if err := <-done; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for {
			if _, err := m.Wait(ctx, time.Hour); err != nil {
				done <- err
				return
			}
		}
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Wait = %v, want context.Canceled", err)
	}
}

// TestMonitorLosesReports makes more transactions on another table than the queue
// holds. Lost reports count as a change.
func TestMonitorLosesReports(t *testing.T) {
	ns, _, m := monitored(t)
	run(t, ns, "add table inet theirs; add chain inet theirs c")
	rule := "add rule inet theirs c ip saddr 10.0.0.1 tcp dport 1-9 counter comment " + strings.Repeat("x", 100) + "\n"
	for range 70 { // the size of an ordinary user's transactions is limited
		run(t, ns, "flush chain inet theirs c\n"+strings.Repeat(rule, 250))
	}
	var all nft.Report
	for range 100 {
		r, err := m.Pending()
		if err != nil {
			t.Fatal(err)
		}
		all.Changed = all.Changed || r.Changed
	}
	if !all.Changed {
		t.Error("reports were lost, want a change")
	}
}
