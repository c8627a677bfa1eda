// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"net/netip"
	"time"
)

// step is the next thing to do for an intent.
type step string

const (
	stepCreate       step = "create"
	stepAttach       step = "attach"
	stepKeep         step = "delete-on-termination"
	stepWait         step = "wait"
	stepAssociate    step = "associate"
	stepCool         step = "cool"
	stepDisassociate step = "disassociate"
	stepDetach       step = "detach"
	stepDelete       step = "delete"
	stepDone         step = "done"
)

// next says which step comes next. It is a pure function of the intent, which
// holds everything that EC2 has answered so far, and the time.
func (in Intent) next(now time.Time) step {
	switch {
	case in.Done:
		return stepDone
	case in.ENI == "" && in.Token != "":
		return stepCreate // also on the way back: an ENI may be there, and only this tells its ID
	case in.ENI == "":
		return stepDone
	case in.Undo || in.Op == OpRetire || in.Op == OpRetireBranch:
		return in.nextBack(now)
	case in.Op == OpBranch:
		if in.Association == "" {
			return stepAssociate
		}
		return stepDone
	case !in.Attached:
		return stepAttach
	case !in.Kept:
		return stepKeep
	case !in.Ready:
		return stepWait
	}
	return stepDone
}

// nextBack is the way out: off the trunk or the instance, then deleted.
func (in Intent) nextBack(now time.Time) step {
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

// saw takes in what a describe call says of the intent's ENI: there is false
// if EC2 does not know it. Only an absence after EC2 has had the time to show
// the last change counts, which settled says, since a describe may be that old.
func (in Intent) saw(e ENI, there, settled bool) Intent {
	switch {
	case !there:
	case in.Op == OpBranch || in.Op == OpRetireBranch:
		in.Before = branchBlocks(e)
	default:
		in.Before = e.Blocks()
	}
	switch {
	case !there && settled:
		in.Done, in.Undo, in.Why = true, true, ReasonNotFound
	case !there:
	case e.Attachment != "":
		in = in.sawAttached(e, settled)
	case in.Attached && settled:
		in.Attached, in.Attachment = false, ""
	}
	return in
}

// sawAttached takes in that EC2 shows the ENI attached, or on its way.
func (in Intent) sawAttached(e ENI, settled bool) Intent {
	attached := e.Status == "attached"
	in.Attached, in.Attachment = true, e.Attachment
	in.Card, in.Device = e.Card, e.Device
	in.Kept = in.Kept || e.DeleteOnTermination
	in.Ready = in.Ready || attached
	in.Detached = in.Detached && !(attached && settled) || e.Status == "detaching"
	if in.Made != nil {
		// Since it was made, addresses may have come and gone.
		made := *in.Made
		made.Addrs, made.Prefixes = e.Addrs, e.Prefixes
		in.Made = &made
	}
	return in
}

// takesAway says whether the intent takes an ENI or slots from the instance.
func (in Intent) takesAway() bool {
	return in.Undo || in.Op == OpRetire || in.Op == OpUnassign || in.Op == OpRetireBranch
}

// branchBlocks are the blocks that a pod has with a branch ENI: all of them, its
// own addresses included.
func branchBlocks(e ENI) []netip.Prefix {
	out := e.Blocks()
	for _, a := range []netip.Addr{e.Addr, e.Addr6} {
		if a.IsValid() {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return out
}

// turn starts the way back because of why.
func (in Intent) turn(why Reason) Intent {
	in.Undo, in.Why = true, why
	return in
}
