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

	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/ipam/ipamd/introspect"
)

const explainAbout = `explain says why a pod has its address or still waits for one, what an ENI is used for
and what happens to it, or why there are no more addresses and what EC2 last said.

  vpcctl explain pod default/web-0
  vpcctl explain pod 10.0.1.23
  vpcctl explain eni eni-0123456789abcdef0
  vpcctl explain failure`

// explanation is the answer of "vpcctl explain".
type explanation struct {
	// Subject is what is explained.
	Subject string `json:"subject"`
	// Because are the sentences of the explanation, each with its evidence.
	Because []string `json:"because"`
	// Do says what an operator can do, if anything.
	Do []string `json:"do,omitempty"`
}

// say adds a sentence.
func (e *explanation) say(format string, args ...any) {
	e.Because = append(e.Because, fmt.Sprintf(format, args...))
}

// runExplain runs "vpcctl explain".
func runExplain(ctx context.Context, std stdio, args []string) error {
	fs := flag.NewFlagSet("explain", flag.ContinueOnError)
	var src source
	src.register(fs)
	out := outputFlag(fs, formatText, formatJSON, formatYAML)
	pos, err := parseMixed(fs, std, args, explainAbout, "pod NAMESPACE/NAME|ADDRESS, eni ID, or failure")
	if err != nil {
		return err
	}
	want := map[string]int{"pod": 2, "eni": 2, "failure": 1}
	if len(pos) == 0 || len(pos) != want[pos[0]] {
		return wrong(fs, std, "want pod with a name or an address, eni with an ID, or failure")
	}
	a, err := src.read(ctx)
	if err == nil {
		err = a.known()
	}
	if err != nil {
		return err
	}
	if text := a.offline(); text != "" {
		fmt.Fprintln(std.err, text)
	}
	var e explanation
	switch pos[0] {
	case "pod":
		e, err = a.explainPod(pos[1])
	case "eni":
		e, err = a.explainENI(pos[1])
	default:
		e = a.explainFailure()
	}
	if err != nil {
		return err
	}
	return out.print(std.out, e, func() { e.print(std) })
}

func (e explanation) print(std stdio) {
	fmt.Fprintln(std.out, std.paint(bold, e.Subject))
	for _, b := range e.Because {
		fmt.Fprintln(std.out, "  "+b)
	}
	for _, d := range e.Do {
		fmt.Fprintln(std.out, "  do: "+d)
	}
}

// explainPod explains the addresses of a pod by its name or by one of them.
func (a *agentFacts) explainPod(name string) (e explanation, err error) {
	s := a.status()
	addr, _ := netip.ParseAddr(name)
	e.Subject = "pod " + name
	for _, p := range byName(s.Allocations) {
		if p.Addr == addr || podName(p) == name {
			a.sayAddress(&e, p)
		}
	}
	for _, q := range s.Quarantined {
		if q.Addr == addr {
			e.say("%s of %s is quarantined since %s: %s uses it, and no pod of the journal has it. No pod gets it while it is in use.", q.Addr, q.ENI, moment(q.Since), q.By)
		}
	}
	if a.Answers != nil {
		for _, w := range a.Answers.Waiting {
			if w.Namespace+"/"+w.Pod == name {
				a.sayWait(&e, w)
			}
		}
	}
	for _, ev := range s.Events {
		if addr.IsValid() && ev.Addr == addr {
			e.say("%s, %s: %s", moment(ev.At), ev.Kind, ev.Text)
		}
	}
	if len(e.Because) > 0 {
		return e, nil
	}
	if addr.IsValid() {
		for _, eni := range s.ENIs {
			for _, b := range eni.Blocks {
				if b.Prefix.Contains(addr) {
					e.say("%s is of block %s on %s. No pod has it; the block has %s.", addr, b.Prefix, eni.ID, blockText(b))
					return e, nil
				}
			}
		}
		return e, fmt.Errorf("no pod has %s, and no ENI of this node holds it", addr)
	}
	return e, fmt.Errorf("the agent has no pod %q and none of that name waits: its ADD has not reached the agent, was refused, or the pod has ended; see the events of the pod and the log of the runtime. Pods are named NAMESPACE/NAME", name)
}

// sayAddress explains an address of a pod.
func (a *agentFacts) sayAddress(e *explanation, p ipamd.PodStatus) {
	s := a.status()
	given := fmt.Sprintf("%s was given to %s at %s", p.Addr, podName(p), moment(p.At))
	i := slices.IndexFunc(s.ENIs, func(x ipamd.ENIStatus) bool { return x.ID == p.ENI })
	if i < 0 {
		e.say("%s. It is of %s, which is not in the pool: the pod has an ENI of its own, or is on a bridge.", given, cmp.Or(p.ENI, "no ENI"))
		return
	}
	eni := s.ENIs[i]
	e.say("%s. It is on %s.", given, describeENI(eni))
	for _, b := range eni.Blocks {
		if b.Prefix.Contains(p.Addr) {
			e.say("Its block %s has %s.", b.Prefix, blockText(b))
		}
	}
	e.say("The pool gives from the ready block with the fewest free addresses, then from the lowest device, so that other ENIs become empty and can go back; in the block it gives the address that rested longest.")
	route := fmt.Sprintf("Its packets use route table %d", eni.Table)
	if s.Network.Layout == "flat" && eni.Mark > 0 {
		route += fmt.Sprintf(", by mark %#x", eni.Mark)
	}
	if p.Link != "" {
		route += ", and come from link " + p.Link
	}
	e.say("%s. vpcctl trace shows the way of a packet.", route)
	if p.Class != "" {
		e.say("Network policies put it into class %s; vpcctl policy shows what that allows.", p.Class)
	}
}

