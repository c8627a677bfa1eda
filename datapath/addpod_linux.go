// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

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
	defer func() { _ = inside.drain() }() // what was read is read
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
func (h *Handle) wire(ctx context.Context, p Pod, inside *Handle, link kernelLink) (err error) {
	done := false
	defer func() {
		if !done {
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
			defer cancel()
			err = errors.Join(err, h.unwireNew(undo, p, link.index, err))
		}
	}()
	if err := h.refuseTaken(ctx, p); err != nil {
		return err
	}
	if err := writeSysctls(h.ns, missing(link.sysctls, p.HostState().Sysctls)); err != nil {
		return err
	}
	err = inside.wireSandbox(ctx, p, link.peer)
	if errors.Is(err, unix.EEXIST) && inside.hasOwnRoutes(ctx, p) {
		err = inside.repairInside(ctx, p) // an AddPod of the same pod is at work as well
	} else if err != nil {
		err = fmt.Errorf("sandbox: %w", err)
	}
	if err != nil {
		return err
	}
	if err := h.wireHost(ctx, p, link.index); err != nil {
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
	return err == nil && !slices.ContainsFunc(p.ownedInSandbox(have).Routes, func(r Route) bool { return r.Link != p.sandboxEnd() })
}

// unwireNew takes away what a failed AddPod has made. If the address is another's,
// that is the link and what is on it, and nothing that only names the address.
func (h *Handle) unwireNew(ctx context.Context, p Pod, index int, err error) error {
	if !errors.Is(err, ErrAddressTaken) {
		return h.DelPod(ctx, p)
	}
	if err := h.withConn(ctx, func(c *conn) error { return setGroup(c, index, linkGroupEnding) }); err != nil {
		return err
	}
	return h.deleteLink(ctx, index)
}

// missing returns what of want is not in have.
func missing(have, want []Sysctl) []Sysctl {
	return slices.DeleteFunc(slices.Clone(want), func(s Sysctl) bool { return slices.Contains(have, s) })
}

// createVeth makes the pair and finds the numbers of both ends, in one system
// call.
func (h *Handle) createVeth(ctx context.Context, p Pod, sandbox *os.File) (link kernelLink, err error) {
	err = h.withConn(ctx, func(c *conn) error {
		var b batch
		b.createVeth(p, int(sandbox.Fd()))
		b.findLink(p.HostLink())
		answers, err := c.do(&b)
		if err != nil {
			return err
		}
		for _, a := range answers {
			if a.err != nil {
				return fmt.Errorf("create veth pair: %w", a.err)
			}
		}
		link, err = parseLink(answers[1].data)
		return err
	})
	return link, err
}

// wireSandbox sends everything for the sandbox side, whose handle h is, in one
// system call.
func (h *Handle) wireSandbox(ctx context.Context, p Pod, index int) error {
	return h.withConn(ctx, func(c *conn) error { return wireInside(c, h.ns, p, index) })
}

func wireInside(c *conn, sandbox *os.File, p Pod, index int) error {
	s := p.SandboxState()
	changes := Diff(State{}, State{Addresses: s.Addresses, Neighbors: s.Neighbors, Routes: s.Routes, Rules: s.Rules})
	refused, err := sendNew(c, changes, index)
	if err != nil {
		return err
	}
	off, err := ipv6Off(c, p)
	if err != nil || !off && len(refused) == 0 {
		return err
	}
	// The runtime has switched IPv6 off in the sandbox.
	if err := writeSysctls(sandbox, s.Sysctls); err != nil || len(refused) == 0 {
		return err
	}
	refused, err = sendNew(c, refused, index)
	if err == nil && len(refused) > 0 {
		err = fmt.Errorf("%s: %w", refused[0], unix.EACCES)
	}
	return err
}

// ipv6Off reports whether a pod that needs IPv6 on its loopback link has it off.
func ipv6Off(c *conn, p Pod) (bool, error) {
	if !p.speaks(true) {
		return false, nil
	}
	var b batch
	b.findLink("lo")
	answers, err := c.do(&b)
	if err != nil {
		return false, err
	}
	if answers[0].err != nil {
		return false, fmt.Errorf("find link lo: %w", answers[0].err)
	}
	lo, err := parseLink(answers[0].data)
	return len(missing(lo.sysctls, []Sysctl{enableIPv6("lo")})) > 0, err
}

// sendNew brings up one new link and adds its items. A route that is there
// already belongs to another interface of the sandbox, and is not replaced. It
// returns what the kernel refuses while IPv6 is off on the link.
func sendNew(c *conn, changes []Change, index int) (refused []Change, err error) {
	var b batch
	b.setLink(index, Link{Up: true})
	for _, ch := range changes {
		if r, ok := ch.Item.(Route); ok {
			b.route(OpAdd, index, r, create)
		} else {
			b.change(ch, index)
		}
	}
	answers, err := c.do(&b)
	if err != nil {
		return nil, err
	}
	if answers[0].err != nil {
		return nil, fmt.Errorf("set up: %w", answers[0].err)
	}
	for i, ch := range changes {
		err := answers[i+1].err
		switch {
		case err == nil || errors.Is(err, unix.EEXIST) && isRule(ch.Item):
		case isIPv6(ch.Item) && (len(refused) > 0 || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)):
			refused = append(refused, ch)
		default:
			return nil, fmt.Errorf("%s: %w", ch, err)
		}
	}
	return refused, nil
}

