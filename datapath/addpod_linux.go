// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// undoTime bounds the clean-up after a failed ADD. The context of the ADD may be over.
const undoTime = 5 * time.Second

// AddPod: see [Handle.AddPod].
func (h *kernel) AddPod(ctx context.Context, p Pod) (Wiring, error) {
	if err := p.Validate(); err != nil {
		return Wiring{}, fmt.Errorf("pod: %w: %w", ErrInvalid, err)
	}
	sandbox, err := openNetns(p.Netns)
	if err != nil {
		return Wiring{}, fmt.Errorf("sandbox: %w", err)
	}
	defer sandbox.Close()
	inside := newKernel(sandbox)
	defer func() { _ = inside.closeSockets() }() // its sockets have nothing left to report
	w, err := h.addPod(ctx, p, inside)
	if err != nil {
		return Wiring{}, fmt.Errorf("wire %s: %w", p.HostLink(), explainFamily(p, err))
	}
	return w, nil
}

// addPod runs the steps of an ADD, in every mode. If a step fails, it undoes the earlier
// ones.
func (h *kernel) addPod(ctx context.Context, p Pod, inside *kernel) (w Wiring, err error) {
	a, err := h.newAddition(ctx, p, inside)
	if err != nil {
		return Wiring{}, err
	}
	done := false
	defer func() {
		if !done && a.made {
			err = errors.Join(err, a.undo(ctx, err))
		}
	}()
	for _, step := range a.steps() {
		if err := step(ctx); err != nil {
			return Wiring{}, err
		}
	}
	done = true
	given := p
	given.Index = a.pod.Index
	return given.Wiring(), nil
}

// addition is an ADD in progress.
type addition struct {
	h, inside *kernel
	pod       Pod // resolved
	mode      mode
	// host and sandbox are the states that the pod needs.
	host, sandbox netstate.State
	owned         ownership
	// alias is zero if the pod has nothing but a veth pair. Of two concurrent ADDs of such
	// pods with one address, the kernel lets only one add its route. ADDs of all other
	// pods exclude each other by the lock.
	alias alias
	// link is the host side of the veth pair. Its index is 0 if the mode has no pair.
	link rtnl.Link
	// made says that this call has created or moved a link, fresh that it has created the
	// veth pair.
	made, fresh bool
	// indexed says that the index of the pod was chosen for what is in the sandbox.
	indexed bool
	// repeated says that an earlier AddPod of the pod was completed, unfinished that this
	// call has changed something, so that the pod may not be ready.
	repeated, unfinished bool
	// looked is the answer to a request for the host link after the last change of wireHost,
	// if it made one. running says that finish has seen the host link able to send.
	looked  rtnl.Answer
	running bool
}

// newAddition computes what p needs on the node and in its sandbox.
func (h *kernel) newAddition(ctx context.Context, p Pod, inside *kernel) (*addition, error) {
	p, err := h.resolvePod(ctx, p)
	if err != nil {
		return nil, err
	}
	a := &addition{h: h, inside: inside, pod: p}
	a.want()
	return a, nil
}

// want computes the states that a.pod needs.
func (a *addition) want() {
	a.mode = a.pod.mode()
	a.host, a.sandbox, a.alias = a.pod.HostState(), a.pod.SandboxState(), a.mode.alias(a.pod)
	a.owned = a.pod.ownership(a.host)
}

// steps returns the steps of an ADD in order. The process may be killed after any of them.
//
// The order matters for speed. After it has created a veth pair, and after it has brought
// it up, the kernel continues to work on the pair, and requests that need the same lock
// wait. An ADD takes a tenth longer if the lookup comes before the pair is created, or the
// wait for the carrier before the wiring ends.
func (a *addition) steps() []func(context.Context) error {
	return []func(context.Context) error{
		a.place,
		a.refuseTaken,
		a.setHostSysctls,
		a.wireSandbox,
		a.wireHost,
		a.finish,
		func(ctx context.Context) error { return a.mode.ready(ctx, a) },
	}
}

// place creates the links of the pod. A pod with more than a veth pair may change or move a
// link that another pod uses, so place checks its addresses first.
func (a *addition) place(ctx context.Context) (err error) {
	if a.alias != (alias{}) {
		if a.repeated, err = a.wiredBefore(ctx); err != nil {
			return err
		}
		if _, err = a.observeHost(ctx); err != nil {
			return err
		}
		if err := a.findIndex(ctx); err != nil {
			return err
		}
	}
	return a.mode.place(ctx, a)
}

// onlyPair reports whether the pod has nothing but a veth pair, and this call has created
// it.
func (a *addition) onlyPair() bool { return a.fresh && a.alias == (alias{}) }

// undo removes what a failed AddPod has created. If another pod has the address and the new
// veth pair is all that was created, undo deletes only the pair: rules for the address
// may belong to the other pod.
func (a *addition) undo(ctx context.Context, failure error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	if !errors.Is(failure, ErrAddressTaken) || a.alias != (alias{}) || a.pod.Index > 0 {
		return a.h.DelPod(ctx, a.pod)
	}
	err := a.h.withConn(ctx, func(c *rtnl.Conn) error { return c.SetLinkGroup(a.link.Index, claims.LinkGroupEnding) })
	if err != nil {
		return err
	}
	return a.h.deleteLink(ctx, a.link.Index)
}

// errDeleted means that a DEL of the pod began while it was added.
var errDeleted = errors.New("the pod was deleted while it was added")

// stillWiring returns errDeleted if a DEL of the pod has begun. a is the answer to a request
// for the host link.
func stillWiring(a rtnl.Answer) error {
	if a.Err != nil {
		return fmt.Errorf("look at link: %w", a.Err)
	}
	if l, err := a.Link(); err != nil || claims.Ending(l.Group) {
		return errors.Join(err, errDeleted)
	}
	return nil
}

// finish takes the host link out of the group of links that are being wired, so that Watch
// restores what the pod needs from now on. It fails if a DEL has begun.
func (a *addition) finish(ctx context.Context) error {
	if a.link.Index == 0 || !a.unfinished {
		return nil
	}
	return a.h.withConn(ctx, func(c *rtnl.Conn) error {
		look := a.looked
		if !look.Found() {
			var b rtnl.Batch
			b.FindIndex(a.link.Index)
			answers, err := c.Do(&b)
			if err != nil {
				return err
			}
			look = answers[0]
		}
		if err := stillWiring(look); err != nil {
			return err
		}
		var b rtnl.Batch
		b.Group(a.link.Index, 0)
		b.FindIndex(a.link.Index)
		answers, err := c.Do(&b)
		if err != nil {
			return err
		}
		if err := answers[0].Err; err != nil && !rtnl.IsGone(err) {
			return fmt.Errorf("set link group: %w", err)
		}
		l, err := answers[1].Link()
		a.running = err == nil && l.Running
		return nil
	})
}
