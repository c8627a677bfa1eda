// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/preflight"
	"golang.org/x/sys/unix"
)

// TestNetworkd runs the real systemd-networkd on a node while a pod on the second ENI
// sends packets. networkd starts and restarts, another ENI appears, and the pod's ENI
// loses its carrier for a moment. networkd must never delete anything of ours. It deletes
// the unprotected rule of another program unless the files of preflight forbid that.
func TestNetworkd(t *testing.T) {
	ours := preflight.Files(preflight.Config{Keep: []string{"ens5"}, Drivers: []string{"veth"}})
	for _, tt := range []struct {
		name             string
		files            []preflight.File
		watch, preflight bool
		// first says that networkd configures the pod's ENI before datapath does.
		first bool
	}{
		{name: "watched", files: asDHCP, watch: true},
		{name: "not watched", files: asDHCP},
		{name: "watched, after networkd", files: asDHCPOnBoth, watch: true, first: true},
		{name: "preflight", files: slices.Concat(asDHCP, ours), preflight: true},
	} {
		for _, layout := range layouts {
			t.Run(tt.name+" "+string(layout), func(t *testing.T) {
				r := newNetworkdRun(t, layout, tt.files, tt.first)
				if tt.watch {
					r.repairs = r.l.watch(r.p)
				}
				r.runSteps(tt.first)
				if exists := r.unprotectedRuleExists(); exists != tt.preflight {
					t.Errorf("the rule of protocol static exists: %t, want %t\n%s", exists, tt.preflight, r.n.log())
				}
				packets, lost := r.flow.unexplained(r.outages)
				t.Logf("%d packets, %d lost; %d repairs", len(r.flow.sent), lost, len(r.outages)-1)
				if len(packets) > 0 {
					t.Errorf("%d packets were lost outside of the outages, the first at %v\n%s", len(packets), packets[0], r.n.log())
				}
				if !eventually(func() bool { return len(r.l.drift(r.p)) == 0 }) {
					t.Errorf("drift at the end: %v\n%s", r.l.drift(r.p), r.n.log())
				}
			})
		}
	}
}

// networkdRun is one run of TestNetworkd, with one node.
type networkdRun struct {
	t       *testing.T
	l       *lab
	n       *networkd
	p       datapath.Pod
	flow    flow
	outages []outage
	repairs <-chan datapath.Repair
}

func newNetworkdRun(t *testing.T, layout datapath.Layout, files []preflight.File, first bool) *networkdRun {
	l := newLab(t, layout)
	r := &networkdRun{t: t, l: l, p: l.pod(1, "one")}
	in(t, l.node, func(h *netlink.Handle) error {
		rule := netlink.NewRule()
		rule.Priority, rule.Table, rule.Protocol = unprotectedPriority, 77, unix.RTPROT_STATIC
		return h.RuleAdd(rule)
	})
	r.n = newNetworkd(t, l, files)
	if first {
		r.n.start()
		r.n.waitLog("ens6: State changed: configuring -> configured")
	}
	l.ensure()
	l.add(r.p)
	return r
}

// unprotectedPriority is the priority of the rule that another program adds without
// protection from networkd: it does not have protocol kernel.
const unprotectedPriority = 700

// unprotectedRuleExists reports whether networkd has left that rule alone.
func (r *networkdRun) unprotectedRuleExists() (found bool) {
	in(r.t, r.l.node, func(h *netlink.Handle) error {
		rules, err := h.RuleList(netlink.FAMILY_V4)
		found = slices.ContainsFunc(rules, func(r netlink.Rule) bool { return r.Priority == unprotectedPriority })
		return err
	})
	return found
}