// isIPv6 reports whether an item that may be in a sandbox is of IPv6.
func isIPv6(i Item) bool {
	switch i := i.(type) {
	case Address:
		return i.Prefix.Addr().Is6()
	case Neighbor:
		return i.Addr.Is6()
	case Route:
		return i.Dst.Addr().Is6()
	case Rule:
		return i.IPv6
	}
	return false
}

func isRule(i Item) bool {
	_, ok := i.(Rule)
	return ok
}

// wireHost gives the host side all that belongs to it. First the link comes up and
// claims the addresses by its routes, which the kernel gives to one link only. Rules,
// which say nothing of their pod, follow when all addresses are the pod's.
func (h *Handle) wireHost(ctx context.Context, p Pod, index int) error {
	s := p.HostState()
	return h.withRules(ctx, s, func(c *conn) error {
		if err := claimHost(c, p, index, s); err != nil {
			return err
		}
		return settleHost(c, p, index, s)
	})
}

// claimHost sets the link up and adds its neighbours and routes.
func claimHost(c *conn, p Pod, index int, s State) error {
	if err := clearOther(c, p, index); err != nil {
		return err
	}
	var b batch
	b.lookAt(index)
	b.noLinkLocal(index)
	b.setLink(index, Link{Up: true})
	for _, n := range s.Neighbors {
		b.neighbor(OpAdd, index, n)
	}
	for _, r := range s.Routes {
		b.route(OpAdd, index, r, create)
	}
	answers, err := c.do(&b)
	if err != nil {
		return err
	}
	if err := stillWiring(answers[0]); err != nil {
		return err
	}
	if err := answers[2].err; err != nil {
		return fmt.Errorf("set %s up: %w", p.HostLink(), err)
	}
	for i, n := range s.Neighbors {
		if err := answers[3+i].err; err != nil {
			return fmt.Errorf("%s: %w", Change{OpAdd, n}, err)
		}
	}
	var contested []Route
	for i, r := range s.Routes {
		err := answers[3+len(s.Neighbors)+i].err
		switch {
		case errors.Is(err, unix.EEXIST):
			contested = append(contested, r)
		case err != nil:
			return fmt.Errorf("%s: %w", Change{OpAdd, r}, err)
		}
	}
	return claimRoutes(c, p, index, contested)
}

// errDeleted means that a DEL of the pod came while it was added.
var errDeleted = errors.New("the pod was deleted while it was added")

// stillWiring reports that a DEL is at work on the link that was looked at.
func stillWiring(a answer) error {
	if a.err != nil {
		return fmt.Errorf("look at link: %w", a.err)
	}
	if l, err := parseLinkOnly(a.data); err != nil || ending(l.Group) {
		return errors.Join(err, errDeleted)
	}
	return nil
}

