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
// neighbours on both sides, and in the per-pod layout its rules. Whatever an
// earlier pod of the same address left behind goes. Repeating it gives the same
// answer and repairs what differs. If it fails it leaves nothing behind; if it is
// killed, the next AddPod or DelPod finds what there is. ErrNoSandbox and
// ErrInterfaceTaken come from the sandbox.
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
			err = errors.Join(err, h.DelPod(undo, p))
		}
	}()
	if err := writeSysctls(h.ns, missing(link.sysctls, p.HostState().Sysctls)); err != nil {
		return err
	}
	if err := inside.wireSandbox(ctx, p, link.peer); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	if err := h.wireHost(ctx, p, link.index); err != nil {
		return err
	}
	err = h.waitPair(ctx, inside, link)
	done = err == nil
	return err
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

// wireHost sends everything for the host side in one system call: the link up,
// old rules of the same addresses away, then neighbours, routes and rules.
func (h *Handle) wireHost(ctx context.Context, p Pod, index int) error {
	s := p.HostState()
	changes := Diff(State{}, State{Neighbors: s.Neighbors, Routes: s.Routes, Rules: s.Rules})
	stale, others := staleRules(p), staleRoutes(p)
	onNode := false
	err := h.withRules(ctx, s, func(c *conn) error {
		var b batch
		b.noLinkLocal(index)
		b.setLink(index, Link{Up: true})
		for _, r := range stale {
			b.rule(OpDelete, r)
		}
		for _, ch := range changes {
			b.change(ch, index)
		}
		for _, r := range others {
			b.route(OpDelete, 0, r, 0)
		}
		asked := len(b.starts)
		b.whereIs(p)
		answers, err := c.do(&b)
		if err != nil {
			return err
		}
		if err := answers[1].err; err != nil {
			return fmt.Errorf("set %s up: %w", p.HostLink(), err)
		}
		onNode = areLocal(answers[asked:])
		first := 2 + len(stale)
		for i, ch := range changes {
			// A rule that is there again was made by Watch just now.
			if err := answers[first+i].err; err != nil && !(errors.Is(err, unix.EEXIST) && isRule(ch.Item)) {
				return fmt.Errorf("%s: %w", ch, err)
			}
		}
		for i := range stale {
			if answers[2+i].err == nil {
				// There was one: there may be more, and the new one may be gone.
				return purgeRules(c, stale, s.Rules)
			}
		}
		return nil
	})
	if err != nil || !onNode {
		return err
	}
	return h.repairHost(ctx, p)
}

// whereIs asks for the routes to p's addresses. Other programs, as DHCP clients, may
// have given them to links of the node, which then takes the pod's packets for its
// own.
func (b *batch) whereIs(p Pod) {
	for _, a := range p.Addrs {
		b.routeGet(query{dst: a.Addr}, 0)
	}
}

// areLocal reports whether an address asked for is the node's own.
func areLocal(answers []answer) bool {
	const routeType = 7 // its place in struct rtmsg
	return slices.ContainsFunc(answers, func(a answer) bool {
		return len(a.data) > routeType && a.data[routeType] == unix.RTN_LOCAL
	})
}

// evict takes p's addresses from the node's own links.
func (h *Handle) evict(ctx context.Context, p Pod) error {
	onNode := false
	err := h.withConn(ctx, func(c *conn) error {
		var b batch
		b.whereIs(p)
		answers, err := c.do(&b)
		onNode = areLocal(answers)
		return err
	})
	if err != nil || !onNode {
		return err
	}
	return h.repairHost(ctx, p)
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
