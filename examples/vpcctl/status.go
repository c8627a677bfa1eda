// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

const statusAbout = `status shows a node at a glance: the health of its agent and what it waits for, the
ENIs, the pool of addresses, and what the warm pool policy last decided. Exit status 3
means that the agent does not answer or is not ready. If it does not answer, status
shows what the agent's state directory has, and says so.`

// statusReport is the output of "vpcctl status".
type statusReport struct {
	Agent agentHealth `json:"agent"`
	// Network, Policy and Doing are empty if the agent does not answer.
	Network ipamd.NetworkStatus `json:"network"`
	Policy  []string            `json:"policy"`
	Doing   []string            `json:"doing"`
	Pool    poolCounts          `json:"pool"`
	Cards   []ipamd.CardStatus  `json:"cards,omitempty"`
	ENIs    []ipamd.ENIStatus   `json:"enis"`
	// Intents are operations on ENIs that are not finished.
	Intents  []string `json:"intents"`
	Problems []string `json:"problems,omitempty"`
}

// agentHealth is the health of an agent.
type agentHealth struct {
	Where   string `json:"where"`
	Answers bool   `json:"answers"`
	Ready   bool   `json:"ready"`
	// Reason and Evidence are those of ipamd.Status, and Meaning explains the reason.
	Reason   ipam.Reason `json:"reason,omitempty"`
	Evidence string      `json:"evidence,omitempty"`
	Meaning  string      `json:"meaning,omitempty"`
	Error    string      `json:"error,omitempty"`
}

// poolCounts counts addresses. Those of IPv6 prefixes, which are practically endless, count
// only where a pod has them.
type poolCounts struct {
	Pods        int `json:"pods"`
	Waiting     int `json:"waiting"`
	Total       int `json:"total"`
	Used        int `json:"used"`
	Cooling     int `json:"cooling"`
	Free        int `json:"free"`
	Quarantined int `json:"quarantined"`
	Prefixes6   int `json:"prefixes6"`
}

// runStatus runs "vpcctl status".
func runStatus(ctx context.Context, std stdio, args []string) error {
	fs := flag.NewFlagSet("status", flag.ContinueOnError)
	var src source
	src.register(fs)
	out := outputFlag(fs, formatTable, formatWide, formatJSON, formatYAML)
	if err := parse(fs, std, args, statusAbout); err != nil {
		return err
	}
	a, err := src.read(ctx)
	if err != nil {
		return err
	}
	r := a.report()
	if err := out.print(std.out, r, func() { r.print(std, &a, out.format) }); err != nil {
		return err
	}
	if !r.Agent.Ready {
		return errFault
	}
	return nil
}

// report returns the report of what is known of an agent.
func (a *agentFacts) report() statusReport {
	s := a.status()
	r := statusReport{
		Agent:   agentHealth{Where: a.Where, Answers: a.Answers != nil, Ready: s.Ready, Reason: s.Reason, Evidence: s.Evidence, Error: a.Error},
		Network: s.Network, Policy: append([]string{}, s.Decisions...), Doing: append([]string{}, s.InFlight...),
		Pool: countPool(s), Cards: s.Cards, ENIs: append([]ipamd.ENIStatus{}, s.ENIs...), Intents: []string{},
	}
	if s.Reason != "" {
		r.Agent.Meaning = reasonTexts[s.Reason].meaning
	}
	if a.Answers != nil {
		r.Pool.Waiting = len(a.Answers.Waiting)
	}
	for _, i := range a.intents() {
		r.Intents = append(r.Intents, intentText(i, a.At))
	}
	if a.Stored != nil {
		r.Problems = a.Stored.Problems
	} else if a.StoredError != "" {
		r.Problems = []string{a.StoredError}
	}
	return r
}

// countPool counts the addresses of a status.
func countPool(s ipamd.Status) (c poolCounts) {
	pods := map[string]bool{}
	for _, p := range s.Allocations {
		pods[podName(p)] = true
	}
	c.Pods, c.Quarantined = len(pods), len(s.Quarantined)
	for _, e := range s.ENIs {
		n := countENI(e)
		c.Total, c.Used, c.Cooling, c.Free, c.Prefixes6 = c.Total+n.Total, c.Used+n.Used, c.Cooling+n.Cooling, c.Free+n.Free, c.Prefixes6+n.Prefixes6
	}
	return c
}

