// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"maps"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// Observe: see [Handle.Observe].
func (h *kernel) Observe(ctx context.Context) (netstate.State, error) {
	o, err := h.observe(ctx)
	return o.State, err
}

func (h *kernel) observe(ctx context.Context) (o rtnl.Observation, err error) {
	err = h.withConn(ctx, func(c *rtnl.Conn) error {
		o, err = c.Observe()
		return err
	})
	if err != nil {
		return o, err
	}
	sysctls, err := rtnl.ReadSysctls(h.ns)
	if err != nil {
		return o, err
	}
	o.Sysctls = append(o.Sysctls, sysctls...)
	if o.Filter, err = h.observeFilter(ctx); err != nil {
		return o, err
	}
	if o.Flows, err = h.observeFlows(ctx); err != nil {
		return o, err
	}
	o.Sort()
	return o, nil
}

// observeSettled is observe. It also returns the names of the links that were created
// or deleted meanwhile, or that an AddPod or DelPod was working on: the observation may
// have only some of the objects of their pods.
func (h *kernel) observeSettled(ctx context.Context) (o rtnl.Observation, unsettled map[string]bool, err error) {
	if o, err = h.observe(ctx); err != nil {
		return o, nil, err
	}
	type identity struct{ index, group int }
	unsettled = map[string]bool{}
	before := map[string]identity{}
	for _, l := range o.Indexed {
		before[l.Name] = identity{l.Index, l.Group}
	}
	err = h.withConn(ctx, func(c *rtnl.Conn) error {
		return c.EachLink(func(l rtnl.Link) {
			unsettled[l.Name] = before[l.Name] != identity{l.Index, l.Group}
			delete(before, l.Name)
		})
	})
	maps.DeleteFunc(unsettled, func(_ string, changed bool) bool { return !changed })
	for name := range before {
		unsettled[name] = true
	}
	return o, unsettled, err
}
