// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

// openNetns opens the network namespace at path, or returns ErrNoSandbox.
func openNetns(path string) (*os.File, error) {
	f, err := rtnl.OpenNetns(path)
	if rtnl.IsNotNetns(err) {
		err = fmt.Errorf("%w: %w", ErrNoSandbox, err)
	}
	return f, err
}

// SandboxID returns the identity of the network namespace at path: its cookie, a
// number that the kernel gives to no other namespace until the machine boots again,
// unlike the inode. It is 0 on kernels before 5.14, which have no cookies. The error is
// ErrNoSandbox if nothing is at path or what is there is not a network namespace. To
// enter the namespace it needs CAP_SYS_ADMIN.
func SandboxID(path string) (uint64, error) {
	ns, err := openNetns(path)
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	id, err := rtnl.NetnsCookie(ns)
	if err != nil {
		return 0, fmt.Errorf("identity of network namespace %s: %w", path, err)
	}
	return id, nil
}

// firstLink is the number of the first link of a sandbox beside lo.
const firstLink = 2

// wireSandbox configures the sandbox side. For a new veth pair it needs one system call and
// replaces nothing.
func (a *addition) wireSandbox(ctx context.Context) error {
	if !a.onlyPair() || a.link.PeerIndex > firstLink {
		// The sandbox may have other interfaces, or the pod's from an earlier ADD.
		if err := a.findIndex(ctx); err != nil {
			return fmt.Errorf("sandbox: %w", err)
		}
	}
	if !a.fresh || len(a.sandbox.Links) > 1 {
		return a.ensureSandbox(ctx)
	}
	err := a.fillSandbox(ctx)
	if errors.Is(err, unix.EEXIST) && a.hasOwnRoutes(ctx) {
		return a.ensureSandbox(ctx) // a concurrent AddPod of the same pod has added something
	}
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	return nil
}

// findIndex chooses the index of the pod if the caller has not set it, see [Pod.Index]. A
// default route that this ADD has added says nothing about the index.
func (a *addition) findIndex(ctx context.Context) error {
	if a.pod.Index != 0 || a.indexed {
		return nil
	}
	have, err := a.inside.observeNet(ctx)
	if err != nil {
		return err
	}
	if a.fresh {
		have.Routes = slices.DeleteFunc(have.Routes, func(r netstate.Route) bool { return a.pod.ownLink(r.Link) })
	}
	a.indexed = true
	return a.setIndex(have)
}

// setIndex chooses the index of the pod for a sandbox with the state have.
func (a *addition) setIndex(have netstate.State) (err error) {
	if a.pod.Index, err = a.pod.indexIn(have); err != nil || a.pod.Index == 0 {
		return err
	}
	a.want()
	return a.pod.Validate()
}

// hasOwnRoutes reports whether no other interface of the sandbox has a route with the key of
// one of the pod's.
func (a *addition) hasOwnRoutes(ctx context.Context) bool {
	have, err := a.inside.observeNet(ctx)
	return err == nil && !slices.ContainsFunc(netstate.Counterparts(have, a.sandbox).Routes, func(r netstate.Route) bool { return r.Link != a.pod.peer() })
}

// fillSandbox adds everything to the sandbox side of a new veth pair. If the kernel refuses a
// default route because another interface has one, it takes the pod's routes back, chooses
// an index, and begins again. Only a link that another plugin has moved in under its old
// number hides from the test in wireSandbox.
func (a *addition) fillSandbox(ctx context.Context) error {
	fill := func() error {
		return a.inside.withConn(ctx, func(c *rtnl.Conn) error { return a.fillOver(c) })
	}
	err := fill()
	if !errors.Is(err, unix.EEXIST) || a.pod.Index != 0 || a.indexed {
		return err
	}
	had := a.sandbox
	if e := a.findIndex(ctx); e != nil {
		return errors.Join(err, e)
	}
	if a.pod.Index == 0 {
		return err
	}
	if err := a.takeRoutes(ctx, had); err != nil {
		return err
	}
	return fill()
}

// takeRoutes deletes the routes and neighbours of s from the pod's link in the sandbox.
func (a *addition) takeRoutes(ctx context.Context, s netstate.State) error {
	return a.inside.withConn(ctx, func(c *rtnl.Conn) error {
		var b rtnl.Batch
		for _, ch := range netstate.Diff(netstate.State{Routes: s.Routes, Neighbors: s.Neighbors}, netstate.State{}) {
			b.Change(ch, a.link.PeerIndex)
		}
		return doAll(c, &b)
	})
}

