// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/nft"
)

// flows is what a kernel knows of the table of accelerated flows.
type flows struct {
	mu sync.Mutex
	// known means that the table has the links of pods, and no others; another process may have
	// made it before.
	known bool
	pods  map[podKey]bool
}

// observeFlows reads the table of accelerated flows.
func (h *kernel) observeFlows(ctx context.Context) (netstate.Flows, error) {
	t, err := h.nft.Table(ctx, netstate.FlowsTable)
	return netstate.FlowsOf(t), err
}

// applyFlows makes the table f, or deletes it. All accelerated flows continue by the usual
// way until their next packet but one.
func (h *kernel) applyFlows(ctx context.Context, op netstate.Op, f netstate.Flows) error {
	if op == netstate.OpDelete {
		f = netstate.Flows{}
	}
	h.flows.mu.Lock()
	defer h.flows.mu.Unlock()
	return h.changeFlows(ctx, f)
}

// applyFlowLinks adds links to the table and takes links out.
func (h *kernel) applyFlowLinks(ctx context.Context, changes []netstate.Change) error {
	h.flows.mu.Lock()
	defer h.flows.mu.Unlock()
	f, err := h.observeFlows(ctx)
	if err != nil {
		return err
	}
	for _, c := range changes {
		l := c.Item.(netstate.FlowLink)
		f.Links = slices.DeleteFunc(f.Links, func(o netstate.FlowLink) bool { return o.Name == l.Name && o.ENI == l.ENI })
		if c.Op == netstate.OpAdd {
			f.Links = append(f.Links, l)
		}
	}
	return h.changeFlows(ctx, f)
}

// isFlowLink reports whether an item is a link of the table of accelerated flows.
func isFlowLink(i netstate.Item) bool {
	_, link := i.(netstate.FlowLink)
	return link
}

// changeFlows makes the table want. A link that is taken out, and still exists, ends all
// accelerated flows: package nft makes the table again. The caller holds the mutex.
func (h *kernel) changeFlows(ctx context.Context, want netstate.Flows) error {
	h.flows.known = false
	have, err := h.nft.Table(ctx, netstate.FlowsTable)
	if err != nil {
		return err
	}
	err = h.nft.Change(have, want.Table())
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) && !have.IsEmpty() {
		return fmt.Errorf("table inet %s: a link was deleted meanwhile: %w", netstate.FlowsTable, err)
	}
	return explainFlows(err)
}

// explainFlows adds to the error of a transaction which parts of the kernel the table needs.
func explainFlows(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("table inet %s: %w", netstate.FlowsTable,
		nft.ExplainReplace(err, "flowtables for family inet (modules nft_flow_offload and nf_flow_table_inet)"))
}

// Accelerates: see [Handle.Accelerates].
func (h *kernel) Accelerates(context.Context) error {
	probe := Node{Accelerate: true}.flows().Table()
	probe.Name += "-probe"
	return explainFlows(h.nft.Try(probe))
}

// Limit: see [Handle.Limit].
func (h *kernel) Limit(ctx context.Context, desired func() Desired) error {
	h.flows.mu.Lock()
	defer h.flows.mu.Unlock()
	d := desired()
	if !d.Node.Accelerate {
		return nil
	}
	limited := d.limited()
	if h.flows.known && !slices.ContainsFunc(d.Pods, func(p Pod) bool { return h.flows.pods[p.key()] && limited(p) }) {
		return nil
	}
	return h.accelerate(ctx, d, true)
}

// acceleratePods makes the table have the links of the pods that are to be accelerated. The
// chains of the table and the links of ENIs are those of the node, see [Node.State].
func (h *kernel) acceleratePods(ctx context.Context, desired func() Desired) error {
	h.flows.mu.Lock()
	defer h.flows.mu.Unlock()
	d := desired()
	if !d.Node.Accelerate {
		return nil
	}
	return h.accelerate(ctx, d, false)
}

// accelerate is acceleratePods for a caller that holds the mutex. It repeats what a link that
// ends meanwhile has stopped. With end, all accelerated flows end.
func (h *kernel) accelerate(ctx context.Context, d Desired, end bool) error {
	h.flows.known = false
	var errs []error
	for range rounds {
		links, err := h.Links(ctx)
		if err != nil {
			return err
		}
		have, err := h.nft.Table(ctx, netstate.FlowsTable)
		if err != nil {
			return err
		}
		pods := d.accelerated(links)
		if !isFlows(have) { // the node's part is missing, and Watch makes it first
			pods = nil
			if !have.IsEmpty() {
				err = h.nft.Change(have, netstate.Flows{}.Table())
			}
		} else if want, again := withPods(have, pods, links); again || end {
			err = h.nft.Change(nft.Table{}, want)
		} else {
			err = h.nft.Change(have, want)
		}
		if err == nil {
			h.flows.known, h.flows.pods = true, map[podKey]bool{}
			for _, key := range pods {
				h.flows.pods[key] = true
			}
			return nil
		}
		if errs = append(errs, explainFlows(err)); ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// isFlows reports whether a table has the parts that a table of accelerated flows has.
func isFlows(t nft.Table) bool {
	sets := 0
	for _, s := range t.Sets {
		if (s.Name == netstate.FlowPods || s.Name == netstate.FlowENIs) && s.Foreign == "" && s.Kind == nft.Links && !s.IsMap {
			sets++
		}
	}
	return sets == len(t.Sets) && sets == 2 && len(t.Flowtables) == 1 && t.Flowtables[0].Name == netstate.Flowtable && t.Flowtables[0].Foreign == ""
}

// withPods returns the table with the links of these pods instead of those that it has, and
// whether it loses a link that exists. Then the table must be made again, which ends all
// accelerated flows. A link that was deleted, or that RetirePod has set down and renamed, has
// no flow any more. The flowtable has a retired link under its new name until it is deleted.
func withPods(have nft.Table, pods map[string]podKey, links []netstate.Link) (want nft.Table, again bool) {
	exists := map[string]bool{}
	for _, l := range links {
		exists[l.Name] = true
	}
	named := map[string]bool{} // by the sets of the table, before or after
	want = have
	want.Sets, want.Flowtables = slices.Clone(have.Sets), slices.Clone(have.Flowtables)
	var hooked []string
	for i, s := range want.Sets {
		for _, e := range s.Elements {
			_, stays := pods[e.Link]
			stays = stays || s.Name == netstate.FlowENIs
			again = again || !stays && (exists[e.Link] || slices.Contains(have.Flowtables[0].Links, e.Link))
			named[e.Link] = true
			if s.Name == netstate.FlowENIs && exists[e.Link] {
				hooked = append(hooked, e.Link)
			}
		}
		if s.Name == netstate.FlowPods {
			want.Sets[i].Elements = nil
			for _, name := range slices.Sorted(maps.Keys(pods)) {
				want.Sets[i].Elements = append(want.Sets[i].Elements, nft.Element{Link: name})
				hooked, named[name] = append(hooked, name), true
			}
		}
	}
	for _, name := range have.Flowtables[0].Links {
		if !named[name] {
			hooked = append(hooked, name)
		}
	}
	want.Flowtables[0].Links = hooked
	return want, again
}
