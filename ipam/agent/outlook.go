// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
)

// outlooks sets the outlook of each card and family in the pool, and returns the
// first one that has a reason.
func (l *loop) outlooks(v ipam.View) (first ipam.Outlook) {
	for card := range l.limits {
		for _, f := range l.families {
			o := l.outlook(card, f, v)
			l.cfg.Pool.SetOutlook(card, f, o)
			if first.Reason == "" {
				first = o
			}
		}
	}
	return first
}

// outlook returns the state of growth for one family on one card. Tasks under
// way have precedence over failures, and failures over limits.
func (l *loop) outlook(card int, f ipam.Family, v ipam.View) ipam.Outlook {
	if !l.observed {
		return l.starting()
	}
	for _, k := range []kind{kindAssign, kindCreate} {
		if t := l.running(key{k, card, f}); t != nil {
			return ipam.Outlook{Reason: ipam.ReasonRefilling, Evidence: t.String() + " is under way"}
		}
	}
	if o := l.linkOutlook(card, f, v); o.Reason != "" {
		return o
	}
	if o := l.failed(card, f, v.At); o.Reason != "" {
		return o
	}
	if f == l.families[0] && f == ipam.IPv4 {
		return l.atLimit(card, v)
	}
	return ipam.Outlook{}
}

func (l *loop) starting() ipam.Outlook {
	o := ipam.Outlook{Reason: ipam.ReasonAgentStarting, Evidence: "the ENIs of the instance are not known yet"}
	if b := l.backoffs[key{kind: kindObserve}]; b != nil {
		o = ipam.Outlook{Reason: b.reason, Evidence: "observe: " + b.evidence, RetryAt: b.until}
	}
	return o
}

// linkOutlook returns the outlook if an ENI has addresses that wait for its link.
func (l *loop) linkOutlook(card int, f ipam.Family, v ipam.View) ipam.Outlook {
	var out ipam.Outlook
	for _, n := range v.ENIs {
		ln := l.links[n.ID]
		if n.Card != card || n.Draining || ln == nil || !ln.dirty {
			continue
		}
		waiting := !n.Ready || len(ln.Blocks) > len(n.Blocks)
		serves := slices.ContainsFunc(ln.Blocks, ofFamily(f))
		switch {
		case !waiting || !serves:
		case ln.backoff.failures == 0:
			return ipam.Outlook{Reason: ipam.ReasonRefilling, Evidence: "the link of " + n.ID + " is being set up"}
		case out.Reason == "":
			out = ipam.Outlook{
				Reason: ipam.ReasonLinkNotReady, Evidence: ln.backoff.evidence, RetryAt: ln.backoff.until, Final: ln.backoff.final,
			}
		}
	}
	return out
}

// failed returns the outlook if a call to grow has failed and backs off. If
// several did, it is the one with the earliest retry.
func (l *loop) failed(card int, f ipam.Family, now time.Time) ipam.Outlook {
	var out ipam.Outlook
	for _, k := range []kind{kindAssign, kindCreate} {
		b := l.backoffs[key{k, card, f}]
		if b != nil && b.active(now) && (out.Reason == "" || b.until.Before(out.RetryAt)) {
			out = ipam.Outlook{Reason: b.reason, Evidence: string(k) + ": " + b.evidence, RetryAt: b.until}
		}
	}
	return out
}

// fullOutlook returns the outlook if an ENI gets no more blocks. If
// there are several such ENIs, it is the one with the earliest retry.
func (l *loop) fullOutlook(card int, v ipam.View) (out ipam.Outlook) {
	for _, n := range v.ENIs {
		ln := l.links[n.ID]
		if n.Card != card || ln == nil || !ln.full.active(v.At) {
			continue
		}
		if out.Reason == "" || ln.full.until.Before(out.RetryAt) {
			out = ipam.Outlook{Reason: ln.full.reason, Evidence: n.ID + ": " + ln.full.evidence, RetryAt: ln.full.until}
		}
	}
	return out
}

// makingRoom is the outlook while addresses are given back.
var makingRoom = ipam.Outlook{Reason: ipam.ReasonRefilling, Evidence: "addresses are being given back, which makes room for others"}

// atLimit returns the outlook if a card cannot grow. Then an address becomes
// available only when a pod ends or when a draining ENI is deleted.
func (l *loop) atLimit(card int, v ipam.View) ipam.Outlook {
	s := l.snapshot(card, v)
	sup := s.Supply()
	for _, t := range l.tasks {
		if t.card == card && (t.kind == kindUnassign || t.kind == kindDelete) {
			return makingRoom
		}
	}
	if m := s.Limits.MaxPods; m > 0 && sup.Assigned >= m {
		evidence := fmt.Sprintf("%d addresses are in use, the maximum is %d", sup.Assigned, m)
		if v.OtherPods > 0 {
			evidence += fmt.Sprintf(" beside %d pods with ENIs of their own", v.OtherPods)
		}
		return ipam.Outlook{Reason: ipam.ReasonPoolLimit, Final: true, Evidence: evidence}
	}
	if o := l.fullOutlook(card, v); o.Reason != "" && sup.Room == 0 && sup.NewENIs == 0 {
		return o
	}
	if sup.Room == 0 && sup.NewENIs == 0 {
		return ipam.Outlook{Reason: ipam.ReasonENILimit, Final: true, Evidence: fmt.Sprintf(
			"card %d has the maximum of %d ENIs with %d slots each", card, s.Limits.MaxENIs, s.Limits.SlotsPerENI)}
	}
	if s.Subnet.Exhausted {
		return ipam.Outlook{Reason: ipam.ReasonSubnetFull, RetryAt: l.subnetUntil, Evidence: fmt.Sprintf(
			"the subnet had %d free addresses when it was last observed", s.Subnet.Free)}
	}
	if d := l.decided[card]; s.Demand.Waiting > 0 && len(d.Actions) == 0 {
		return ipam.Outlook{Reason: ipam.ReasonAllInUse, Evidence: "policy: " + d.Explanation.String()}
	}
	return ipam.Outlook{}
}