// settleHost replaces rules of the addresses that an earlier pod has left, and then
// tells Watch that the pod is wired.
func settleHost(c *conn, p Pod, index int, s State) error {
	stale := staleRules(p)
	var b batch
	for _, r := range stale {
		b.rule(OpDelete, r)
	}
	for _, r := range s.Rules {
		b.rule(OpAdd, r)
	}
	answers, err := c.do(&b)
	if err != nil {
		return err
	}
	for i, r := range s.Rules {
		// A rule that is there again was made by Watch just now.
		if err := answers[len(stale)+i].err; err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("%s: %w", Change{OpAdd, r}, err)
		}
	}
	if slices.ContainsFunc(answers[:len(stale)], func(a answer) bool { return a.err == nil }) {
		// There was one: there may be more, and the new one may be gone.
		if err := purgeRules(c, stale, s.Rules); err != nil {
			return err
		}
	}
	return wired(c, index)
}

// wired ends the wiring of a link, unless a DEL has begun.
func wired(c *conn, index int) error {
	var look batch
	look.lookAt(index)
	answers, err := c.do(&look)
	if err != nil {
		return err
	}
	if err := stillWiring(answers[0]); err != nil {
		return err
	}
	return setGroup(c, index, 0)
}

// staleRules selects rules that an earlier pod may have left for p's addresses,
// in whatever table.
func staleRules(p Pod) []Rule {
	var rules []Rule
	for _, a := range p.Addrs {
		dst := hostPrefix(a.Addr)
		rules = append(rules,
			Rule{IPv6: a.Addr.Is6(), Priority: PriorityToPod, To: dst},
			Rule{IPv6: a.Addr.Is6(), Priority: PriorityFromPod, From: dst})
	}
	if p.Mode.Branch != nil {
		rules = append(append(rules, branchRules(p.HostLink())...), branchRules(p.Mode.Branch.Link())...)
	}
	return rules
}

// staleRoutes selects routes that an earlier pod may have left for p's addresses
// where p has none, as in the table of the other layout.
func staleRoutes(p Pod) []Route {
	wanted := map[routeKey]bool{}
	for _, r := range p.HostState().Routes {
		wanted[r.key()] = true
	}
	var routes []Route
	for _, a := range p.Addrs {
		for _, table := range []int{TablePods, TableMain} {
			if r := (Route{Dst: hostPrefix(a.Addr), Table: table, Protocol: RouteProtocol}); !wanted[r.key()] {
				routes = append(routes, r)
			}
		}
	}
	return routes
}

// purgeRules deletes all rules that match stale and adds those of keep.
func purgeRules(c *conn, stale, keep []Rule) error {
	for found := true; found; {
		var b batch
		for _, r := range stale {
			b.rule(OpDelete, r)
		}
		answers, err := c.do(&b)
		if err != nil {
			return err
		}
		found = false
		for i, a := range answers {
			if a.err != nil && !isGone(a.err) {
				return fmt.Errorf("delete rule %s: %w", stale[i], a.err)
			}
			found = found || a.err == nil
		}
	}
	var b batch
	for _, r := range keep {
		b.rule(OpAdd, r)
	}
	answers, err := c.do(&b)
	if err != nil {
		return err
	}
	for i, a := range answers {
		if a.err != nil && !errors.Is(a.err, unix.EEXIST) {
			return fmt.Errorf("add rule %s: %w", keep[i], a.err)
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
	if have.index != 0 && (have.Kind != "veth" || have.MAC != p.SandboxMAC().String()) {
		return false, fmt.Errorf("%w: %s with MAC %s", ErrInterfaceTaken, p.sandboxEnd(), have.MAC)
	}
	host, err := h.findLink(ctx, p.HostLink())
	if err != nil {
		return false, err
	}
	whole = have.index != 0 && host.peer == have.index && have.peer == host.index && host.MAC == p.HostMAC().String() && !ending(host.Group)
	if whole {
		return true, nil
	}
	for _, remains := range []struct {
		h    *Handle
		link kernelLink
	}{{h, host}, {inside, have}} {
		if remains.link.index == 0 {
			continue
		}
		if err := remains.h.deleteLink(ctx, remains.link.index); err != nil {
			return false, err
		}
	}
	return false, nil
}
