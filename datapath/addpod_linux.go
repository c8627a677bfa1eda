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
	if err := h.addPod(ctx, p, inside); err != nil {
		return Wiring{}, fmt.Errorf("wire %s: %w", p.HostLink(), err)
	}
	return p.Wiring(), nil
}

// addPod is the way of every ADD, whatever the mode. It undoes what it has made if a
// step fails.
func (h *kernel) addPod(ctx context.Context, p Pod, inside *kernel) (err error) {
	a, err := h.newAddition(ctx, p, inside)
	if err != nil {
		return err
	}
	done := false
	defer func() {
		if !done && a.made {
			err = errors.Join(err, a.undo(ctx, err))
		}
	}()
	for _, step := range a.steps() {
		if err := step(ctx); err != nil {
			return err
		}
	}
	done = true
	return nil
}

// addition is an ADD at work.
type addition struct {
	h, inside *kernel
	pod       Pod // resolved
	mode      mode
	// host and sandbox are the states that the pod needs.
	host, sandbox netstate.State
	owned         ownership
	// alias is the zero alias if the pod has a veth pair and nothing else. The kernel
	// gives a route to one link of a table only, so that of two such pods one gets the
	// address. Pods of other modes take turns by the lock.
	alias alias
	// link is the host side of the veth pair, with index 0 if the mode has none.
	link rtnl.Link
	// made says that this call has made or moved a link, fresh that this call has made
	// the veth pair.
	made, fresh bool
	// repeated says that an earlier AddPod has wired the pod to the end, unfinished that
	// this call has changed something since, so that the pod may not be ready.
	repeated, unfinished bool
}

// newAddition finds out what p needs.
func (h *kernel) newAddition(ctx context.Context, p Pod, inside *kernel) (*addition, error) {
	p, err := h.resolvePod(ctx, p)
	if err != nil {
		return nil, err
	}
	m := p.mode()
	a := &addition{h: h, inside: inside, pod: p, mode: m, host: p.HostState(), sandbox: p.SandboxState(), alias: m.alias(p)}
	a.owned = p.ownership(a.host)
	return a, nil
}

// steps are the steps of an ADD in order. A kill can stop it after any of them.
//
// The order is also one of speed. After the request for a veth pair, and after that which
// brings it up, the kernel has work left that the next requests must wait for, unless they
// need no lock of it. With the lookup before the pair, and the wait for the carrier before
// the end of the wiring, an ADD takes a tenth longer.
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

// place makes the links of the pod. A pod with more than a veth pair may change links that
// another pod has, or move one, so it is refused before.
func (a *addition) place(ctx context.Context) (err error) {
	if a.alias != (alias{}) {
		if a.repeated, err = a.wiredBefore(ctx); err != nil {
			return err
		}
		if _, err = a.observeHost(ctx); err != nil {
			return err
		}
	}
	return a.mode.place(ctx, a)
}

// onlyPair reports whether this call has made all that there is of the pod: a veth pair
// with nothing beside it.
func (a *addition) onlyPair() bool { return a.fresh && a.alias == (alias{}) }

// undo takes away what a failed AddPod has made. If the address is another pod's, and
// there is nothing but the new link, the link goes with what is on it, and nothing that
// only names the address is touched.
func (a *addition) undo(ctx context.Context, failure error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	if !errors.Is(failure, ErrAddressTaken) || a.alias != (alias{}) || a.pod.Index > 0 {
		return a.h.DelPod(ctx, a.pod)
	}
	err := a.h.withConn(ctx, func(c *rtnl.Conn) error { return rtnl.SetGroup(c, a.link.Index, claims.LinkGroupEnding) })
	if err != nil {
		return err
	}
	return a.h.deleteLink(ctx, a.link.Index)
}

// errDeleted means that a DEL of the pod began while it was added.
var errDeleted = errors.New("the pod was deleted while it was added")

// stillWiring returns errDeleted if a DEL is at work on the link that a answers for.
func stillWiring(a rtnl.Answer) error {
	if a.Err != nil {
		return fmt.Errorf("look at link: %w", a.Err)
	}
	if l, err := a.Link(); err != nil || claims.Ending(l.Group) {
		return errors.Join(err, errDeleted)
	}
	return nil
}

// finish ends the wiring of the host link, so that Watch looks after the pod, unless a
// DEL has begun.
func (a *addition) finish(ctx context.Context) error {
	if a.link.Index == 0 || !a.unfinished {
		return nil
	}
	return a.h.withConn(ctx, func(c *rtnl.Conn) error {
		var look rtnl.Batch
		look.FindIndex(a.link.Index)
		answers, err := c.Do(&look)
		if err != nil {
			return err
		}
		if err := stillWiring(answers[0]); err != nil {
			return err
		}
		return rtnl.SetGroup(c, a.link.Index, 0)
	})
}
