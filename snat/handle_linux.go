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
	"github.com/vpcnet/vpcnet/internal/nft"
	"golang.org/x/sys/unix"
)

// Handle works on our table in one network namespace, over netlink. It needs
// CAP_NET_ADMIN there, CAP_SYS_ADMIN to enter another one, and a kernel with
// nf_tables and nat for family inet (Linux 5.2). It is safe for concurrent use.
type Handle struct {
	mu   sync.Mutex
	ns   *os.File
	nft  *nft.Socket
	own  own
	done bool
}

// own is what a handle has made the table hold last.
type own struct {
	rules Ruleset
	// count is how often it has done so.
	count int
}

// put records that the table holds r.
func (o *own) put(r Ruleset) { o.rules, o.count = r, o.count+1 }

// is reports whether r is what the handle has made the table hold, or whether it
// has made it hold nothing yet.
func (o *own) is(r Ruleset) bool { return o.count == 0 || o.rules.Equal(r) }

// Open returns a handle on the network namespace at path, on that of the calling
// thread if path is empty. The caller closes it.
func Open(path string) (*Handle, error) {
	if path == "" {
		path = "/proc/thread-self/ns/net"
	}
	ns, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("snat: %w", err)
	}
	h := &Handle{ns: ns, nft: nft.New(ns)}
	err = h.use(context.Background(), func() error {
		return h.nft.Do(func(*nftables.Conn) error { return nil })
	})
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// Close lets go of the namespace and leaves the rules as they are.
func (h *Handle) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return nil
	}
	h.done = true
	return errors.Join(h.nft.Close(), h.ns.Close())
}

// use calls fn while nobody else uses or closes the handle.
func (h *Handle) use(ctx context.Context, fn func() error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if h.done {
		return fmt.Errorf("snat: handle: %w", os.ErrClosed)
	}
	if err := fn(); err != nil {
		return fmt.Errorf("snat: table inet %s: %w", Table, explain(err))
	}
	return nil
}

// explain adds what is missing when the kernel says no more than no.
func explain(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w: CAP_NET_ADMIN in the namespace is needed, and CAP_SYS_ADMIN to enter another one", err)
	}
	return err
}

// explainReplace does so for a batch that names nothing it does not make itself:
// if something is not found, it is a part of the kernel.
func explainReplace(err error) error {
	for _, missing := range []error{unix.ENOENT, unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT} {
		if errors.Is(err, missing) {
			return fmt.Errorf("%w: the kernel needs nf_tables with fib, ct and nat for family inet (Linux 5.2): %s", errors.ErrUnsupported, err.Error())
		}
	}
	return err
}

// Apply makes the table hold r, in one transaction. It changes nothing if that
// is so already, and reports whether it changed something. Flows that exist keep
// their translation and their mark. What others have changed before is put right
// without a word; only [Handle.Watch] tells of it.
func (h *Handle) Apply(ctx context.Context, r Ruleset) (changed bool, err error) {
	err = h.use(ctx, func() error {
		have, err := nft.Read(ctx, h.nft, Ruleset.Equal, read)
		if err != nil {
			return err
		}
		if have.Equal(r) {
			h.own.put(r)
			return nil
		}
		changed = true
		return h.replace(r)
	})
	return changed && err == nil, err
}

// replace makes the table hold r. The caller has the handle to itself.
func (h *Handle) replace(r Ruleset) error {
	err := h.nft.Do(func(conn *nftables.Conn) error { return replace(conn, r) })
	if err != nil {
		return explainReplace(err)
	}
	h.own.put(r)
	return nil
}

// applied returns how often the handle has made the table hold something.
func (h *Handle) applied() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.own.count
}

// Remove deletes the table. It is no error if there is none.
func (h *Handle) Remove(ctx context.Context) error {
	_, err := h.Apply(ctx, Ruleset{})
	return err
}

// maxElements is how many elements go into one message: their attribute's length
// is a 16-bit number.
const maxElements = 1000

