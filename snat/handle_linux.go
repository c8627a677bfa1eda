// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"context"

	"github.com/vpcnet/vpcnet/internal/nft"
)

// namespace is the table in one network namespace. It implements [system].
type namespace struct{ keeper *nft.Keeper }

func open(path string) (system, error) {
	k, err := nft.NewKeeper(nft.KeeperConfig{
		Path: path, Package: "snat", Table: tableName,
		Needs:  "nf_tables with fib, ct and nat for family inet (Linux 5.2)",
		Rights: "CAP_NET_ADMIN in the namespace is needed, and CAP_SYS_ADMIN to enter another one",
	})
	if err != nil {
		return nil, err
	}
	return &namespace{k}, nil
}

func (n *namespace) Close() error { return n.keeper.Close() }

func (n *namespace) Apply(ctx context.Context, r Ruleset) (changed bool, err error) {
	err = n.keeper.Exclusively(ctx, tableName, func(h *nft.Held) error {
		have, err := h.Read(ctx, tableName)
		if err != nil {
			return err
		}
		if have.Equal(r.table) {
			h.Record(r.table)
			return nil
		}
		changed = true
		return h.Replace(have, r.table)
	})
	return changed && err == nil, err
}

func (n *namespace) Observe(ctx context.Context) (r Ruleset, err error) {
	err = n.keeper.Exclusively(ctx, tableName, func(h *nft.Held) (err error) {
		r.table, err = h.Read(ctx, tableName)
		return err
	})
	return r, err
}

func (n *namespace) Edit(ctx context.Context, table string, edit func(have Ruleset) Ruleset) (changed bool, err error) {
	err = n.keeper.Exclusively(ctx, table, func(h *nft.Held) error {
		have, err := h.Read(ctx, table)
		if err != nil {
			return err
		}
		want := edit(Ruleset{have})
		if want.table.Equal(have) {
			return nil
		}
		changed = true
		return h.Change(have, want.table)
	})
	return changed && err == nil, err
}

func (n *namespace) Watch(ctx context.Context, cfg WatchConfig) error {
	shared := nft.WatchConfig{
		Subject: "translation", Logger: cfg.Logger, Every: cfg.Every, Exclusive: cfg.Exclusive,
		Desired: func() (nft.Table, bool) {
			r, ok := cfg.Desired()
			return r.table, ok
		},
		Differences: func(have, want nft.Table) (parts, texts []string) {
			all := differences(have, want)
			return partsOf(all), textsOf(all)
		},
	}
	if cfg.Repaired != nil {
		shared.Repaired = func(r nft.Repair) { cfg.Repaired(Repair(r)) }
	}
	return n.keeper.Watch(ctx, shared)
}
