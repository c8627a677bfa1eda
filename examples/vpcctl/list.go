// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// listing runs a command that prints a list of what is known of the agent. items returns the
// list for JSON and people prints it.
func listing(ctx context.Context, std stdio, args []string, name, about string, items func(*agentFacts) any, people func(stdio, *agentFacts, string)) error {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	var src source
	src.register(fs)
	out := outputFlag(fs, formatTable, formatWide, formatJSON, formatYAML)
	if err := parse(fs, std, args, about+"\n\nIf the agent does not answer, it prints what the agent's state directory has, and says\nso on standard error."); err != nil {
		return err
	}
	a, err := src.read(ctx)
	if err != nil {
		return err
	}
	if err := a.known(); err != nil {
		return err
	}
	if text := a.offline(); text != "" {
		fmt.Fprintln(std.err, text)
	}
	return out.print(std.out, items(&a), func() { people(std, &a, out.format) })
}

// runENIs runs "vpcctl enis".
func runENIs(ctx context.Context, std stdio, args []string) error {
	return listing(ctx, std, args, "enis", "enis lists the ENIs of the node with the addresses that pods can get.",
		func(a *agentFacts) any { return append([]ipamd.ENIStatus{}, a.status().ENIs...) },
		func(std stdio, a *agentFacts, format string) {
			printENIs(std, a.status().ENIs, a.Answers != nil, format)
		})
}

// printENIs prints a table of ENIs. ready says that the agent has checked their links.
func printENIs(std stdio, enis []ipamd.ENIStatus, ready bool, format string) {
	t := newTable("ENI", "CARD", "DEVICE", "KIND", "SUBNET", "READY", "SLOTS", "USED", "COOLING", "FREE", "+MAC", "+TABLE", "+MARK", "+ADDRESSES", "+BLOCKS")
	for _, e := range enis {
		c := countENI(e)
		state := "unknown"
		if ready {
			state = std.paint(green, "yes")
			if !e.Ready {
				state = std.paint(red, "no")
			}
		}
		var addrs, blocks []string
		for _, p := range e.Addrs {
			addrs = append(addrs, p.String())
		}
		for _, b := range e.Blocks {
			blocks = append(blocks, b.Prefix.String())
		}
		t.add(e.ID, e.Card, e.Device, e.Kind, e.Subnet, state, len(e.Blocks), c.Used, c.Cooling, c.Free, e.MAC, e.Table, e.Mark,
			strings.Join(addrs, ","), strings.Join(blocks, ","))
	}
	t.print(std.out, format)
}

// podLine is a pod with an address, or one that waits.
type podLine struct {
	Namespace string     `json:"namespace"`
	Pod       string     `json:"pod"`
	Addr      netip.Addr `json:"addr,omitzero"`
	ENI       string     `json:"eni,omitempty"`
	Link      string     `json:"link,omitempty"`
	Class     string     `json:"class,omitempty"`
	// Since is when the pod got the address, or began to wait for one.
	Since   time.Time `json:"since"`
	Waiting bool      `json:"waiting,omitempty"`
}

// pods returns the pods by name, and then those that wait.
func (a *agentFacts) pods() []podLine {
	all := []podLine{}
	for _, p := range byName(a.status().Allocations) {
		all = append(all, podLine{p.Namespace, p.Pod, p.Addr, p.ENI, p.Link, p.Class, p.At, false})
	}
	if a.Answers != nil {
		for _, w := range a.Answers.Waiting {
			all = append(all, podLine{Namespace: w.Namespace, Pod: w.Pod, Since: w.Since, Waiting: true})
		}
	}
	return all
}

// runPods runs "vpcctl pods".
func runPods(ctx context.Context, std stdio, args []string) error {
	return listing(ctx, std, args, "pods", "pods lists the pods of the node with their addresses, and those that wait for one.",
		func(a *agentFacts) any { return a.pods() },
		func(std stdio, a *agentFacts, format string) {
			t := newTable("NAMESPACE", "POD", "ADDRESS", "ENI", "LINK", "AGE", "+CLASS", "+SINCE")
			for _, p := range a.pods() {
				addr := std.paint(yellow, "waiting")
				if !p.Waiting {
					addr = p.Addr.String()
				}
				t.add(p.Namespace, p.Pod, addr, p.ENI, p.Link, age(p.Since, a.At), p.Class, p.Since.Format(time.RFC3339))
			}
			t.print(std.out, format)
		})
}

// eventLine is something that happened on the node.
type eventLine struct {
	At   time.Time  `json:"at"`
	Kind string     `json:"kind"`
	ENI  string     `json:"eni,omitempty"`
	Addr netip.Addr `json:"addr,omitzero"`
	Text string     `json:"text"`
}

// events returns what the agent did and found, in order: its events, and its calls to EC2
// other than those that only describe, unless they failed.
func (a *agentFacts) events() []eventLine {
	all := []eventLine{}
	for _, e := range a.status().Events {
		all = append(all, eventLine{e.At, string(e.Kind), e.ENI, e.Addr, e.Text})
	}
	if a.Answers != nil {
		for _, c := range a.Answers.Calls {
			if c.Code == "" && strings.HasPrefix(c.Action, "Describe") {
				continue
			}
			kind, result := "ec2-call", "done"
			if c.Code != "" {
				kind, result = "ec2-error", c.Code
			}
			all = append(all, eventLine{At: c.At, Kind: kind, Text: fmt.Sprintf("%s for %s: %s, took %s", c.Action, cmp.Or(c.Caller, "the agent"), result, c.Took)})
		}
	}
	slices.SortStableFunc(all, func(x, y eventLine) int { return x.At.Compare(y.At) })
	return all
}

// runEvents runs "vpcctl events".
func runEvents(ctx context.Context, std stdio, args []string) error {
	return listing(ctx, std, args, "events", "events lists what the agent did and found since it started, oldest first: its last 200\nevents and its last 200 calls to EC2 that change something or failed.",
		func(a *agentFacts) any { return a.events() },
		printEvents)
}

// printEvents prints the events as a table.
func printEvents(std stdio, a *agentFacts, format string) {
	t := newTable("TIME", "KIND", "ENI", "ADDRESS", "TEXT")
	for _, e := range a.events() {
		addr := ""
		if e.Addr.IsValid() {
			addr = e.Addr.String()
		}
		t.add(moment(e.At), e.Kind, e.ENI, addr, e.Text)
	}
	t.print(std.out, format)
}

// intents returns the operations on ENIs that are not finished.
func (a *agentFacts) intents() []eni.Intent {
	switch {
	case a.Answers != nil:
		return a.Answers.Intents
	case a.Stored != nil:
		return a.Stored.Intents
	}
	return nil
}

// intentText describes an unfinished operation.
func intentText(i eni.Intent, now time.Time) string {
	text := string(i.Op)
	if i.ENI != "" {
		text += " " + i.ENI
	}
	if since := age(i.Start, now); since != "" {
		text += ", since " + since
	}
	if i.Undo {
		text += fmt.Sprintf(", is being undone because of %s", i.Why)
	}
	return text
}
