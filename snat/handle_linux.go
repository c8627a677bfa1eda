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
	"golang.org/x/sys/unix"
)

// Handle works on our table in one network namespace, over netlink. It needs
// CAP_NET_ADMIN there, CAP_SYS_ADMIN to enter another one, and a kernel with
// nf_tables and nat for family inet (Linux 5.2). It is safe for concurrent use.
type Handle struct {
	mu   sync.Mutex
	ns   *os.File // nil: that of the calling thread
	conn *nftables.Conn
	done bool
}

// Open returns a handle on the network namespace at path, on that of the calling
// thread if path is empty. The caller closes it.
func Open(path string) (*Handle, error) {
	h := &Handle{}
	if path != "" {
		ns, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("snat: %w", err)
		}
		h.ns = ns
	}
	if err := h.connect(); err != nil {
		return nil, errors.Join(fmt.Errorf("snat: %w", explain(err)), h.Close())
	}
	return h, nil
}

// Close lets go of the namespace and leaves the rules as they are.
func (h *Handle) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.done = true
	err := h.drop()
	if h.ns != nil {
		err = errors.Join(err, h.ns.Close())
		h.ns = nil
	}
	return err
}

func (h *Handle) drop() error {
	if h.conn == nil {
		return nil
	}
	err := h.conn.CloseLasting()
	h.conn = nil
	return err
}

// errTorn is that what was listed is gone when it is looked into. Which error the
// kernel gave the library does not tell.
var errTorn = errors.New("the table changes while it is read")

// tries is how often a call begins again for errTorn.
const tries = 20

// use calls fn with an open connection, again if what fn has just seen is gone
// when it looks closer. After an error there may be answers left in a connection
// that belong to no question, so the next try opens another one.
func (h *Handle) use(ctx context.Context, fn func(*nftables.Conn) error) (err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for range tries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if h.done {
			return fmt.Errorf("snat: handle: %w", os.ErrClosed)
		}
		if err = h.connect(); err == nil {
			err = fn(h.conn)
		}
		if err == nil {
			return nil
		}
		err = errors.Join(fmt.Errorf("snat: table inet %s: %w", Table, explain(err)), h.drop())
		if !errors.Is(err, errTorn) {
			break
		}
	}
	return err
}

func (h *Handle) connect() error {
	if h.conn != nil {
		return nil
	}
	options := []nftables.ConnOption{nftables.AsLasting()}
	if h.ns != nil {
		options = append(options, nftables.WithNetNSFd(int(h.ns.Fd())))
	}
	conn, err := nftables.New(options...)
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	h.conn = conn
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
// their translation and their mark.
func (h *Handle) Apply(ctx context.Context, r Ruleset) (changed bool, err error) {
	err = h.use(ctx, func(conn *nftables.Conn) error {
		have, err := read(conn)
		if err != nil || have.Equal(r) {
			return err
		}
		changed = true
		return explainReplace(replace(conn, r))
	})
	return changed && err == nil, err
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
	for _, c := range r.chains {
		k := conn.AddChain(&nftables.Chain{
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
	err = h.use(ctx, func(conn *nftables.Conn) error {
		r, err = read(conn)
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

func torn(err error) error { return fmt.Errorf("%w: %w", errTorn, err) }

func readSets(conn *nftables.Conn, t *nftables.Table) (all []set, err error) {
	sets, err := conn.GetSets(t)
	if err != nil {
		return nil, torn(err)
	}
	for _, s := range sets {
		elements, err := conn.GetSetElements(s)
		if err != nil {
			return nil, torn(err)
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
	rules, err := conn.GetRules(t, k)
	if err != nil {
		return c, fmt.Errorf("rules of chain %s: %w", k.Name, torn(err))
	}
	for _, r := range rules {
		comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
		c.rules = append(c.rules, rule{stmts: decompile(r.Exprs), comment: comment})
	}
	return c, nil
}
