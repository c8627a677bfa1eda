// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
)

// Handle works on our table in one network namespace, over netlink. It needs
// CAP_NET_ADMIN there and the kernel's nf_tables with nat for family inet (Linux
// 5.2). It is safe for concurrent use.
type Handle struct {
	mu   sync.Mutex
	conn *nftables.Conn
}

// Open returns a handle on the network namespace at path, on that of the calling
// thread if path is empty. The caller closes it.
func Open(path string) (*Handle, error) {
	options := []nftables.ConnOption{nftables.AsLasting()}
	if path != "" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("snat: %w", err)
		}
		defer f.Close()
		options = append(options, nftables.WithNetNSFd(int(f.Fd())))
	}
	conn, err := nftables.New(options...)
	if err != nil {
		return nil, fmt.Errorf("snat: open nftables: %w", err)
	}
	return &Handle{conn: conn}, nil
}

// Close lets go of the namespace and leaves the rules as they are.
func (h *Handle) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conn.CloseLasting()
}

// Apply makes the table hold r, in one transaction. It changes nothing if that
// is so already, and reports whether it changed something. Flows that exist keep
// their translation and their mark.
func (h *Handle) Apply(ctx context.Context, r Ruleset) (changed bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	have, err := h.observe(ctx)
	if err != nil {
		return false, err
	}
	if have.Equal(r) {
		return false, nil
	}
	if err := h.replace(r); err != nil {
		return false, fmt.Errorf("snat: replace table inet %s: %w", Table, err)
	}
	return true, nil
}

// Remove deletes the table. It is no error if there is none.
func (h *Handle) Remove(ctx context.Context) error {
	_, err := h.Apply(ctx, Ruleset{})
	return err
}

// replace deletes the table and makes it anew in the same batch: no packet sees
// anything but the old or the new rules.
func (h *Handle) replace(r Ruleset) error {
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: Table}
	h.conn.AddTable(t) // so that there is one to delete
	h.conn.DelTable(t)
	if r.empty() {
		return h.conn.Flush()
	}
	h.conn.AddTable(t)
	sets := map[string]*nftables.Set{}
	for _, s := range r.sets {
		sets[s.name] = &nftables.Set{Table: t, Name: s.name, KeyType: nftables.TypeIPAddr, Interval: true}
		if err := h.conn.AddSet(sets[s.name], intervals(s.prefixes)); err != nil {
			return err
		}
	}
	for _, c := range r.chains {
		k := h.conn.AddChain(&nftables.Chain{
			Table: t, Name: c.name, Type: nftables.ChainType(c.kind),
			Hooknum: hookNumbers[c.hook], Priority: nftables.ChainPriorityRef(nftables.ChainPriority(c.priority)),
		})
		for _, r := range c.rules {
			added := &nftables.Rule{Table: t, Chain: k}
			for _, s := range r.stmts {
				added.Exprs = append(added.Exprs, compile(s, sets)...)
			}
			if r.comment != "" {
				added.UserData = userdata.AppendString(nil, userdata.TypeComment, r.comment)
			}
			h.conn.AddRule(added)
		}
	}
	return h.conn.Flush()
}

// hookNumbers gives each hook in use its number.
var hookNumbers = map[string]*nftables.ChainHook{
	hookPrerouting:  nftables.ChainHookPrerouting,
	hookPostrouting: nftables.ChainHookPostrouting,
}

// Observe reads the table; an absent one is an empty Ruleset. What is in the
// table and not of our kind shows up as a comment in the text, and makes the
// Ruleset unequal to any that a Config gives.
func (h *Handle) Observe(ctx context.Context) (Ruleset, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.observe(ctx)
}

func (h *Handle) observe(ctx context.Context) (Ruleset, error) {
	if err := ctx.Err(); err != nil {
		return Ruleset{}, err
	}
	r, err := h.read()
	if err != nil {
		return Ruleset{}, fmt.Errorf("snat: read table inet %s: %w", Table, err)
	}
	return r, nil
}

func (h *Handle) read() (r Ruleset, err error) {
	tables, err := h.conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return r, err
	}
	i := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == Table })
	if i < 0 {
		return r, nil
	}
	if r.sets, err = h.readSets(tables[i]); err != nil {
		return r, err
	}
	chains, err := h.conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return r, err
	}
	for _, k := range chains {
		if k.Table.Name != Table {
			continue
		}
		c, err := h.readChain(tables[i], k)
		if err != nil {
			return r, err
		}
		r.chains = append(r.chains, c)
	}
	if tables[i].Flags != 0 {
		r.chains = append(r.chains, chain{odd: fmt.Sprintf("the table has flags %#x", tables[i].Flags)})
	}
	return r, nil
}

func (h *Handle) readSets(t *nftables.Table) (all []set, err error) {
	sets, err := h.conn.GetSets(t)
	if err != nil {
		return nil, err
	}
	for _, s := range sets {
		elements, err := h.conn.GetSetElements(s)
		if err != nil {
			return nil, err
		}
		read := set{name: s.Name}
		if s.KeyType.Name != nftables.TypeIPAddr.Name || !s.Interval || s.Constant || s.IsMap || s.Dynamic || s.HasTimeout {
			read.odd = "of another type"
		} else if read.prefixes, err = prefixes(elements); err != nil {
			read.odd = err.Error()
		}
		all = append(all, read)
	}
	return all, nil
}

func (h *Handle) readChain(t *nftables.Table, k *nftables.Chain) (c chain, err error) {
	c = chain{name: k.Name, kind: string(k.Type)}
	if k.Hooknum == nil || k.Priority == nil {
		c.odd = "not on a hook"
	} else {
		c.priority = int(*k.Priority)
		c.odd = "on another hook"
		for name, n := range hookNumbers {
			if *n == *k.Hooknum {
				c.hook, c.odd = name, ""
			}
		}
	}
	if k.Policy != nil && *k.Policy != nftables.ChainPolicyAccept {
		c.odd = "policy drop"
	}
	rules, err := h.conn.GetRules(t, k)
	if err != nil {
		return c, errors.Join(err, fmt.Errorf("rules of chain %s", k.Name))
	}
	for _, r := range rules {
		comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
		c.rules = append(c.rules, rule{stmts: decompile(r.Exprs), comment: comment})
	}
	return c, nil
}
