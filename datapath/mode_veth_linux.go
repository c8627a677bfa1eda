// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

func (vethMode) refuse(Pod, map[string]rtnl.Link) error       { return nil }
func (vethMode) place(ctx context.Context, a *addition) error { return a.placeLinks(ctx) }
func (vethMode) ready(ctx context.Context, a *addition) error { return a.waitPair(ctx) }
func (vethMode) release(context.Context, *deletion) error     { return nil }

// placeLinks creates the veth pair and the virtual links of the host state, and gives the
// host link its alias.
func (a *addition) placeLinks(ctx context.Context) error {
	if err := a.placePair(ctx); err != nil {
		return err
	}
	if a.alias != (alias{}) && a.pod.Adopted.Link == "" {
		if err := a.h.setAlias(ctx, a.link.Index, a.alias.String()); err != nil {
			return err
		}
	}
	for _, l := range a.host.Links {
		if !l.Virtual() {
			continue
		}
		if err := a.h.ensureVirtual(ctx, l); err != nil {
			return err
		}
	}
	return nil
}

// placePair creates the veth pair. It keeps a complete pair, and deletes an incomplete one
// first. An interface of another program is an error.
func (a *addition) placePair(ctx context.Context) error {
	err := a.createPair(ctx)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	whole, err := a.clearRemains(ctx)
	if err != nil || whole {
		return err
	}
	return a.createPair(ctx)
}

// createPair creates the veth pair and reads the indexes of both ends, in one system call.
func (a *addition) createPair(ctx context.Context) error {
	return a.h.withConn(ctx, func(c *rtnl.Conn) error {
		var b rtnl.Batch
		b.CreateVeth(rtnl.VethPair{
			Name: a.pod.HostLink(), MAC: a.pod.HostMAC(), Peer: a.pod.peer(), PeerMAC: a.pod.SandboxMAC(), MTU: a.pod.MTU, Group: claims.LinkGroupWiring,
		}, int(a.inside.ns.Fd()))
		b.FindLink(a.pod.HostLink())
		answers, err := c.Do(&b)
		if err != nil {
			return err
		}
		if err := answers[0].Err; err != nil {
			return fmt.Errorf("create veth pair: %w", explainKind("veth", err))
		}
		a.made, a.fresh, a.unfinished = true, true, true
		if err := answers[1].Err; err != nil {
			return fmt.Errorf("find veth pair: %w", err)
		}
		a.link, err = answers[1].Link()
		return err
	})
}

// clearRemains finds out why the pair could not be created. It reports whether a complete
// pair exists, and deletes the remains of an incomplete one. It returns ErrInterfaceTaken for
// an interface of another program.
func (a *addition) clearRemains(ctx context.Context) (whole bool, err error) {
	peer, err := a.inside.findLink(ctx, a.pod.peer())
	if err != nil {
		return false, err
	}
	if peer.Index != 0 && (peer.Kind != "veth" || peer.MAC != a.pod.SandboxMAC().String()) {
		return false, fmt.Errorf("%w: %s with MAC %s", ErrInterfaceTaken, a.pod.peer(), peer.MAC)
	}
	host, err := a.h.findLink(ctx, a.pod.HostLink())
	if err != nil {
		return false, err
	}
	whole = peer.Index != 0 && host.PeerIndex == peer.Index && peer.PeerIndex == host.Index && host.MAC == a.pod.HostMAC().String() && !claims.Ending(host.Group)
	if whole {
		a.link, a.repeated = host, !claims.Changing(host.Group)
		a.unfinished = !a.repeated
		return true, nil
	}
	for _, remains := range []struct {
		h    *kernel
		link rtnl.Link
	}{{a.h, host}, {a.inside, peer}} {
		if remains.link.Index == 0 {
			continue
		}
		if err := remains.h.deleteLink(ctx, remains.link.Index); err != nil {
			return false, err
		}
	}
	return false, nil
}

// waitPair waits until both ends of the veth pair can send. Watch may have set the host side
// up before AddPod did the same with the sandbox side.
func (a *addition) waitPair(ctx context.Context) error {
	if !a.unfinished {
		return nil
	}
	err := a.inside.withConn(ctx, func(c *rtnl.Conn) error { return c.WaitRunning(ctx, a.link.PeerIndex) })
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	if a.running {
		return nil
	}
	return a.h.withConn(ctx, func(c *rtnl.Conn) error { return c.WaitRunning(ctx, a.link.Index) })
}