// sayWait explains why a pod waits.
func (a *agentFacts) sayWait(e *explanation, w introspect.Waiting) {
	e.say("It waits for an address since %s (%s).", moment(w.Since), age(w.Since, a.At))
	f := a.explainFailure()
	e.Because, e.Do = append(e.Because, f.Because...), f.Do
}

// explainENI explains an ENI.
func (a *agentFacts) explainENI(id string) (e explanation, err error) {
	s := a.status()
	i := slices.IndexFunc(s.ENIs, func(x ipamd.ENIStatus) bool { return x.ID == id })
	e.Subject = id
	if i >= 0 {
		eni := s.ENIs[i]
		e.say("It is %s.", describeENI(eni))
		switch {
		case a.Answers == nil:
		case !eni.Ready:
			e.say("Its link, route table or routes are not verified, or it is not for pods: no pod gets its addresses.")
		case s.Network.Layout == "flat" && eni.Mark > 0:
			e.say("Its link is verified. Packets of its pods use route table %d, by mark %#x.", eni.Table, eni.Mark)
		default:
			e.say("Its link is verified. Packets of its pods use route table %d.", eni.Table)
		}
		for _, b := range eni.Blocks {
			e.say("Block %s has %s.", b.Prefix, blockText(b))
		}
		var pods []string
		for _, p := range byName(s.Allocations) {
			if p.ENI == id {
				pods = append(pods, podName(p)+" "+p.Addr.String())
			}
		}
		if len(pods) > 0 {
			e.say("It is kept because of its pods: %s.", strings.Join(pods, ", "))
		} else if !slices.ContainsFunc(s.Quarantined, func(q ipamd.QuarantinedStatus) bool { return q.ENI == id }) {
			e.say("No pod uses it. The warm pool policy decides whether it stays: %s.", cmp.Or(strings.Join(s.Decisions, "; "), "no decision is known"))
		}
	}
	for _, q := range s.Quarantined {
		if q.ENI == id {
			e.say("%s is quarantined since %s: %s uses it, and no pod of the journal has it.", q.Addr, moment(q.Since), q.By)
		}
	}
	for _, in := range a.intents() {
		if in.ENI == id {
			e.say("An operation on it is not finished: %s.", intentText(in, a.At))
		}
	}
	for _, t := range s.InFlight {
		if strings.Contains(t, id) {
			e.say("The agent does this now: %s.", t)
		}
	}
	for _, ev := range s.Events {
		if ev.ENI == id {
			e.say("%s, %s: %s", moment(ev.At), ev.Kind, ev.Text)
		}
	}
	if len(e.Because) == 0 {
		return e, fmt.Errorf("the agent does not know %s: it is not attached to this instance, or not for pods", id)
	}
	return e, nil
}

// explainFailure explains why there are no more addresses.
func (a *agentFacts) explainFailure() (e explanation) {
	s := a.status()
	e.Subject = "why there are no more addresses"
	switch {
	case a.Answers == nil:
		e.say("The agent does not answer: %s", a.Error)
		e.Do = append(e.Do, "start the agent, and look at the end of its log")
	case s.Reason == "":
		e.Subject = "there is no failure"
		e.say("%d addresses can be given to pods now.", s.Free)
	default:
		e.say("%s: %s.", s.Reason, reasonTexts[s.Reason].meaning)
		if s.Evidence != "" {
			e.say("Evidence: %s", s.Evidence)
		}
		e.Do = append(e.Do, reasonTexts[s.Reason].do)
	}
	for _, d := range s.Decisions {
		e.say("The warm pool policy decided: %s", d)
	}
	for _, t := range s.InFlight {
		e.say("The agent does this now: %s", t)
	}
	for _, in := range a.intents() {
		e.say("An operation is not finished: %s.", intentText(in, a.At))
	}
	if a.Answers != nil && len(a.Answers.Failed) > 0 {
		for _, c := range a.Answers.Failed[max(0, len(a.Answers.Failed)-3):] {
			e.say("EC2 answered %s to %s at %s, which the agent called for %s.", c.Code, c.Action, moment(c.At), cmp.Or(c.Caller, "itself"))
		}
	}
	return e
}

func describeENI(e ipamd.ENIStatus) string {
	return fmt.Sprintf("%s (%s, network card %d, device %d, %s)", e.ID, cmp.Or(string(e.Kind), "kind unknown"), e.Card, e.Device, cmp.Or(e.Subnet, "subnet unknown"))
}

func blockText(b ipamd.BlockStatus) string {
	text := fmt.Sprintf("%d used, %d cooling, %d free", b.Used, b.Cooling, b.Free)
	if b.Prefix.Addr().Is6() && b.Prefix.Bits() < 128 {
		text = fmt.Sprintf("%d used", b.Used)
	}
	if b.Quarantined > 0 {
		text += fmt.Sprintf(", %d quarantined", b.Quarantined)
	}
	return text
}

func moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }
