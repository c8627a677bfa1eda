// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

// undoTime bounds the clean-up after a failed ADD whose context may be over.
const undoTime = 5 * time.Second

// AddPod wires p: a veth pair between node and sandbox, addresses, routes and
// neighbours on both sides, and in the per-pod layout its rules. What an earlier pod
// of the same address left behind when it ended goes. Nothing is taken from a pod that
// is still there, nor from the node: that is ErrAddressTaken, and of several calls at
// once for one address one succeeds. Repeating AddPod gives the same answer and
// repairs what differs. If it fails it leaves nothing behind; if it is killed, the next
// AddPod or DelPod finds what there is. ErrNoSandbox and ErrInterfaceTaken come from
// the sandbox.
func (h *Handle) AddPod(ctx context.Context, p Pod) (Wiring, error) {
	if err := p.Validate(); err != nil {
		return Wiring{}, fmt.Errorf("pod: %w: %w", ErrInvalid, err)
	}
	sandbox, err := openNetns(p.Netns)
	if err != nil {
		return Wiring{}, fmt.Errorf("sandbox: %w", err)
	}
	defer sandbox.Close()
	inside := newHandle(sandbox)
	defer func() { _ = inside.closeSockets() }() // what was read is read
	if err := h.addPod(ctx, p, inside); err != nil {
		return Wiring{}, fmt.Errorf("wire %s: %w", p.HostLink(), err)
	}
	return p.Wiring(), nil
}

func (h *Handle) addPod(ctx context.Context, p Pod, inside *Handle) error {
	if !p.Mode.isVeth() {
		return h.addMode(ctx, p, inside)
	}
	link, err := h.createVeth(ctx, p, inside.ns)
	if errors.Is(err, unix.EEXIST) {
		return h.readdPod(ctx, p, inside)
	}
	if err != nil {
		return err
	}
	return h.wire(ctx, p, inside, link)
}

// wire gives a new veth pair all that belongs to it, or takes it away again.
func (h *Handle) wire(ctx context.Context, p Pod, inside *Handle, link rtnl.Link) (err error) {
	done := false
	defer func() {
		if !done {
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
			defer cancel()
			err = errors.Join(err, h.unwireNew(undo, p, link.Index, err))
		}
	}()
	if err := h.refuseTaken(ctx, p); err != nil {
		return err
	}
	if err := rtnl.WriteSysctls(h.ns, missing(link.Sysctls, p.HostState().Sysctls)); err != nil {
		return err
	}
	err = inside.wireSandbox(ctx, p, link.PeerIndex)
	if errors.Is(err, unix.EEXIST) && inside.hasOwnRoutes(ctx, p) {
		err = inside.repairInside(ctx, p) // an AddPod of the same pod is at work as well
	} else if err != nil {
		err = fmt.Errorf("sandbox: %w", err)
	}
	if err != nil {
		return err
	}
	if err := h.wireHost(ctx, p, link.Index); err != nil {
		return err
	}
	err = h.waitPair(ctx, inside, link)
	done = err == nil
	return err
}

// hasOwnRoutes reports whether no other interface of the sandbox of h has a route in
// the place of one of p's.
func (h *Handle) hasOwnRoutes(ctx context.Context, p Pod) bool {
	have, err := h.observeNet(ctx)
	return err == nil && !slices.ContainsFunc(p.ownedInSandbox(have).Routes, func(r netstate.Route) bool { return r.Link != p.sandboxEnd() })
}

// unwireNew takes away what a failed AddPod has made. If the address is another's,
// that is the link and what is on it, and nothing that only names the address.
func (h *Handle) unwireNew(ctx context.Context, p Pod, index int, err error) error {
	if !errors.Is(err, ErrAddressTaken) {
		return h.DelPod(ctx, p)
	}
	if err := h.withConn(ctx, func(c *rtnl.Conn) error { return rtnl.SetGroup(c, index, claims.LinkGroupEnding) }); err != nil {
		return err
	}
	return h.deleteLink(ctx, index)
}

// missing returns what of want is not in have.
func missing(have, want []netstate.Sysctl) []netstate.Sysctl {
	return slices.DeleteFunc(slices.Clone(want), func(s netstate.Sysctl) bool { return slices.Contains(have, s) })
}

// createVeth makes the pair and finds the numbers of both ends, in one system
// call.
func (h *Handle) createVeth(ctx context.Context, p Pod, sandbox *os.File) (link rtnl.Link, err error) {
	err = h.withConn(ctx, func(c *rtnl.Conn) error {
		var b rtnl.Batch
		b.CreateVeth(rtnl.VethPair{
			Name: p.HostLink(), MAC: p.HostMAC(), Peer: p.sandboxEnd(), PeerMAC: p.SandboxMAC(), MTU: p.MTU, Group: claims.LinkGroupWiring,
		}, int(sandbox.Fd()))
		b.FindLink(p.HostLink())
		answers, err := c.Do(&b)
		if err != nil {
			return err
		}
		for _, a := range answers {
			if a.Err != nil {
				return fmt.Errorf("create veth pair: %w", a.Err)
			}
		}
		link, err = rtnl.ParseLink(answers[1].Data)
		return err
	})
	return link, err
}

// wireSandbox sends everything for the sandbox side, whose handle h is, in one
// system call.
func (h *Handle) wireSandbox(ctx context.Context, p Pod, index int) error {
	return h.withConn(ctx, func(c *rtnl.Conn) error { return wireInside(c, h.ns, p, index) })
}

func wireInside(c *rtnl.Conn, sandbox *os.File, p Pod, index int) error {
	s := p.SandboxState()
	changes := netstate.Diff(netstate.State{}, netstate.State{Addresses: s.Addresses, Neighbors: s.Neighbors, Routes: s.Routes, Rules: s.Rules})
	refused, err := sendNew(c, changes, index)
	if err != nil {
		return err
	}
	off, err := ipv6Off(c, p)
	if err != nil || !off && len(refused) == 0 {
		return err
	}
	// The runtime has switched IPv6 off in the sandbox.
	if err := rtnl.WriteSysctls(sandbox, s.Sysctls); err != nil || len(refused) == 0 {
		return err
	}
	refused, err = sendNew(c, refused, index)
	if err == nil && len(refused) > 0 {
		err = fmt.Errorf("%s: %w", refused[0], unix.EACCES)
	}
	return err
}

// ipv6Off reports whether a pod that needs IPv6 on its loopback link has it off.
func ipv6Off(c *rtnl.Conn, p Pod) (bool, error) {
	if !p.speaks(true) {
		return false, nil
	}
	var b rtnl.Batch
	b.FindLink("lo")
	answers, err := c.Do(&b)
	if err != nil {
		return false, err
	}
	if answers[0].Err != nil {
		return false, fmt.Errorf("find link lo: %w", answers[0].Err)
	}
	lo, err := rtnl.ParseLink(answers[0].Data)
	return len(missing(lo.Sysctls, []netstate.Sysctl{enableIPv6("lo")})) > 0, err
}

// sendNew brings up one new link and adds its items. A route that is there
// already belongs to another interface of the sandbox, and is not replaced. It
// returns what the kernel refuses while IPv6 is off on the link.
func sendNew(c *rtnl.Conn, changes []netstate.Change, index int) (refused []netstate.Change, err error) {
	var b rtnl.Batch
	b.SetLink(index, netstate.Link{Up: true})
	for _, ch := range changes {
		if r, ok := ch.Item.(netstate.Route); ok {
			b.Route(netstate.OpAdd, index, r, rtnl.Create)
		} else {
			b.Change(ch, index)
		}
	}
	answers, err := c.Do(&b)
	if err != nil {
		return nil, err
	}
	if answers[0].Err != nil {
		return nil, fmt.Errorf("set up: %w", answers[0].Err)
	}
	for i, ch := range changes {
		err := answers[i+1].Err
		switch {
		case err == nil || errors.Is(err, unix.EEXIST) && rtnl.IsRule(ch.Item):
		case isIPv6(ch.Item) && (len(refused) > 0 || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)):
			refused = append(refused, ch)
		default:
			return nil, fmt.Errorf("%s: %w", ch, err)
		}
	}
	return refused, nil
}

