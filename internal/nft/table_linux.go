// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ErrTooLarge means that a transaction does not fit into the send buffer of the socket.
// A transaction must be one message: if a message has no end of the transaction, the
// kernel discards it.
var ErrTooLarge = errors.New("the transaction exceeds the netlink send buffer; " +
	"raise net.core.wmem_max, or run with CAP_NET_ADMIN in the initial user namespace")

// Tx collects the changes of one transaction.
type Tx struct {
	conn *nftables.Conn
	sets uint32 // the number of the last set
}

// Change makes the table want, which is have now, in one transaction. Sets, elements,
// chains and rules that both have stay in place, so that packets meet them all the time.
// If the table is not have, or if it cannot be changed so, Change deletes it and makes it
// again. If want is empty Change only deletes the table.
//
// An owned table belongs to the connection of the socket, and to the next connection that
// changes it after that. On a kernel that cannot keep a table whose owner has ended (before
// Linux 6.9) the table has no owner. To make an owned table again takes two transactions.
func (s *Socket) Change(have, want Table) error {
	change := s.changePlain
	if want.Owned || have.Owned {
		change = s.changeOwned
	}
	err := change(have, want)
	if !errors.Is(err, unix.ENOBUFS) {
		return err
	}
	// The kernel could not queue all answers, and does not tell what it has done.
	var present readTable
	readErr := s.do(func(k *conn) (err error) {
		if want.Owned { // the connection that owned it is closed
			_ = k.own(want.Name) // a kernel without owners, or no table: see below
		}
		present, err = k.table(want.Name)
		return err
	})
	if readErr == nil && present.Equal(want) {
		return nil
	}
	return errors.Join(err, readErr)
}

// isFinal reports whether the error of a change has nothing to do with the content of the
// table, so that another attempt would have it too.
func isFinal(err error) bool { return errors.Is(err, ErrTooLarge) || errors.Is(err, unix.ENOBUFS) }

func (s *Socket) changePlain(have, want Table) error {
	if c, ok := changeOf(have, want); ok {
		err := s.Update(func(tx *Tx) error { return tx.change(want.Name, c) })
		if err == nil || isFinal(err) {
			return err
		}
	}
	return s.Update(func(tx *Tx) error { return tx.replace(want) })
}

// changeOwned is Change for an owned table. It works on one connection, the owner. It makes
// the table again only if nothing else leads to want: packets would meet an empty table.
func (s *Socket) changeOwned(have, want Table) error {
	attempt := func(c change) error {
		return s.do(func(k *conn) error {
			if err := k.own(want.Name); err != nil {
				return err
			}
			return update(k.Conn, func(tx *Tx) error { return tx.change(want.Name, c) })
		})
	}
	if c, ok := changeOf(have, want); ok {
		if err := attempt(c); err == nil || isFinal(err) {
			return err
		}
	}
	if !want.IsEmpty() {
		var present readTable
		err := s.do(func(k *conn) (err error) {
			present, err = k.table(want.Name)
			return err
		})
		if err != nil {
			return err
		}
		if c, ok := changeOf(present.Table, want); ok {
			return attempt(c)
		}
	}
	return s.do(func(k *conn) error {
		err := k.ownAgain(want.Name, !want.Owned)
		if errors.Is(err, errNoOwners) || err == nil && !want.Owned {
			return update(k.Conn, func(tx *Tx) error { return tx.replace(want) })
		}
		if err != nil {
			return err
		}
		return update(k.Conn, func(tx *Tx) error { return tx.fill(want) })
	})
}

// Try makes the kernel check t, of a name that no table has, without keeping it.
func (s *Socket) Try(t Table) error {
	return s.Update(func(tx *Tx) error {
		if err := tx.replace(t); err != nil {
			return err
		}
		tx.conn.DelTable(tableOf(t.Name))
		return nil
	})
}

// Update calls f and carries out, in one transaction, the changes that f adds. If f
// returns an error, the tables stay as they are.
func (s *Socket) Update(f func(*Tx) error) error {
	return s.Do(func(c *nftables.Conn) error { return update(c, f) })
}