// fillOver adds everything to the sandbox side of a new veth pair, over a socket of the
// sandbox.
func (a *addition) fillOver(c *rtnl.Conn) error {
	s := a.sandbox
	changes := netstate.Diff(netstate.State{}, netstate.State{Addresses: s.Addresses, Neighbors: s.Neighbors, Routes: s.Routes, Rules: s.Rules})
	changes = append(changes, localEntries(s.Addresses)...)
	refused, lo, err := sendNew(c, changes, a.link.PeerIndex)
	if err != nil {
		return err
	}
	off, err := ipv6Off(lo, a.pod)
	if err != nil || !off && len(refused) == 0 {
		return err
	}
	// The runtime has switched IPv6 off in the sandbox.
	if err := rtnl.WriteSysctls(a.inside.ns, s.Sysctls); err != nil || len(refused) == 0 {
		return err
	}
	refused, _, err = sendNew(c, refused, a.link.PeerIndex)
	if err == nil && len(refused) > 0 {
		err = fmt.Errorf("%s: %w", refused[0], unix.EACCES)
	}
	return err
}

// localEntries returns routes that make IPv6 addresses local at once. The kernel accepts
// an address before it receives packets to it: a worker adds the entry of table local as
// soon as it gets the lock of route netlink, which takes up to tens of milliseconds while
// links are deleted. The worker's entry, with a better metric, then stands beside ours.
// Both end with the link. An IPv4 address is local when the kernel has accepted it.
func localEntries(addrs []netstate.Address) []netstate.Change {
	var changes []netstate.Change
	for _, a := range addrs {
		if a.Prefix.Addr().Is6() {
			r := netstate.Route{Dst: netstate.HostPrefix(a.Prefix.Addr()), Link: a.Link, Table: netstate.TableLocal, Type: "local", Protocol: claims.RouteProtocol}
			changes = append(changes, netstate.Change{Op: netstate.OpAdd, Item: r})
		}
	}
	return changes
}

// ipv6Off reports whether a pod that needs IPv6 on its loopback link has it off. found is
// the answer to a request for that link.
func ipv6Off(found rtnl.Answer, p Pod) (bool, error) {
	if !p.hasFamily(netstate.IPv6) {
		return false, nil
	}
	if found.Err != nil {
		return false, fmt.Errorf("find link lo: %w", found.Err)
	}
	lo, err := found.Link()
	return len(missing(lo.Sysctls, []netstate.Sysctl{enableIPv6("lo")})) > 0, err
}

// sendNew brings up one new link and adds its items. A route that exists already belongs
// to another interface of the sandbox, and is not replaced. It returns the changes that
// the kernel refuses while IPv6 is off on the link. If there are IPv6 items, it
// also returns the answer to a request for the loopback link.
func sendNew(c *rtnl.Conn, changes []netstate.Change, index int) (refused []netstate.Change, lo rtnl.Answer, err error) {
	var b rtnl.Batch
	b.SetLink(index, netstate.Link{Up: true})
	for _, ch := range changes {
		if r, ok := ch.Item.(netstate.Route); ok {
			b.AddRoute(index, r)
		} else {
			b.Change(ch, index)
		}
	}
	if slices.ContainsFunc(changes, func(ch netstate.Change) bool { return isIPv6(ch.Item) }) {
		b.FindLink("lo")
	}
	answers, err := c.Do(&b)
	if err != nil {
		return nil, lo, err
	}
	lo = answers[len(answers)-1]
	if answers[0].Err != nil {
		return nil, lo, fmt.Errorf("set up: %w", answers[0].Err)
	}
	for i, ch := range changes {
		err := answers[i+1].Err
		switch {
		case err == nil || errors.Is(err, unix.EEXIST) && rtnl.IsRule(ch.Item):
		case isIPv6(ch.Item) && (len(refused) > 0 || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)):
			refused = append(refused, ch)
		default:
			return nil, lo, fmt.Errorf("%s: %w", ch, err)
		}
	}
	return refused, lo, nil
}

// isIPv6 reports whether i, an item of a sandbox, is of the family IPv6.
func isIPv6(i netstate.Item) bool {
	switch i := i.(type) {
	case netstate.Address:
		return i.Prefix.Addr().Is6()
	case netstate.Neighbor:
		return i.Addr.Is6()
	case netstate.Route:
		return i.Dst.Addr().Is6()
	case netstate.Rule:
		return i.IPv6
	}
	return false
}