// isIPv6 reports whether an item that may be in a sandbox is of IPv6.
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

// wireHost gives the host side all that belongs to it. First the link comes up and
// claims the addresses by its routes, which the kernel gives to one link only. Rules,
// which say nothing of their pod, follow when all addresses are the pod's.
func (h *Handle) wireHost(ctx context.Context, p Pod, index int) error {
	s := p.HostState()
	return h.withRules(ctx, s, func(c *rtnl.Conn) error {
		if err := claimHost(c, p, index, s); err != nil {
			return err
		}
		return settleHost(c, p, index, s)
	})
}

// claimHost sets the link up and adds its neighbours and routes.
func claimHost(c *rtnl.Conn, p Pod, index int, s netstate.State) error {
	if err := clearOther(c, p, index); err != nil {
		return err
	}
	var b rtnl.Batch
	b.FindIndex(index)
	b.NoLinkLocal(index)
	b.SetLink(index, netstate.Link{Up: true})
	for _, n := range s.Neighbors {
		b.Neighbor(netstate.OpAdd, index, n)
	}
	for _, r := range s.Routes {
		b.Route(netstate.OpAdd, index, r, rtnl.Create)
	}
	answers, err := c.Do(&b)
	if err != nil {
		return err
	}
	if err := stillWiring(answers[0]); err != nil {
		return err
	}
	if err := answers[2].Err; err != nil {
		return fmt.Errorf("set %s up: %w", p.HostLink(), err)
	}
	for i, n := range s.Neighbors {
		if err := answers[3+i].Err; err != nil {
			return fmt.Errorf("%s: %w", netstate.Change{Op: netstate.OpAdd, Item: n}, err)
		}
	}
	var contested []netstate.Route
	for i, r := range s.Routes {
		err := answers[3+len(s.Neighbors)+i].Err
		switch {
		case errors.Is(err, unix.EEXIST):
			contested = append(contested, r)
		case err != nil:
			return fmt.Errorf("%s: %w", netstate.Change{Op: netstate.OpAdd, Item: r}, err)
		}
	}
	return claimRoutes(c, p, index, contested)
}

// errDeleted means that a DEL of the pod came while it was added.
var errDeleted = errors.New("the pod was deleted while it was added")

// stillWiring reports that a DEL is at work on the link that was looked at.
func stillWiring(a rtnl.Answer) error {
	if a.Err != nil {
		return fmt.Errorf("look at link: %w", a.Err)
	}
	if l, err := rtnl.ParseLinkOnly(a.Data); err != nil || claims.Ending(l.Group) {
		return errors.Join(err, errDeleted)
	}
	return nil
}

// settleHost replaces rules of the addresses that an earlier pod has left, and then
// tells Watch that the pod is wired.
func settleHost(c *rtnl.Conn, p Pod, index int, s netstate.State) error {
	stale := staleRules(p)
	var b rtnl.Batch
	for _, r := range stale {
		b.Rule(netstate.OpDelete, r)
	}
	for _, r := range s.Rules {
		b.Rule(netstate.OpAdd, r)
	}
	answers, err := c.Do(&b)
	if err != nil {
		return err
	}
	for i, r := range s.Rules {
		// A rule that is there again was made by Watch just now.
		if err := answers[len(stale)+i].Err; err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("%s: %w", netstate.Change{Op: netstate.OpAdd, Item: r}, err)
		}
	}
	if slices.ContainsFunc(answers[:len(stale)], func(a rtnl.Answer) bool { return a.Err == nil }) {
		// There was one: there may be more, and the new one may be gone.
		if err := purgeRules(c, stale, s.Rules); err != nil {
			return err
		}
	}
	return wired(c, index)
}

// wired ends the wiring of a link, unless a DEL has begun.
func wired(c *rtnl.Conn, index int) error {
	var look rtnl.Batch
	look.FindIndex(index)
	answers, err := c.Do(&look)
	if err != nil {
		return err
	}
	if err := stillWiring(answers[0]); err != nil {
		return err
	}
	return rtnl.SetGroup(c, index, 0)
}