func update(c *nftables.Conn, f func(*Tx) error) error {
	if err := f(&Tx{conn: c}); err != nil {
		return err
	}
	err := c.Flush()
	if errors.Is(err, unix.EMSGSIZE) {
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return err
}

func tableOf(name string) *nftables.Table {
	return &nftables.Table{Name: name, Family: nftables.TableFamilyINet}
}

// change adds c, a change of the table with the given name.
func (tx *Tx) change(name string, c change) error {
	table := tableOf(name)
	if err := tx.addChains(table, c.addChains); err != nil { // before the rules and elements that jump to them
		return err
	}
	numbers, err := tx.addSets(name, c.addSets)
	if err != nil {
		return err
	}
	tx.addFlowtables(table, c.addFlowtables)
	for _, s := range c.deleteElements { // before elements that overlap them
		if err := tx.DeleteElements(name, s); err != nil {
			return err
		}
	}
	for _, s := range c.addElements {
		if err := tx.AddElements(name, s); err != nil {
			return err
		}
	}
	for _, k := range c.rules {
		tx.conn.FlushChain(&nftables.Chain{Table: table, Name: k.Name})
	}
	if err := tx.addRules(table, c.rules, numbers); err != nil {
		return err
	}
	for _, k := range c.deleteChains {
		tx.conn.DelChain(&nftables.Chain{Table: table, Name: k.Name})
	}
	for _, s := range c.deleteSets {
		tx.conn.DelSet(tx.set(name, s))
	}
	for _, f := range c.deleteFlowtables {
		tx.conn.DelFlowtable(&nftables.Flowtable{Table: table, Name: f.Name})
	}
	return nil
}

// replace deletes the table and makes it again with the content of t. If t is empty it
// only deletes it. The table may be absent before.
func (tx *Tx) replace(t Table) error {
	table := tableOf(t.Name)
	tx.conn.AddTable(table) // to delete an absent table is an error
	tx.conn.DelTable(table)
	if t.IsEmpty() {
		return nil
	}
	tx.conn.AddTable(table)
	return tx.fill(t)
}

// fill adds the content of t to the table, which is empty.
func (tx *Tx) fill(t Table) error {
	table := tableOf(t.Name)
	if err := tx.addChains(table, t.Chains); err != nil { // before the rules and elements that jump to them
		return err
	}
	numbers, err := tx.addSets(t.Name, t.Sets)
	if err != nil {
		return err
	}
	tx.addFlowtables(table, t.Flowtables)
	return tx.addRules(table, t.Chains, numbers)
}

// addFlowtables adds flowtables, or links to those that exist.
func (tx *Tx) addFlowtables(table *nftables.Table, flowtables []Flowtable) {
	for _, f := range flowtables {
		tx.conn.AddFlowtable(&nftables.Flowtable{Table: table, Name: f.Name, Devices: f.Links})
	}
}

// addChains adds chains without their rules.
func (tx *Tx) addChains(table *nftables.Table, chains []Chain) error {
	for _, c := range chains {
		chain, err := newChain(table, c)
		if err != nil {
			return err
		}
		tx.conn.AddChain(chain)
	}
	return nil
}

// addSets adds sets with their elements and returns the numbers of the sets within the
// transaction, by name.
func (tx *Tx) addSets(table string, sets []Set) (numbers map[string]uint32, err error) {
	numbers = map[string]uint32{}
	for _, s := range sets {
		set := tx.set(table, s)
		numbers[s.Name] = set.ID
		if err := tx.conn.AddSet(set, nil); err != nil {
			return nil, err
		}
		if err := changeElements(tx.conn.SetAddElements, set, s); err != nil {
			return nil, err
		}
	}
	return numbers, nil
}

// addRules adds the rules of chains. A set that has no number is one that the kernel has.
func (tx *Tx) addRules(table *nftables.Table, chains []Chain, numbers map[string]uint32) error {
	for _, c := range chains {
		for _, r := range c.Rules {
			exprs, err := compileRule(r, numbers)
			if err != nil {
				return err
			}
			rule := &nftables.Rule{Table: table, Chain: &nftables.Chain{Table: table, Name: c.Name}, Exprs: exprs}
			if r.Comment != "" {
				rule.UserData = userdata.AppendString(nil, userdata.TypeComment, r.Comment)
			}
			tx.conn.AddRule(rule)
		}
	}
	return nil
}

// set returns the library's form of a set. It numbers the set within the transaction:
// the library would take the number from a variable that all its connections change
// without a lock.
func (tx *Tx) set(table string, s Set) *nftables.Set {
	tx.sets++
	set := &nftables.Set{Table: tableOf(table), ID: tx.sets, Name: s.Name, Interval: s.isInterval(), KeyType: nftables.TypeIPAddr}
	if s.Family == IPv6 {
		set.KeyType = nftables.TypeIP6Addr
	}
	switch s.Kind {
	case Links:
		set.KeyType, set.KeyByteOrder = nftables.TypeIFName, binaryutil.NativeEndian // as nft lists them
	case Selves:
		set.KeyType, set.Concatenation = nftables.MustConcatSetType(set.KeyType, set.KeyType), true
	case Boxes:
		set.KeyType, set.Concatenation = nftables.MustConcatSetType(set.KeyType, nftables.TypeInetProto, nftables.TypeInetService), true
	}
	if s.IsMap {
		set.IsMap, set.DataType = true, nftables.TypeVerdict
	}
	return set
}

// AddElements adds the elements of s to the set of the same name in a table.
func (tx *Tx) AddElements(table string, s Set) error {
	return changeElements(tx.conn.SetAddElements, tx.set(table, s), s)
}

// DeleteElements deletes the elements of s from the set of the same name in a table.
func (tx *Tx) DeleteElements(table string, s Set) error {
	return changeElements(tx.conn.SetDeleteElements, tx.set(table, s), s)
}

// maxMessage bounds the bytes of elements in one part of a transaction: the length of
// their attribute is a 16-bit number. With large parts there are few answers, which the
// kernel queues in the receive buffer.
const maxMessage = 60_000

// changeElements calls change, a method of the library, with as many elements of s at a time
// as one part of a transaction can hold.
func changeElements(change func(*nftables.Set, []nftables.SetElement) error, set *nftables.Set, s Set) error {
	var (
		message []nftables.SetElement
		size    int
	)
	for i, e := range s.Elements {
		for _, encoded := range s.encode(e) {
			message = append(message, encoded)
			size += 40 + len(encoded.Key) + len(encoded.KeyEnd) + len(e.Chain) // at most
		}
		if size < maxMessage && i < len(s.Elements)-1 {
			continue
		}
		if err := change(set, message); err != nil {
			return err
		}
		message, size = nil, 0
	}
	return nil
}

// encode returns the library's form of an element of s.
func (s Set) encode(e Element) (all []nftables.SetElement) {
	switch s.Kind {
	case Addrs:
		all = []nftables.SetElement{{Key: e.Prefix.Addr().AsSlice()}}
	case Selves:
		a := e.Prefix.Addr().AsSlice()
		all = []nftables.SetElement{{Key: slices.Concat(a, a)}}
	case Links:
		return []nftables.SetElement{{Key: append([]byte(e.Link), make([]byte, max(linkNameSize-len(e.Link), 0))...)}}
	case Boxes:
		b := e.Box
		return []nftables.SetElement{{
			Key: boxKey(b.First, b.FirstProtocol, b.FirstPort), KeyEnd: boxKey(b.Last, b.LastProtocol, b.LastPort),
		}}
	default:
		for _, b := range boundsOf(e) {
			all = append(all, nftables.SetElement{Key: b.addr.AsSlice(), IntervalEnd: b.end})
		}
	}
	if e.Chain != "" {
		all[0].VerdictData = &expr.Verdict{Kind: expr.VerdictJump, Chain: e.Chain}
	}
	return all
}

// boxKey returns one end of a box. Each part of the key takes a multiple of four bytes.
func boxKey(a netip.Addr, protocol byte, port uint16) []byte {
	return append(a.AsSlice(), protocol, 0, 0, 0, byte(port>>8), byte(port), 0, 0)
}

// decodeBoxKey is the opposite of boxKey.
func decodeBoxKey(key []byte, f Family) (a netip.Addr, protocol byte, port uint16, ok bool) {
	n := len(key) - 8
	if n < 0 {
		return a, 0, 0, false
	}
	a, ok = netip.AddrFromSlice(key[:n])
	return a, key[n], binary.BigEndian.Uint16(key[n+4:]), ok && FamilyOf(a) == f
}

var hooks = map[string]*nftables.ChainHook{
	HookPrerouting:  nftables.ChainHookPrerouting,
	HookForward:     nftables.ChainHookForward,
	HookPostrouting: nftables.ChainHookPostrouting,
}

func newChain(table *nftables.Table, c Chain) (*nftables.Chain, error) {
	chain := &nftables.Chain{Table: table, Name: c.Name}
	if c.Hook == "" {
		return chain, nil
	}
	if hooks[c.Hook] == nil {
		return nil, fmt.Errorf("chain %s: hook %q is not %s, %s or %s", c.Name, c.Hook, HookPrerouting, HookForward, HookPostrouting)
	}
	policy := nftables.ChainPolicyAccept
	chain.Type, chain.Hooknum, chain.Policy = nftables.ChainType(c.Type), hooks[c.Hook], &policy
	chain.Priority = nftables.ChainPriorityRef(nftables.ChainPriority(c.Priority))
	return chain, nil
}

// Table reads the table with the given name. An absent table is empty, and so is that of a
// kernel without nftables.
func (s *Socket) Table(ctx context.Context, name string) (Table, error) {
	// A table that is replaced again and again can look torn in the same way twice. The
	// kernel gives each new table another handle.
	same := func(a, b readTable) bool { return a.handle == b.handle && a.Equal(b.Table) }
	t, err := readConsistent(ctx, s, same, func(c *conn) (readTable, error) { return c.table(name) })
	if errors.Is(err, ErrMissing) {
		return Table{Name: name}, nil
	}
	return t.Table, err
}

// ExplainReplace adds to the error of a transaction that replaces a table which parts of
// the kernel the table needs. Such a transaction refers only to what it makes itself, so
// what the kernel does not find or support is a part of the kernel.
func ExplainReplace(err error, needs string) error {
	for _, answer := range []error{ErrMissing, unix.ENOENT, unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT} {
		if errors.Is(err, answer) {
			return fmt.Errorf("%w: the kernel needs %s: %s", errors.ErrUnsupported, needs, err.Error())
		}
	}
	return err
}

// readTable is a table with the kernel's handle, 0 if the table does not exist.
type readTable struct {
	Table
	handle uint64
}

func (c *conn) table(name string) (readTable, error) {
	t := readTable{Table: Table{Name: name}}
	flags, handle, err := c.tableProperties(name)
	if errors.Is(err, unix.ENOENT) {
		return t, nil
	} else if err != nil {
		return t, fmt.Errorf("nftables table: %w", err)
	}
	t.handle = handle
	switch flags {
	case 0:
	case tableOwned:
		t.Owned = true
	case tablePersists:
		t.Owned, t.Orphan = true, true
	default:
		t.Foreign = fmt.Sprintf("the table has flags %#x", flags)
	}
	if t.Chains, err = c.chains(name); err != nil {
		return t, err
	}
	if t.Sets, err = c.setsOf(name); err != nil {
		return t, err
	}
	t.Flowtables, err = c.flowtables(name)
	return t, err
}

// flowtables reads the flowtables of a table.
func (c *conn) flowtables(table string) (all []Flowtable, err error) {
	answers, err := c.request(nftables.NFT_MSG_GETFLOWTABLE, netlink.Dump, netlink.Attribute{Type: nftables.NFTA_FLOWTABLE_TABLE, Data: cString(table)})
	if err != nil {
		return nil, torn("list nftables flowtables", err)
	}
	for _, answer := range answers {
		f := Flowtable{Name: text(answer[nftables.NFTA_FLOWTABLE_NAME])}
		hook, err := attributesOf(answer[nftables.NFTA_FLOWTABLE_HOOK])
		if err != nil {
			return nil, fmt.Errorf("nftables flowtable %s: %w", f.Name, err)
		}
		links, err := netlink.UnmarshalAttributes(hook[nftables.NFTA_FLOWTABLE_DEVS])
		if err != nil {
			return nil, fmt.Errorf("nftables flowtable %s: %w", f.Name, err)
		}
		for _, l := range links {
			f.Links = append(f.Links, text(l.Data))
		}
		if number(answer[nftables.NFTA_FLOWTABLE_FLAGS]) != 0 || number(hook[nftables.NFTA_FLOWTABLE_PRIORITY]) != 0 {
			f.Foreign = "with other properties"
		}
		all = append(all, f)
	}
	return all, nil
}

// nftaTableHandle is NFTA_TABLE_HANDLE of linux/netfilter/nf_tables.h, since Linux 4.16.
const nftaTableHandle = 4

// tableProperties returns the flags and the handle of a table.
func (c *conn) tableProperties(name string) (flags uint32, handle uint64, err error) {
	answers, err := c.request(unix.NFT_MSG_GETTABLE, 0, netlink.Attribute{Type: unix.NFTA_TABLE_NAME, Data: cString(name)})
	if err != nil {
		return 0, 0, err
	}
	for _, answer := range answers {
		flags = number(answer[unix.NFTA_TABLE_FLAGS])
		if b := answer[nftaTableHandle]; len(b) == 8 {
			handle = binary.BigEndian.Uint64(b)
		}
	}
	return flags, handle, nil
}

// chains reads the chains of a table with their rules.
func (c *conn) chains(table string) ([]Chain, error) {
	listed, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	listed = slices.DeleteFunc(listed, func(k *nftables.Chain) bool { return k.Table.Name != table })
	if len(listed) == 0 {
		return nil, nil
	}
	rules, err := c.rules(table)
	if err != nil {
		return nil, err
	}
	chains := make([]Chain, len(listed))
	for i, k := range listed {
		chains[i] = chainOf(k)
		chains[i].Rules = rules[k.Name]
	}
	return chains, nil
}

func chainOf(k *nftables.Chain) Chain {
	c := Chain{Name: k.Name, Type: string(k.Type)}
	if k.Hooknum != nil && k.Priority != nil {
		c.Priority, c.Foreign = int(*k.Priority), "on another hook"
		for name, hook := range hooks {
			if *hook == *k.Hooknum {
				c.Hook, c.Foreign = name, ""
			}
		}
	}
	if k.Policy != nil && *k.Policy != nftables.ChainPolicyAccept {
		c.Foreign = "policy drop"
	}
	return c
}

// rules reads the rules of all chains of a table.
func (c *conn) rules(table string) (map[string][]Rule, error) {
	answers, err := c.request(unix.NFT_MSG_GETRULE, netlink.Dump, netlink.Attribute{Type: unix.NFTA_RULE_TABLE, Data: cString(table)})
	if err != nil {
		return nil, torn("list nftables rules", err)
	}
	rules := map[string][]Rule{}
	for _, answer := range answers {
		chain := text(answer[unix.NFTA_RULE_CHAIN])
		exprs, err := decodeExpressions(answer[unix.NFTA_RULE_EXPRESSIONS])
		if err != nil {
			return nil, fmt.Errorf("nftables rule in chain %s: %w", chain, err)
		}
		comment, _ := userdata.GetString(answer[unix.NFTA_RULE_USERDATA], userdata.TypeComment)
		rules[chain] = append(rules[chain], Rule{Statements: decompile(exprs), Comment: comment})
	}
	return rules, nil
}

// decodeExpressions reads a list of expressions.
func decodeExpressions(data []byte) ([]expression, error) {
	list, err := netlink.UnmarshalAttributes(data)
	if err != nil {
		return nil, err
	}
	exprs := make([]expression, 0, len(list))
	for _, item := range list {
		parts, err := attributesOf(item.Data)
		if err != nil {
			return nil, err
		}
		exprs = append(exprs, decodeExpression(text(parts[unix.NFTA_EXPR_NAME]), parts[unix.NFTA_EXPR_DATA]))
	}
	return exprs, nil
}

// setsOf reads the sets of a table. It does not use the library's function, which loses
// the type of the keys of a map to verdicts.
func (c *conn) setsOf(table string) ([]Set, error) {
	answers, err := c.request(unix.NFT_MSG_GETSET, netlink.Dump, netlink.Attribute{Type: unix.NFTA_SET_TABLE, Data: cString(table)})
	if err != nil {
		return nil, torn("list nftables sets", err)
	}
	var sets []Set
	for _, answer := range answers {
		s := setOf(answer)
		if err := c.readElements(table, &s); err != nil {
			return nil, err
		}
		sets = append(sets, s)
	}
	return sets, nil
}

// The types of keys. The numbers are those of the nft program; the kernel only stores
// them.
const (
	keyIPv4     = 7
	keyIPv6     = 8
	keyProtocol = 12
	keyPort     = 13
	keyLink     = 41
	keyBits     = 6 // of each part of a concatenation
	boxKeyTail  = keyProtocol<<keyBits | keyPort
)

func setOf(answer map[uint16][]byte) Set {
	const verdict = 0xffffff00 // the kernel's NFT_DATA_VERDICT
	flags := number(answer[unix.NFTA_SET_FLAGS])
	s := Set{Name: text(answer[unix.NFTA_SET_NAME]), Family: IPv4, IsMap: flags&unix.NFT_SET_MAP != 0}
	isMap := s.IsMap && number(answer[unix.NFTA_SET_DATA_TYPE]) == verdict
	kind, known := kindsOfKeys[keyProperties{number(answer[unix.NFTA_SET_KEY_TYPE]), flags &^ unix.NFT_SET_MAP}]
	if !known || s.IsMap != isMap {
		s.Foreign = "of another type"
	}
	if known {
		s.Family, s.Kind = kind.family, kind.kind
	}
	return s
}

// keyProperties are what the kernel lists of the keys of a set.
type keyProperties struct{ key, flags uint32 }

// kindsOfKeys are the keys that this package knows. The number of a concatenation is made
// from those of its parts.
var kindsOfKeys = map[keyProperties]struct {
	family Family
	kind   Kind
}{
	{keyIPv4, unix.NFT_SET_INTERVAL}: {IPv4, Prefixes},
	{keyIPv6, unix.NFT_SET_INTERVAL}: {IPv6, Prefixes},
	{keyLink, 0}:                     {0, Links},
	{keyIPv4, 0}:                     {IPv4, Addrs},
	{keyIPv6, 0}:                     {IPv6, Addrs},
	{keyIPv4<<keyBits | keyIPv4, nftables.NFT_SET_CONCAT}:                                {IPv4, Selves},
	{keyIPv6<<keyBits | keyIPv6, nftables.NFT_SET_CONCAT}:                                {IPv6, Selves},
	{keyIPv4<<keyBits | keyIPv4, 0}:                                                      {IPv4, Selves}, // as nft makes it
	{keyIPv6<<keyBits | keyIPv6, 0}:                                                      {IPv6, Selves},
	{keyIPv4<<(2*keyBits) | boxKeyTail, nftables.NFT_SET_CONCAT | unix.NFT_SET_INTERVAL}: {IPv4, Boxes},
	{keyIPv6<<(2*keyBits) | boxKeyTail, nftables.NFT_SET_CONCAT | unix.NFT_SET_INTERVAL}: {IPv6, Boxes},
}

// readElements reads the elements of a set.
func (c *conn) readElements(table string, s *Set) error {
	if s.Foreign != "" {
		return nil
	}
	answers, err := c.request(unix.NFT_MSG_GETSETELEM, netlink.Dump,
		netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: cString(table)},
		netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: cString(s.Name)})
	if err != nil {
		return torn("list elements of nftables set "+s.Name, err)
	}
	var bounds []bound
	for _, answer := range answers {
		list, err := netlink.UnmarshalAttributes(answer[unix.NFTA_SET_ELEM_LIST_ELEMENTS])
		if err != nil {
			return fmt.Errorf("elements of nftables set %s: %w", s.Name, err)
		}
		for _, item := range list {
			e, err := decodeElement(item.Data)
			if err == nil && s.Kind == Prefixes {
				var b bound
				b, err = e.bound(s)
				bounds = append(bounds, b)
			} else if err == nil {
				err = e.addTo(s)
			}
			if err != nil {
				s.Elements, s.Foreign = nil, err.Error()
				return nil
			}
		}
	}
	if s.Kind != Prefixes {
		slices.SortFunc(s.Elements, Element.compare)
		return nil
	}
	if s.Elements, err = elementsOf(bounds); err != nil {
		s.Foreign = err.Error()
	}
	return nil
}

// element is an element as the kernel lists it.
type element struct {
	key, keyEnd, value []byte
	end                bool // of an interval
}

func decodeElement(data []byte) (e element, err error) {
	parts, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return e, err
	}
	// A key is an attribute with its bytes as the only content.
	const header = 4
	content := func() []byte {
		b := parts.Bytes()
		return b[min(header, len(b)):]
	}
	for parts.Next() {
		switch parts.Type() {
		case unix.NFTA_SET_ELEM_KEY:
			e.key = content()
		case nftables.NFTA_SET_ELEM_KEY_END:
			e.keyEnd = content()
		case unix.NFTA_SET_ELEM_DATA:
			e.value = content()
		case unix.NFTA_SET_ELEM_FLAGS:
			e.end = number(parts.Bytes())&unix.NFT_SET_ELEM_INTERVAL_END != 0
		}
	}
	return e, parts.Err()
}

var errNoAddr = errors.New("has an element that is not an address")

// bound returns one end of an interval of a set of prefixes.
func (e element) bound(s *Set) (b bound, err error) {
	var ok bool
	b.end = e.end
	b.addr, ok = netip.AddrFromSlice(e.key)
	if !ok || FamilyOf(b.addr) != s.Family {
		return b, errNoAddr
	}
	if !s.IsMap || b.end {
		return b, nil
	}
	b.chain, err = e.chain(b.addr)
	return b, err
}

// chain returns the chain of the verdict for an address.
func (e element) chain(a netip.Addr) (string, error) {
	chain, ok := jumpOf(e.value)
	if !ok {
		return "", fmt.Errorf("has a verdict for %v that is not a jump", a)
	}
	return chain, nil
}

// addTo adds the element to a set that is not one of prefixes.
func (e element) addTo(s *Set) (err error) {
	var added Element
	if s.Kind == Boxes {
		var first, last bool
		b := &added.Box
		if e.keyEnd == nil { // of a box with one key
			e.keyEnd = e.key
		}
		b.First, b.FirstProtocol, b.FirstPort, first = decodeBoxKey(e.key, s.Family)
		b.Last, b.LastProtocol, b.LastPort, last = decodeBoxKey(e.keyEnd, s.Family)
		if !first || !last {
			return errors.New("has an element that is not a box")
		}
		s.Elements = append(s.Elements, added)
		return nil
	}
	key := e.key
	if s.Kind == Links {
		s.Elements = append(s.Elements, Element{Link: text(key)})
		return nil
	}
	if s.Kind == Selves {
		half := len(key) / 2
		if !bytes.Equal(key[:half], key[half:]) {
			return errors.New("has a pair of different addresses")
		}
		key = key[:half]
	}
	a, ok := netip.AddrFromSlice(key)
	if !ok || FamilyOf(a) != s.Family {
		return errNoAddr
	}
	added.Prefix = netip.PrefixFrom(a, a.BitLen())
	if s.IsMap {
		if added.Chain, err = e.chain(a); err != nil {
			return err
		}
	}
	s.Elements = append(s.Elements, added)
	return nil
}

