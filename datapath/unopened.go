// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"
	"net/netip"
	"os"

	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// errUnopened is the error of a Handle that is closed or was not made by Open.
var errUnopened = fmt.Errorf("datapath: the Handle is closed, or was not opened by Open: %w", os.ErrClosed)

// opened is the system of a Handle. Its methods return errUnopened if it is empty.
type opened struct{ impl system }

var _ system = (*opened)(nil)

func (o *opened) Close() error {
	s := o.impl
	if s == nil {
		return errUnopened
	}
	o.impl = nil
	return s.Close()
}

func (o *opened) Observe(ctx context.Context) (netstate.State, error) {
	if o.impl == nil {
		return netstate.State{}, errUnopened
	}
	return o.impl.Observe(ctx)
}

func (o *opened) Apply(ctx context.Context, changes []netstate.Change) error {
	if o.impl == nil {
		return errUnopened
	}
	return o.impl.Apply(ctx, changes)
}

func (o *opened) EnsureNode(ctx context.Context, n Node) error {
	if o.impl == nil {
		return errUnopened
	}
	return o.impl.EnsureNode(ctx, n)
}

func (o *opened) Ensure(ctx context.Context, d Desired) error {
	if o.impl == nil {
		return errUnopened
	}
	return o.impl.Ensure(ctx, d)
}

func (o *opened) RemoveENI(ctx context.Context, n Node, id string) error {
	if o.impl == nil {
		return errUnopened
	}
	return o.impl.RemoveENI(ctx, n, id)
}

func (o *opened) AddPod(ctx context.Context, p Pod) (Wiring, error) {
	if o.impl == nil {
		return Wiring{}, errUnopened
	}
	return o.impl.AddPod(ctx, p)
}

func (o *opened) DelPod(ctx context.Context, p Pod) error {
	if o.impl == nil {
		return errUnopened
	}
	return o.impl.DelPod(ctx, p)
}

func (o *opened) RetirePod(ctx context.Context, p Pod) error {
	if o.impl == nil {
		return errUnopened
	}
	return o.impl.RetirePod(ctx, p)
}

func (o *opened) CheckPod(ctx context.Context, p Pod) error {
	if o.impl == nil {
		return errUnopened
	}
	return o.impl.CheckPod(ctx, p)
}

func (o *opened) Sweep(ctx context.Context) error {
	if o.impl == nil {
		return errUnopened
	}
	return o.impl.Sweep(ctx)
}

func (o *opened) Watch(ctx context.Context, cfg WatchConfig) error {
	if o.impl == nil {
		return errUnopened
	}
	return o.impl.Watch(ctx, cfg)
}

func (o *opened) InUse(ctx context.Context, within []netip.Prefix) ([]Use, error) {
	if o.impl == nil {
		return nil, errUnopened
	}
	return o.impl.InUse(ctx, within)
}

func (o *opened) LookupAddrs(ctx context.Context, addrs []netip.Addr) ([]Use, error) {
	if o.impl == nil {
		return nil, errUnopened
	}
	return o.impl.LookupAddrs(ctx, addrs)
}

func (o *opened) HostLinks(ctx context.Context) (map[string]bool, error) {
	if o.impl == nil {
		return nil, errUnopened
	}
	return o.impl.HostLinks(ctx)
}

func (o *opened) Accelerates(ctx context.Context) error {
	if o.impl == nil {
		return errUnopened
	}
	return o.impl.Accelerates(ctx)
}

func (o *opened) Limit(ctx context.Context, desired func() Desired) error {
	if o.impl == nil {
		return errUnopened
	}
	return o.impl.Limit(ctx, desired)
}

func (o *opened) AdoptPod(ctx context.Context, p Pod, link string) error {
	if o.impl == nil {
		return errUnopened
	}
	return o.impl.AdoptPod(ctx, p, link)
}

func (o *opened) DisownPod(ctx context.Context, p Pod) error {
	if o.impl == nil {
		return errUnopened
	}
	return o.impl.DisownPod(ctx, p)
}

func (o *opened) RenameLink(ctx context.Context, from, to string) error {
	if o.impl == nil {
		return errUnopened
	}
	return o.impl.RenameLink(ctx, from, to)
}

func (o *opened) Links(ctx context.Context) ([]netstate.Link, error) {
	if o.impl == nil {
		return nil, errUnopened
	}
	return o.impl.Links(ctx)
}