// staleRules selects rules that an earlier pod may have left for p's addresses,
// in whatever table.
func staleRules(p Pod) []netstate.Rule {
	var rules []netstate.Rule
	for _, a := range p.Addrs {
		dst := netstate.HostPrefix(a.Addr)
		rules = append(rules,
			netstate.Rule{IPv6: a.Addr.Is6(), Priority: claims.PriorityToPod, To: dst},
			netstate.Rule{IPv6: a.Addr.Is6(), Priority: claims.PriorityFromPod, From: dst})
	}
	if p.Mode.Branch != nil {
		rules = append(append(rules, branchRules(p.HostLink())...), branchRules(p.Mode.Branch.Link())...)
	}
	return rules
}

// staleRoutes selects routes that an earlier pod may have left for p's addresses
// where p has none, as in the table of the other layout.
func staleRoutes(p Pod) []netstate.Route {
	wanted := map[netstate.RouteKey]bool{}
	for _, r := range p.HostState().Routes {
		wanted[r.Key()] = true
	}
	var routes []netstate.Route
	for _, a := range p.Addrs {
		for _, table := range []int{claims.TablePods, netstate.TableMain} {
			if r := (netstate.Route{Dst: netstate.HostPrefix(a.Addr), Table: table, Protocol: claims.RouteProtocol}); !wanted[r.Key()] {
				routes = append(routes, r)
			}
		}
	}
	return routes
}

// purgeRules deletes all rules that match stale and adds those of keep.
func purgeRules(c *rtnl.Conn, stale, keep []netstate.Rule) error {
	for found := true; found; {
		var b rtnl.Batch
		for _, r := range stale {
			b.Rule(netstate.OpDelete, r)
		}
		answers, err := c.Do(&b)
		if err != nil {
			return err
		}
		found = false
		for i, a := range answers {
			if a.Err != nil && !rtnl.IsGone(a.Err) {
				return fmt.Errorf("delete rule %s: %w", stale[i], a.Err)
			}
			found = found || a.Err == nil
		}
	}
	var b rtnl.Batch
	for _, r := range keep {
		b.Rule(netstate.OpAdd, r)
	}
	answers, err := c.Do(&b)
	if err != nil {
		return err
	}
	for i, a := range answers {
		if a.Err != nil && !errors.Is(a.Err, unix.EEXIST) {
			return fmt.Errorf("add rule %s: %w", keep[i], a.Err)
		}
	}
	return nil
}

// readdPod finds out why the pair could not be made. If it is there as a whole it
// is repaired; remains of it are taken away and it is made again; a foreign
// interface stays.
func (h *Handle) readdPod(ctx context.Context, p Pod, inside *Handle) error {
	whole, err := h.clearRemains(ctx, p, inside)
	if err != nil {
		return err
	}
	if whole {
		return h.repairPod(ctx, p, inside)
	}
	link, err := h.createVeth(ctx, p, inside.ns)
	if err != nil {
		return err
	}
	return h.wire(ctx, p, inside, link)
}

// clearRemains reports whether the veth pair is there as a whole, and takes away
// what is left of it if not.
func (h *Handle) clearRemains(ctx context.Context, p Pod, inside *Handle) (whole bool, err error) {
	have, err := inside.findLink(ctx, p.sandboxEnd())
	if err != nil {
		return false, err
	}
	if have.Index != 0 && (have.Kind != "veth" || have.MAC != p.SandboxMAC().String()) {
		return false, fmt.Errorf("%w: %s with MAC %s", ErrInterfaceTaken, p.sandboxEnd(), have.MAC)
	}
	host, err := h.findLink(ctx, p.HostLink())
	if err != nil {
		return false, err
	}
	whole = have.Index != 0 && host.PeerIndex == have.Index && have.PeerIndex == host.Index && host.MAC == p.HostMAC().String() && !claims.Ending(host.Group)
	if whole {
		return true, nil
	}
	for _, remains := range []struct {
		h    *Handle
		link rtnl.Link
	}{{h, host}, {inside, have}} {
		if remains.link.Index == 0 {
			continue
		}
		if err := remains.h.deleteLink(ctx, remains.link.Index); err != nil {
			return false, err
		}
	}
	return false, nil
}
