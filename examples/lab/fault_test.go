// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/snat"
)

// TestChecksCanFail breaks the lab in one way for each check, and tests that the
// check fails.
func TestChecksCanFail(t *testing.T) {
	faults := []struct {
		check string
		step  func(*walk, context.Context) error
		// sabotage breaks the lab and returns a function that repairs it.
		sabotage func(*walk) (repair func() error, err error)
	}{
		{"pod-to-pod-same-node", (*walk).checkSameNode, cutRoute(0)},
		{"pod-to-pod-across-nodes", (*walk).checkAcrossNodes, cutRoute(1)},
		{"no-nat-inside-vpc", (*walk).checkAcrossNodes, translateAll},
		{"second-eni-egress", (*walk).checkSecondENI, dropRules(1536)},
		{"snat-to-node-primary", (*walk).checkInternet, translateNothing},
		{"host-to-pod", (*walk).checkHostToPod, cutRoute(0)},
		{"spoofed-source-dropped", (*walk).checkSpoofed, allowAnySource},
		{"warm-pool-refilled", (*walk).checkWarmPool, expectMore},
		{"agent-restart-keeps-pods", (*walk).checkRestart, loseJournal},
		{"delete-leaves-nothing", (*walk).checkDelete, ignoreDel},
	}
	var covered []string
	for _, f := range faults {
		covered = append(covered, f.check)
	}
	for _, name := range checkNames() {
		if !slices.Contains(covered, name) {
			t.Errorf("no fault for check %s", name)
		}
	}
	k := silent(testWorld(t, small(layoutFlat)))
	for _, step := range []func(context.Context) error{k.startAgents, k.addPods, k.checkWarmPool} {
		if err := step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	k.patience = 4 * time.Second
	for _, f := range faults {
		repair, err := f.sabotage(k)
		if err != nil {
			t.Fatalf("%s: sabotage: %v", f.check, err)
		}
		k.report.Checks = nil
		if err := f.step(k, t.Context()); err != nil {
			t.Errorf("%s: the walk stopped: %v", f.check, err)
		}
		i := slices.IndexFunc(k.report.Checks, func(c check) bool { return c.Name == f.check })
		if i < 0 || k.report.Checks[i].OK {
			t.Errorf("%s: the check did not fail although the lab was broken: %+v", f.check, k.report.Checks)
		}
		if err := repair(); err != nil {
			t.Fatalf("%s: repair: %v", f.check, err)
		}
	}
}

// stop stops a process and waits until each of its threads has stopped. A thread that is in
// a system call finishes it first.
func stop(p *os.Process) error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for range 1000 {
		running, err := threads(p.Pid, func(state string) bool { return state != "T" })
		if err != nil || running == 0 {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("process %d does not stop", p.Pid)
}

// threads counts the threads of a process for which selected is true of the state in
// /proc/PID/task/TID/stat, the first field after the name in parentheses.
func threads(pid int, selected func(state string) bool) (n int, err error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("process %d has no threads in /proc", pid)
	}
	for _, file := range files {
		b, e := os.ReadFile(file)
		if e != nil {
			continue // the thread has ended
		}
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(fields) > 0 && selected(fields[0]) {
			n++
		}
	}
	return n, err
}

// change deletes items of a node's network and returns a function that adds them
// again. It stops the agent meanwhile, because the agent would repair the network at
// once.
func change(n *node, pick func(netstate.State) []netstate.Item) (func() error, error) {
	ctx := context.Background()
	if err := stop(n.agent.cmd.Process); err != nil {
		return nil, err
	}
	state, err := n.observe(ctx)
	if err != nil {
		return nil, err
	}
	var deletes, adds []netstate.Change
	for _, item := range pick(state) {
		deletes = append(deletes, netstate.Change{Op: netstate.OpDelete, Item: item})
		adds = append(adds, netstate.Change{Op: netstate.OpAdd, Item: item})
	}
	if len(deletes) == 0 {
		return nil, errors.New("the node has no item to delete")
	}
	apply := func(changes []netstate.Change) error {
		h, err := datapath.Open(n.ns.Path())
		if err != nil {
			return err
		}
		defer h.Close()
		return h.Apply(ctx, changes)
	}
	return func() error { return errors.Join(apply(adds), n.agent.cmd.Process.Signal(syscall.SIGCONT)) }, apply(deletes)
}

// cutRoute deletes the routes to the pods of a node.
func cutRoute(node int) func(*walk) (func() error, error) {
	return func(k *walk) (func() error, error) {
		return change(k.nodes[node], func(s netstate.State) (items []netstate.Item) {
			for _, r := range s.Routes {
				if slices.ContainsFunc(k.nodes[node].pods, func(p *pod) bool { return r.Dst.Addr() == p.addr }) {
					items = append(items, r)
				}
			}
			return items
		})
	}
}

func dropRules(priority int) func(*walk) (func() error, error) {
	return func(k *walk) (func() error, error) {
		return change(k.nodes[0], func(s netstate.State) (items []netstate.Item) {
			for _, r := range s.Rules {
				if r.Priority == priority {
					items = append(items, r)
				}
			}
			return items
		})
	}
}

// retranslate replaces the translation rules of the first node.
func retranslate(k *walk, r snat.Ruleset) (func() error, error) {
	agent := k.nodes[0].agent.cmd.Process
	h, err := snat.Open(k.nodes[0].ns.Path())
	if err != nil {
		return nil, err
	}
	if err := stop(agent); err != nil { // because the agent would repair the rules at once
		return nil, errors.Join(err, h.Close())
	}
	before, err := h.Observe(context.Background())
	if err == nil {
		_, err = h.Apply(context.Background(), r)
	}
	return func() error {
		_, err := h.Apply(context.Background(), before)
		return errors.Join(err, h.Close(), agent.Signal(syscall.SIGCONT))
	}, err
}

// translateAll also translates traffic within the VPC.
func translateAll(k *walk) (func() error, error) {
	r, err := snat.Config{
		NodeAddrs: []netip.Addr{k.nodes[0].addr}, PrimaryLink: link(k.nodes[0].enis()[0]),
		VPC: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
	}.Ruleset()
	if err != nil {
		return nil, err
	}
	return retranslate(k, r)
}

// translateNothing removes the translation.
func translateNothing(k *walk) (func() error, error) { return retranslate(k, snat.Ruleset{}) }

// allowAnySource lets pods send packets with any source address.
func allowAnySource(k *walk) (func() error, error) {
	n := k.nodes[0]
	setting := "ipv4/conf/" + n.pods[0].hostLink + "/rp_filter"
	repair, err := change(n, func(s netstate.State) []netstate.Item { return []netstate.Item{s.Filter} })
	if err != nil {
		return nil, err
	}
	return func() error { return errors.Join(n.ns.Sysctl(setting, "1"), repair()) }, n.ns.Sysctl(setting, "0")
}

// expectMore makes the lab expect an instance type with more addresses per ENI.
func expectMore(k *walk) (func() error, error) {
	limits := k.limits
	k.limits.AddrsPerENI += 10
	return func() error { k.limits = limits; return nil }, nil
}

// loseJournal makes the agent lose its journal at its next start.
func loseJournal(k *walk) (func() error, error) {
	n := k.nodes[0]
	wrapper := fmt.Sprintf("#!/bin/sh\nrm -rf %s/*\nexec %s \"$@\"\n", n.stateDir(), filepath.Join(k.programs, "ipamd"))
	return k.replaceProgram("ipamd", wrapper)
}

// ignoreDel makes the plugin do nothing on DEL.
func ignoreDel(k *walk) (func() error, error) {
	wrapper := fmt.Sprintf("#!/bin/sh\n[ \"$CNI_COMMAND\" = DEL ] && exit 0\nexec %s\n", filepath.Join(k.programs, "vpc-cni"))
	return k.replaceProgram("vpc-cni", wrapper)
}

// replaceProgram replaces one of the lab's programs by a script.
func (k *walk) replaceProgram(name, script string) (func() error, error) {
	before := k.programs
	dir, err := os.MkdirTemp("/run", "programs-")
	if err != nil {
		return nil, err
	}
	for _, p := range programs() {
		if err := os.Symlink(filepath.Join(before, p), filepath.Join(dir, p)); err != nil {
			return nil, err
		}
	}
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
		return nil, err
	}
	k.programs = dir
	return func() error { k.programs = before; return os.RemoveAll(dir) }, nil
}
