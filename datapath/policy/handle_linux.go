// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/internal/nft"
)

// namespace is the table in one network namespace. It implements [system].
type namespace struct {
	keeper *nft.Keeper
	// plain makes tables without an owner, as on kernels that have no owners. Its users hold
	// the keeper.
	plain bool
}

func open(path string) (system, error) {
	k, err := nft.NewKeeper(nft.KeeperConfig{
		Path: path, Package: "policy", Table: tableName,
		Needs:  "nf_tables with ct and concatenated intervals for family inet (Linux 5.6)",
		Rights: "CAP_NET_ADMIN in the namespace is needed, CAP_SYS_ADMIN to enter another one, and that no other process owns the table",
	})
	if err != nil {
		return nil, err
	}
	return &namespace{keeper: k}, nil
}

func (n *namespace) Close() error { return n.keeper.Close() }

func (n *namespace) Apply(ctx context.Context, s State) (changed bool, err error) {
	if err := s.validate(); err != nil {
		return false, err
	}
	err = n.keeper.Exclusively(ctx, tableName, func(h *nft.Held) error {
		have, ok := h.Applied()
		if !ok { // before the first time it is the kernel's
			if have, err = h.Read(ctx, tableName); err != nil {
				return err
			}
		}
		if !have.IsEmpty() && !have.Owned { // made on this kernel, which has no owners
			n.plain = true
		}
		want := s.table()
		want.Owned = !n.plain
		if changed = nft.Differ(have, want); !changed {
			h.Record(want)
			return nil
		}
		return n.change(ctx, h, have, want)
	})
	return changed && err == nil, err
}

// change makes the table want, which is have.
//
// New chains come first, in a transaction of their own. The kernel chooses the old or the
// new rules for a packet when the packet enters the hook, but looks in a map for elements
// that are valid at the time of the lookup: a packet that meets the end of the transaction
// could find the way to a new chain and pass through the old form of it, which is empty.
func (n *namespace) change(ctx context.Context, h *nft.Held, have, want nft.Table) error {
	_, known := h.Applied()
	if between := prepared(have, want); !have.IsEmpty() && nft.Differ(have, between) {
		if err := h.Replace(have, between); err != nil {
			return err
		}
		have, known = between, true
	}
	if err := h.Change(have, want); err != nil {
		return err
	}
	if want.Owned && !known {
		// The kernel may have no owners of tables.
		t, err := h.Read(ctx, tableName)
		if err != nil {
			return err
		}
		want.Owned, n.plain = t.Owned, !t.Owned
	}
	h.Record(want)
	return nil
}

// prepared returns have with the chains and sets that only want has.
func prepared(have, want nft.Table) nft.Table {
	t := have
	t.Owned, t.Orphan = want.Owned, false
	t.Chains, t.Sets = slices.Clone(have.Chains), slices.Clone(have.Sets)
	for _, k := range want.Chains {
		if !slices.ContainsFunc(have.Chains, func(h nft.Chain) bool { return h.Name == k.Name }) {
			t.Chains = append(t.Chains, k)
		}
	}
	for _, s := range want.Sets {
		if !slices.ContainsFunc(have.Sets, func(h nft.Set) bool { return h.Name == s.Name }) {
			if s.IsMap {
				s.Elements = nil
			}
			t.Sets = append(t.Sets, s)
		}
	}
	return t
}

func (n *namespace) Observe(ctx context.Context) (s State, ours bool, err error) {
	err = n.keeper.Exclusively(ctx, tableName, func(h *nft.Held) error {
		t, err := h.Read(ctx, tableName)
		if err == nil {
			s, ours = stateOf(t)
		}
		return err
	})
	return s, ours, err
}

func (n *namespace) Remove(ctx context.Context) error {
	return n.keeper.Exclusively(ctx, tableName, func(h *nft.Held) error {
		have, err := h.Read(ctx, tableName)
		none := nft.Table{Name: tableName}
		switch {
		case err != nil:
			return err
		case have.IsEmpty():
			h.Record(none)
			return nil
		}
		return h.Replace(have, none)
	})
}

func (n *namespace) Watch(ctx context.Context, cfg WatchConfig) error {
	shared := nft.WatchConfig{
		Subject: "policies", Logger: cfg.Logger, Every: cfg.Every, Desired: n.keeper.Applied,
		Differences: func(have, want nft.Table) (parts, texts []string) {
			return []string{tableName}, []string{shortened(nft.Diff(have, want))}
		},
	}
	if cfg.Repaired != nil {
		shared.Repaired = func(r nft.Repair) {
			cfg.Repaired(Repair{Changes: r.Changes[0], Took: r.Took, By: r.By, Fighting: r.Fighting, Err: r.Err})
		}
	}
	return n.keeper.Watch(ctx, shared)
}

func (n *namespace) Denied() ([]Denied, error) {
	counts, err := n.keeper.Counts()
	var all []Denied
	at := map[Denied]int{}
	for _, chain := range slices.Sorted(maps.Keys(counts)) {
		w, class, ok := wayOf(chain)
		if !ok {
			continue
		}
		d := Denied{Class: class, Direction: w.direction}
		i, ok := at[d]
		if !ok {
			i = len(all)
			at[d], all = i, append(all, d)
		}
		all[i].Packets += counts[chain]
	}
	slices.SortStableFunc(all, func(a, b Denied) int { return strings.Compare(a.Class, b.Class) })
	return all, err
}

func (n *namespace) Denials(ctx context.Context, f func(Denial)) error {
	return n.keeper.Listen(ctx, logGroup, func(l nft.Logged) {
		if d, ok := denialOf(l.Prefix, l.Packet); ok {
			f(d)
		}
	})
}

// shortened returns the first commands of a script.
func shortened(script string) string {
	const most = 400
	if len(script) <= most {
		return strings.TrimSpace(script)
	}
	return strings.TrimSpace(script[:most]) + " …"
}