// jumpOf returns the chain of a verdict, and false if it is not a jump.
func jumpOf(verdict []byte) (chain string, ok bool) {
	parts, err := attributesOf(verdict)
	if err != nil {
		return "", false
	}
	chain = text(parts[unix.NFTA_VERDICT_CHAIN])
	return chain, chain != "" && int32(number(parts[unix.NFTA_VERDICT_CODE])) == unix.NFT_JUMP
}

// request sends one request about family inet and returns the attributes of each
// answer.
func (c *conn) request(kind netlink.HeaderType, flags netlink.HeaderFlags, attributes ...netlink.Attribute) ([]map[uint16][]byte, error) {
	data, err := netlink.MarshalAttributes(attributes)
	if err != nil {
		return nil, err
	}
	answers, err := c.exchange(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | kind, Flags: netlink.Request | flags},
		Data:   append([]byte{unix.NFPROTO_INET, 0, 0, 0}, data...),
	})
	if err != nil {
		return nil, err
	}
	all := make([]map[uint16][]byte, len(answers))
	for i, m := range answers {
		if all[i], err = attributesOf(m.Data[min(nfgenmsg, len(m.Data)):]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// attributesOf returns the attributes by their types.
func attributesOf(data []byte) (map[uint16][]byte, error) {
	list, err := netlink.UnmarshalAttributes(data)
	if err != nil {
		return nil, err
	}
	all := make(map[uint16][]byte, len(list))
	for _, a := range list {
		all[a.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER)] = a.Data
	}
	return all, nil
}

// number reads a big-endian number of 32 bits, 0 if there is none.
func number(data []byte) uint32 {
	if len(data) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(data)
}

func cString(s string) []byte { return append([]byte(s), 0) }
