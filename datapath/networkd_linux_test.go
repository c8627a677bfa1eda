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

// TestNetworkd runs the real systemd-networkd against a node while a pod on the
// second ENI talks: it starts, restarts, a further ENI appears, and the pod's ENI
// loses its carrier for a moment. It deletes the careless rule of another program
// unless the files of preflight forbid that, and nothing of ours in any case.
func TestNetworkd(t *testing.T) {
	ours := preflight.Files(preflight.Config{Keep: []string{"ens5"}, Drivers: []string{"veth"}})
	for _, tt := range []struct {
		name             string
		files            []preflight.File
		watch, preflight bool
		// first means that networkd has configured the pod's ENI before us.
		first bool
	}{
		{name: "watched", files: asDHCP, watch: true},
		{name: "not watched", files: asDHCP},
		{name: "watched, after networkd", files: answered, watch: true, first: true},
		{name: "preflight", files: slices.Concat(asDHCP, ours), preflight: true},
	} {
		for _, layout := range layouts {
			t.Run(tt.name+" "+string(layout), func(t *testing.T) {
				r := newNetworkdRun(t, layout, tt.files, tt.first)
				if tt.watch {
					r.repairs = r.l.watch(r.p)
				}
				r.all(tt.first)
				if kept := r.decoy(); kept != tt.preflight {
					t.Errorf("networkd kept a rule of protocol static: %t, want %t\n%s", kept, tt.preflight, r.n.log())
				}
				packets, lost := r.flow.unexplained(r.damaged)
				t.Logf("%d packets, %d lost; %d repairs", len(r.flow.sent), lost, len(r.damaged)-1)
				if len(packets) > 0 {
					t.Errorf("%d packets were lost though nothing was damaged, the first at %v\n%s", len(packets), packets[0], r.n.log())
				}
				if !eventually(func() bool { return len(r.l.drift(r.p)) == 0 }) {
					t.Errorf("in the end this is missing: %v\n%s", r.l.drift(r.p), r.n.log())
				}
			})
		}
	}
}

// networkdRun is what TestNetworkd does to one node.
type networkdRun struct {
	t       *testing.T
	l       *lab
	n       *networkd
	p       datapath.Pod
	flow    flow
	damaged []blow
	repairs <-chan datapath.Repair
}

func newNetworkdRun(t *testing.T, layout datapath.Layout, files []preflight.File, first bool) *networkdRun {
	l := newLab(t, layout)
	r := &networkdRun{t: t, l: l, p: l.pod(1, "one")}
	in(t, l.node, func(h *netlink.Handle) error {
		rule := netlink.NewRule()
		rule.Priority, rule.Table, rule.Protocol = decoyPriority, 77, unix.RTPROT_STATIC
		return h.RuleAdd(rule)
	})
	r.n = newNetworkd(t, l, files)
	if first {
		r.n.start()
		r.n.says("ens6: State changed: configuring -> configured")
	}
	l.ensure()
	l.add(r.p)
	return r
}

// decoyPriority is that of a rule that a careless program would make.
const decoyPriority = 700

// decoy reports whether the careless rule is still there.
func (r *networkdRun) decoy() (found bool) {
	in(r.t, r.l.node, func(h *netlink.Handle) error {
		rules, err := h.RuleList(netlink.FAMILY_V4)
		found = slices.ContainsFunc(rules, func(r netlink.Rule) bool { return r.Priority == decoyPriority })
		return err
	})
	return found
}

// all does every step while the pod talks. Packets may be lost while there is no
// carrier, and for a moment after something that Watch repaired.
func (r *networkdRun) all(started bool) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { r.flow.run(r.t, r.p, r.p.Addrs[0].Addr, stop); close(done) }()
	repaired := collect(r.t, r.repairs, stop)
	for _, step := range []struct {
		name string
		skip bool
		do   func()
	}{
		{"start", started, r.n.start},
		{"restart", started, func() { r.n.stop(); r.n.start() }},
		{"a new ENI", false, func() {
			in(r.t, r.l.vpc, func(h *netlink.Handle) error { return r.l.attach(h, 2, testNode(r.l.n.Layout).ENIs[2]) })
			r.n.says("ens7: Link state is up-to-date")
		}},
		{"carrier lost", false, func() {
			start := time.Now()
			r.l.bounce(1)
			r.damaged = append(r.damaged, blow{at: start, end: time.Now().Add(kernelBound)})
		}},
	} {
		if step.skip {
			continue
		}
		step.do()
		r.n.quiet()
		if !eventually(func() bool { return len(r.rulesMissing()) == 0 }) {
			r.t.Errorf("after %q: %v\n%s", step.name, r.rulesMissing(), r.n.log())
		}
	}
	close(stop)
	<-done
	r.damaged = append(r.damaged, <-repaired...)
}

// rulesMissing returns what is missing or wrong of our rules.
func (r *networkdRun) rulesMissing() []string {
	return slices.DeleteFunc(r.l.drift(r.p), func(c string) bool {
		return !strings.HasPrefix(c, "ip rule") && !strings.HasPrefix(c, "ip -6 rule")
	})
}

// collect returns a blow for each repair until stop.
func collect(t *testing.T, repairs <-chan datapath.Repair, stop <-chan struct{}) <-chan []blow {
	all := make(chan []blow, 1)
	go func() {
		var blows []blow
		for {
			select {
			case f := <-repairs:
				t.Logf("repaired in %v: %v", f.Took, f.Changes)
				blows = append(blows, blow{at: time.Now().Add(-f.Took), end: time.Now().Add(repairBound)})
			case <-stop:
				all <- blows
				return
			}
		}
	}()
	return all
}

// drift returns what is missing or wrong of ours.
func (l *lab) drift(pods ...datapath.Pod) []string {
	l.t.Helper()
	have, err := l.h.Observe(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	var words []string
	for _, c := range (datapath.Desired{Node: l.n, Pods: pods}).Drift(have) {
		words = append(words, strings.SplitN(c.String(), "\n", 2)[0])
	}
	return words
}

// bounce takes the carrier of ENI i away for a moment: it sets the VPC's end of it
// down, and gives it back what the kernel forgets of a link that is down.
func (l *lab) bounce(i int) {
	l.t.Helper()
	in(l.t, l.vpc, func(h *netlink.Handle) error {
		link, err := h.LinkByName(fmt.Sprintf("v%d", i))
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