// runSteps runs all steps while the pod sends packets. Packets may be lost while the ENI
// has no carrier, and shortly after each repair of Watch. started says that networkd runs
// already.
func (r *networkdRun) runSteps(started bool) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { r.flow.run(r.t, r.p, r.p.Addrs[0].Addr, stop); close(done) }()
	repaired := collectOutages(r.t, r.repairs, stop)
	for _, step := range []struct {
		name string
		skip bool
		do   func()
	}{
		{"start", started, r.n.start},
		{"restart", started, func() { r.n.stop(); r.n.start() }},
		{"a new ENI", false, func() {
			r.l.AttachENI(2, testNode(r.l.n.Layout).ENIs[2])
			r.n.waitLog("ens7: Link state is up-to-date")
		}},
		{"carrier lost", false, func() {
			start := time.Now()
			r.l.interruptCarrier(r.l.n.ENIs[1].ID)
			r.outages = append(r.outages, outage{start: start, end: time.Now().Add(kernelBound)})
		}},
	} {
		if step.skip {
			continue
		}
		step.do()
		r.n.waitQuiet()
		if !eventually(func() bool { return len(r.ruleDrift()) == 0 }) {
			r.t.Errorf("drift of rules after %q: %v\n%s", step.name, r.ruleDrift(), r.n.log())
		}
	}
	close(stop)
	<-done
	r.outages = append(r.outages, <-repaired...)
}

// ruleDrift returns the part of the drift that concerns rules.
func (r *networkdRun) ruleDrift() []string {
	return slices.DeleteFunc(r.l.drift(r.p), func(c string) bool {
		return !strings.HasPrefix(c, "ip rule") && !strings.HasPrefix(c, "ip -6 rule")
	})
}

// collectOutages sends, after stop is closed, an outage for each repair until then.
func collectOutages(t *testing.T, repairs <-chan datapath.Repair, stop <-chan struct{}) <-chan []outage {
	all := make(chan []outage, 1)
	go func() {
		var outages []outage
		for {
			select {
			case f := <-repairs:
				t.Logf("repaired in %v: %v", f.Took, f.Changes)
				outages = append(outages, outage{start: time.Now().Add(-f.Took), end: time.Now().Add(repairBound)})
			case <-stop:
				all <- outages
				return
			}
		}
	}()
	return all
}

// drift returns the changes that [datapath.Desired.Drift] finds, one line for each.
func (l *lab) drift(pods ...datapath.Pod) []string {
	l.t.Helper()
	have, err := l.h.Observe(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	var lines []string
	for _, c := range (datapath.Desired{Node: *l.n, Pods: pods}).Drift(have) {
		lines = append(lines, strings.SplitN(c.String(), "\n", 2)[0])
	}
	return lines
}

// interruptCarrier takes the carrier of an ENI away for 200 ms. It sets the router's link
// to the ENI down and up again, and restores the addresses, routes and neighbours that
// the kernel deletes from a link that is down.
func (l *lab) interruptCarrier(id string) {
	l.t.Helper()
	in(l.t, l.router, func(h *netlink.Handle) error {
		link, err := h.LinkByName(l.RouterLink(id))
		if err != nil {
			return err
		}
		routes, err := h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: link.Attrs().Index, Scope: unix.RT_SCOPE_LINK}, netlink.RT_FILTER_OIF)
		if err != nil {
			return err
		}
		neighbors, err := h.NeighList(link.Attrs().Index, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		if err := h.LinkSetDown(link); err != nil {
			return err
		}
		<-time.After(200 * time.Millisecond)
		if err := h.LinkSetUp(link); err != nil {
			return err
		}
		if err := addAddr(h, link, "fe80:ec2::1/128"); err != nil {
			return err
		}
		for _, r := range routes {
			if r.Protocol == unix.RTPROT_KERNEL {
				continue
			}
			if err := h.RouteReplace(&r); err != nil {
				return fmt.Errorf("%v: %w", r, err)
			}
		}
		for _, n := range neighbors {
			if n.State&netlink.NUD_PERMANENT == 0 || n.IP.IsMulticast() {
				continue
			}
			if err := h.NeighSet(&n); err != nil {
				return fmt.Errorf("%v: %w", n, err)
			}
		}
		return nil
	})
}