// replace deletes the table and makes it anew in the same batch: no packet sees
// anything but the old or the new rules.
func replace(conn *nftables.Conn, r Ruleset) error {
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: Table}
	conn.AddTable(t) // so that there is one to delete
	conn.DelTable(t)
	if r.empty() {
		return conn.Flush()
	}
	conn.AddTable(t)
	sets := map[string]*nftables.Set{}
	for i, s := range r.sets {
		// The number names the set within the batch. Left to the library it would
		// come from a variable that handles at work at the same time race for.
		sets[s.name] = &nftables.Set{Table: t, ID: uint32(i + 1), Name: s.name, KeyType: nftables.TypeIPAddr, Interval: true}
		if err := conn.AddSet(sets[s.name], nil); err != nil {
			return err
		}
		for part := range slices.Chunk(intervals(s.prefixes), maxElements) {
			if err := conn.SetAddElements(sets[s.name], part); err != nil {
				return err
			}
		}
	}
	chains := make([]*nftables.Chain, len(r.chains))
	for i, c := range r.chains { // before the rules that jump to them
		chains[i] = &nftables.Chain{Table: t, Name: c.name}
		if c.hook != "" {
			chains[i].Type, chains[i].Hooknum = nftables.ChainType(c.kind), hookNumbers[c.hook]
			chains[i].Priority = nftables.ChainPriorityRef(nftables.ChainPriority(c.priority))
		}
		conn.AddChain(chains[i])
	}
	for i, c := range r.chains {
		for _, r := range c.rules {
			added := &nftables.Rule{Table: t, Chain: chains[i]}
			for _, s := range r.stmts {
				added.Exprs = append(added.Exprs, compile(s, sets)...)
			}
			if r.comment != "" {
				added.UserData = userdata.AppendString(nil, userdata.TypeComment, r.comment)
			}
			conn.AddRule(added)
		}
	}
	return conn.Flush()
}

// hookNumbers gives each hook in use its number.
var hookNumbers = map[string]*nftables.ChainHook{
	hookPrerouting:  nftables.ChainHookPrerouting,
	hookPostrouting: nftables.ChainHookPostrouting,
}

// Observe reads the table; an absent one is an empty Ruleset. What is in the
// table and not of our kind shows up as a comment in the text, and makes the
// Ruleset unequal to any that a Config gives.
func (h *Handle) Observe(ctx context.Context) (r Ruleset, err error) {
	err = h.use(ctx, func() (err error) {
		r, err = nft.Read(ctx, h.nft, Ruleset.Equal, read)
		return err
	})
	return r, err
}

func read(conn *nftables.Conn) (r Ruleset, err error) {
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return r, err
	}
	i := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == Table })
	if i < 0 {
		return r, nil
	}
	if r.sets, err = readSets(conn, tables[i]); err != nil {
		return r, err
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return r, err
	}
	for _, k := range chains {
		if k.Table.Name != Table {
			continue
		}
		c, err := readChain(conn, tables[i], k)
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

func readSets(conn *nftables.Conn, t *nftables.Table) (all []set, err error) {
	sets, err := conn.GetSets(t)
	if err != nil {
		return nil, nft.Torn("list sets", err)
	}
	for _, s := range sets {
		elements, err := conn.GetSetElements(s)
		if err != nil {
			return nil, nft.Torn("list elements of set "+s.Name, err)
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

func readChain(conn *nftables.Conn, t *nftables.Table, k *nftables.Chain) (c chain, err error) {
	c = chain{name: k.Name, kind: string(k.Type)}
	if k.Hooknum != nil && k.Priority != nil {
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
	rules, err := conn.GetRules(t, k)
	if err != nil {
		return c, nft.Torn("list rules of chain "+k.Name, err)
	}
	for _, r := range rules {
		comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
		c.rules = append(c.rules, rule{stmts: decompile(r.Exprs), comment: comment})
	}
	return c, nil
}