// countENI counts the addresses of an ENI.
func countENI(e ipamd.ENIStatus) (c poolCounts) {
	for _, b := range e.Blocks {
		c.Used += b.Used
		c.Cooling += b.Cooling
		c.Quarantined += b.Quarantined
		if b.Prefix.Addr().Is6() && b.Prefix.Bits() < 128 {
			c.Prefixes6++
			continue
		}
		c.Free += b.Free
		c.Total += b.Used + b.Cooling + b.Free
	}
	return c
}

// podName returns the name of a pod, or its address if it has none.
func podName(p ipamd.PodStatus) string {
	if p.Pod == "" {
		return p.Addr.String()
	}
	return p.Namespace + "/" + p.Pod
}

// health returns a word and a colour for the health of the agent.
func (h agentHealth) health() (word, colour string) {
	switch {
	case !h.Answers:
		return "does not answer", red
	case !h.Ready:
		return "not ready", red
	case h.Reason != "":
		return "ready, but there are no more addresses", yellow
	}
	return "ready", green
}

// print prints the report for people.
func (r statusReport) print(std stdio, a *agentFacts, format string) {
	line := func(name, text string) {
		if text != "" {
			fmt.Fprintf(std.out, "%-10s %s\n", name, text)
		}
	}
	if text := a.offline(); text != "" {
		fmt.Fprintln(std.out, std.paint(red, text))
	}
	word, colour := r.Agent.health()
	line("agent", std.paint(colour, word)+" ("+r.Agent.Where+")")
	line("error", r.Agent.Error)
	if r.Agent.Reason != "" {
		line("blocker", std.paint(colour, string(r.Agent.Reason))+": "+cmp.Or(r.Agent.Evidence, r.Agent.Meaning))
	}
	if r.Agent.Answers {
		network := "layout " + r.Network.Layout
		if r.Network.SNATBackend != "" {
			network += ", SNAT by " + r.Network.SNATBackend
		}
		if r.Network.ExternalSNAT {
			network += ", external SNAT"
		}
		if r.Network.Placement != "" {
			network += ", placement " + r.Network.Placement
		}
		line("network", network)
	}
	line("policy", strings.Join(r.Policy, "\n           "))
	line("doing", strings.Join(r.Doing, "\n           "))
	line("unfinished", strings.Join(r.Intents, "\n           "))
	p := r.Pool
	line("pods", fmt.Sprintf("%d with addresses, %d waiting", p.Pods, p.Waiting))
	pool := fmt.Sprintf("%d addresses: %d used, %d cooling, %d free", p.Total, p.Used, p.Cooling, p.Free)
	if p.Quarantined > 0 {
		pool += fmt.Sprintf(", %d quarantined", p.Quarantined)
	}
	if p.Prefixes6 > 0 {
		pool += fmt.Sprintf("; %d IPv6 prefixes", p.Prefixes6)
	}
	line("pool", pool)
	for _, c := range r.Cards {
		n := 0
		for _, e := range r.ENIs {
			if e.Card == c.Card {
				n++
			}
		}
		line(fmt.Sprintf("card %d", c.Card), fmt.Sprintf("%d of %d ENIs, each with %d slots of %d addresses", n, c.MaxENIs, c.SlotsPerENI, c.AddressesPerSlot))
	}
	for _, text := range r.Problems {
		line("problem", std.paint(red, text))
	}
	fmt.Fprintln(std.out)
	printENIs(std, r.ENIs, r.Agent.Answers, format)
}

// age returns the time from one moment to another for people.
func age(from, to time.Time) string {
	d := to.Sub(from)
	switch {
	case from.IsZero() || d < 0:
		return ""
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// byName sorts pods by name and address.
func byName(pods []ipamd.PodStatus) []ipamd.PodStatus {
	pods = slices.Clone(pods)
	slices.SortFunc(pods, func(a, b ipamd.PodStatus) int {
		return cmp.Or(strings.Compare(podName(a), podName(b)), a.Addr.Compare(b.Addr))
	})
	return pods
}
