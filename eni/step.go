// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"net/netip"
	"time"
)

// step is one step of an intent.
type step string

const (
	stepCreate              step = "create"
	stepAttach              step = "attach"
	stepDeleteOnTermination step = "delete-on-termination"
	stepWait                step = "wait"
	stepAssociate           step = "associate"
	stepCool                step = "cool"
	stepDisassociate        step = "disassociate"
	stepDetach              step = "detach"
	stepDelete              step = "delete"
	stepDone                step = "done"
)

// next returns the next step of the intent. It is a pure function of the intent,
// which holds all answers of EC2 so far, and the time.
func (in Intent) next(now time.Time) step {
	switch {
	case in.Done:
		return stepDone
	case in.ENI == "" && in.Token != "":
		return stepCreate // also with Undo: an ENI may exist, and only this call returns its ID
	case in.ENI == "":
		return stepDone
	case in.Undo || in.Op == OpRetire || in.Op == OpRetireBranch:
		return in.nextRemoval(now)
	case in.Op == OpBranch:
		if in.Association == "" {
			return stepAssociate
		}
		return stepDone
	case !in.Attached:
		return stepAttach
	case !in.DeleteOnTermination:
		return stepDeleteOnTermination
	case !in.Ready:
		return stepWait
	}
	return stepDone
}

// nextRemoval returns the next step of an intent that removes an ENI: from its
// trunk, then from the instance, then from EC2.
func (in Intent) nextRemoval(now time.Time) step {
	switch {
	case now.Before(in.NotBefore):
		return stepCool
	case in.Association != "":
		return stepDisassociate
	case in.Attached && !in.Detached:
		return stepDetach
	}
	return stepDelete
}

// observe updates the intent with the result of a describe call for its ENI:
// found is false if EC2 does not show the ENI. lagPassed says that EC2 has had
// time to show the last change. Without it an absence does not count, because the
// description may be older than the change.
func (in Intent) observe(e ENI, found, lagPassed bool) Intent {
	switch {
	case !found:
	case in.Op == OpBranch || in.Op == OpRetireBranch:
		in.Before = branchBlocks(e)
	default:
		in.Before = e.Blocks()
	}
	switch {
	case !found && lagPassed:
		in.Done, in.Undo, in.Why = true, true, ReasonNotFound
	case !found:
	case e.Attachment != "":
		in = in.observeAttached(e, lagPassed)
	case in.Attached && lagPassed:
		in.Attached, in.Attachment = false, ""
	}
	return in
}

// observeAttached updates the intent with an ENI that EC2 shows attached,
// attaching or detaching.
func (in Intent) observeAttached(e ENI, lagPassed bool) Intent {
	attached := e.Status == "attached"
	in.Attached, in.Attachment = true, e.Attachment
	in.Card, in.Device = e.Card, e.Device
	in.DeleteOnTermination = in.DeleteOnTermination || e.DeleteOnTermination
	in.Ready = in.Ready || attached
	in.Detached = in.Detached && !(attached && lagPassed) || e.Status == "detaching"
	if in.Made != nil {
		// Its addresses may have changed since it was created.
		made := *in.Made
		e = e.withOwn(made.Addr, made.Addr6)
		made.Addrs, made.Prefixes = e.Addrs, e.Prefixes
		in.Made = &made
	}
	return in
}

// removes reports whether the intent removes an ENI or slots from the instance.
func (in Intent) removes() bool {
	return in.Undo || in.Op == OpRetire || in.Op == OpUnassign || in.Op == OpRetireBranch
}

// branchBlocks returns the blocks that a pod has with a branch ENI: all of them,
// including its own addresses.
func branchBlocks(e ENI) []netip.Prefix {
	out := e.Blocks()
	for _, a := range []netip.Addr{e.Addr, e.Addr6} {
		if a.IsValid() {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return out
}

// undo marks the intent as failed for a reason, so that it is undone.
func (in Intent) undo(reason Reason) Intent {
	in.Undo, in.Why = true, reason
	return in
}
