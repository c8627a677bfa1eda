// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// mergeInput is everything that an Inventory is made from.
type mergeInput struct {
	// Prev is the previous Inventory. It is zero at the start.
	Prev Inventory
	// EC2 and Metadata are the ENIs of the instance as each source shows them.
	// EC2At and MetadataAt are the times when the sources were asked. A zero time
	// means that the source did not answer.
	EC2, Metadata     []ENI
	EC2At, MetadataAt time.Time
	// Intents are this node's changes: the unfinished ones, and those done lately.
	Intents []Intent
	// Loaded is the time when this process read the intents of an earlier process,
	// which did not change afterwards. Zero means that this process wrote all of
	// them.
	Loaded time.Time
	// Instance is the instance, and Owner the value of this node's owner tag.
	Instance Instance
	Owner    string
	// Lag is how long after a change a source may still show the state before.
	Lag time.Duration
	// TripShare is the share of known slots that may vanish at once.
	TripShare float64
}

// merge combines the answers of the sources with earlier knowledge and the changes
// of this node into an Inventory. It is a pure function. Without an answer of a
// source it applies the intents to Prev. Its rules are:
//
//   - An object that EC2 shows exists, unless this node removed it within Lag.
//   - An object that this node created within Lag exists, even if a source omits it.
//   - A known object that one source omits remains, with its slots in doubt.
//   - A known object that both sources omit is gone.
//   - An object that only the metadata service shows is in doubt.
func merge(in mergeInput) Inventory {
	m := merger{mergeInput: in, at: earlier(in.EC2At, in.MetadataAt), own: evidenceOf(in.Intents)}
	if m.at.IsZero() {
		m.at = in.Prev.At // only this node's changes are new
	}
	inv := Inventory{Instance: in.Instance, At: later(in.EC2At, in.MetadataAt), EC2At: in.EC2At, MetadataAt: in.MetadataAt, Trip: in.Prev.Trip}
	if !in.EC2At.IsZero() {
		inv.Source |= SourceEC2
	}
	if !in.MetadataAt.IsZero() {
		inv.Source |= SourceMetadata
	}
	for _, id := range m.ids() {
		e, verdict := m.mergeENI(id)
		switch verdict {
		case present:
			inv.ENIs = append(inv.ENIs, e)
		case vanished:
			inv.Gone = append(inv.Gone, id)
		}
	}
	m.doubtDuplicates(inv.ENIs)
	m.checkTrip(&inv)
	slices.SortFunc(inv.ENIs, func(a, b ENI) int {
		return cmp.Or(cmp.Compare(a.Card, b.Card), cmp.Compare(a.Device, b.Device), cmp.Compare(a.ID, b.ID))
	})
	return inv
}

// merger is the state of one merge. at is the time when the sources were asked, or
// the first of them if both were. The sources need not show later changes.
type merger struct {
	mergeInput
	at  time.Time
	own map[string]*evidence
}

// verdict is the result of a merge for one ENI.
type verdict uint8

const (
	absent   verdict = iota // it does not exist and was not known before
	present                 // it is in the inventory
	vanished                // it was known before and does not exist any more
)

// view holds the descriptions of one ENI. A description is nil if its source does
// not show the ENI.
type view struct {
	ec2, metadata, prev *ENI
	own                 *evidence
}

// view collects the descriptions of one ENI.
func (m *merger) view(id string) view {
	v := view{ec2: findENI(m.EC2, id), metadata: findENI(m.Metadata, id), prev: findENI(m.Prev.ENIs, id), own: m.own[id]}
	if v.own == nil {
		v.own = &evidence{}
	}
	// Only EC2 marks the own IPv4 address, so an earlier answer of EC2 is better than
	// the order in the metadata. Of IPv6 addresses the metadata name the own one.
	own := v.ownAddr(func(e *ENI) netip.Addr { return e.Addr }, v.ec2, v.prev, v.metadata)
	own6 := v.ownAddr(func(e *ENI) netip.Addr { return e.Addr6 }, v.ec2, v.metadata, v.prev)
	for _, e := range []**ENI{&v.ec2, &v.metadata, &v.prev} {
		if *e != nil {
			same := (*e).withOwn(own, own6)
			*e = &same
		}
	}
	return v
}

// ownAddr returns the ENI's own address by the first source that tells it. An address
// that neither EC2 nor the metadata service shows on the ENI is not its own any more.
func (v view) ownAddr(of func(*ENI) netip.Addr, sources ...*ENI) netip.Addr {
	for _, e := range sources {
		if e == nil || !of(e).IsValid() {
			continue
		}
		a := of(e)
		if v.ec2 == nil || v.metadata == nil || v.ec2.hasAddr(a) || v.metadata.hasAddr(a) {
			return a
		}
	}
	return netip.Addr{}
}

// findENI returns the ENI with an ID, or nil.
func findENI(enis []ENI, id string) *ENI {
	i := slices.IndexFunc(enis, func(e ENI) bool { return e.ID == id })
	if i < 0 {
		return nil
	}
	return &enis[i]
}

// ids returns the IDs of all ENIs in the input, sorted.
func (m *merger) ids() []string {
	var out []string
	for _, list := range [][]ENI{m.EC2, m.Metadata, m.Prev.ENIs} {
		for _, e := range list {
			out = append(out, e.ID)
		}
	}
	for id, ev := range m.own {
		if ev.made != nil {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return slices.DeleteFunc(slices.Compact(out), func(id string) bool { return id == "" })
}

// recent reports whether a source may still show the state from before t, and t is
// certain.
func (m *merger) recent(t time.Time) bool {
	return m.mayLag(t) && !m.uncertainTime(t)
}

// mayLag reports whether a source may still show the state from before t. It
// reports true if t is uncertain.
func (m *merger) mayLag(t time.Time) bool {
	return m.at.Before(t.Add(m.Lag)) || m.uncertainTime(t)
}

// uncertainTime reports whether the time t of a change may be wrong. An earlier
// process wrote it, by a clock that may have been set since: either with a time in
// the future, which rebase has set to the time of reading, or with a time that
// seems long ago. The time counts as uncertain until the sources have had time to
// show even the latest possible change.
func (m *merger) uncertainTime(t time.Time) bool {
	if t.IsZero() || m.Loaded.IsZero() || t.After(m.Loaded) || !m.at.Before(m.Loaded.Add(m.Lag)) {
		return false
	}
	return t.Equal(m.Loaded) || !m.at.Before(t.Add(m.Lag))
}

// mergeENI merges the descriptions of one ENI.
func (m *merger) mergeENI(id string) (ENI, verdict) {
	v := m.view(id)
	if v.own.removed && m.recent(v.own.removedAt) {
		return ENI{}, absent
	}
	base, verdict := m.base(v)
	if verdict != present {
		return ENI{}, verdict
	}
	e := base.clone()
	m.complete(&e, v)
	e.InFlight = v.own.adding || v.own.removing || v.own.removed && m.uncertainTime(v.own.removedAt)
	e.Managed = m.managed(e, v)
	m.slots(&e, v)
	m.doubtOwnIPv6(&e, v)
	return e, present
}

// base chooses the description to start from.
func (m *merger) base(v view) (ENI, verdict) {
	made := v.own.made != nil && m.mayLag(v.own.attachedAt)
	switch {
	case v.ec2 != nil:
		return *v.ec2, present
	case v.own.adding && (v.prev == nil || m.denied(v, made)):
		return ENI{}, absent // not attached yet; its intent claims the place
	case v.prev != nil && !m.denied(v, made):
		return *v.prev, present
	case v.prev != nil:
		return ENI{}, vanished
	case made:
		return *v.own.made, present
	case v.metadata != nil:
		return *v.metadata, present
	}
	return ENI{}, absent
}

// denied reports whether both sources answered, neither shows the ENI, and this
// node did not create it recently.
func (m *merger) denied(v view, made bool) bool {
	return !made && !m.EC2At.IsZero() && !m.MetadataAt.IsZero() && v.metadata == nil
}

// complete adds the values that only some of the sources know.
func (m *merger) complete(e *ENI, v view) {
	e.Sources = 0
	for _, s := range []struct {
		from *ENI
		bit  Source
	}{{v.ec2, SourceEC2}, {v.metadata, SourceMetadata}, {v.own.made, SourceOwn}, {v.prev, 0}} {
		if s.from == nil {
			continue
		}
		e.Sources |= s.bit
		if !e.Subnet.IsValid() {
			e.Subnet = s.from.Subnet
		}
		if !e.Subnet6.IsValid() {
			e.Subnet6 = s.from.Subnet6
		}
		if e.Tags == nil {
			e.Tags = s.from.Tags
		}
		e.Attachment = cmp.Or(e.Attachment, s.from.Attachment)
	}
	if e.SubnetID != "" && e.SubnetID == m.Instance.PrimarySubnet.ID && !e.Subnet.IsValid() {
		e.Subnet, e.Subnet6 = m.Instance.PrimarySubnet.Prefix, m.Instance.PrimarySubnet.Prefix6
	}
	e.Instance = cmp.Or(e.Instance, m.Instance.ID)
	e.Primary = e.MAC == m.Instance.PrimaryMAC
}

// managed reports whether this node may change the ENI: its tags say so, or it is
// the primary ENI, and no service of AWS manages it. Without tags, as while EC2 does
// not answer, the previous value remains, or the journal tells.
func (m *merger) managed(e ENI, v view) bool {
	switch {
	case e.Tags[TagNoManage] == "true", e.ManagedBy != "":
		return false
	case e.Primary:
		return true
	case e.Tags != nil:
		return e.Tags[TagOwner] == m.Owner && e.Tags[TagInstance] == m.Instance.ID
	case v.prev != nil:
		return v.prev.Managed
	}
	return v.own.made != nil || v.own.owned
}

// slots determines which of the ENI's slots exist and which are in doubt.
func (m *merger) slots(e *ENI, v view) {
	var all []netip.Prefix
	for _, s := range []*ENI{v.ec2, v.metadata, v.prev} {
		if s != nil {
			all = append(all, slices.Concat(s.Blocks(), s.Doubtful)...)
		}
	}
	for b := range v.own.changes {
		all = append(all, b)
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	e.Addrs, e.Prefixes, e.Doubtful = nil, nil, nil
	for _, b := range slices.Compact(all) {
		switch m.slot(b, v) {
		case slotSure:
			e.addBlock(b)
		case slotDoubtful:
			e.Doubtful = append(e.Doubtful, b)
		}
	}
	e.sortBlocks()
}

// doubtOwnIPv6 puts the IPv6 addresses of an ENI in doubt while it is not known which
// of them is the ENI's own, except for those that this node has assigned.
func (m *merger) doubtOwnIPv6(e *ENI, v view) {
	if e.Addr6.IsValid() || !e.hasOwnIPv6() {
		return
	}
	for _, a := range slices.Clone(e.Addrs) {
		b := netip.PrefixFrom(a, a.BitLen())
		if _, assigned := v.own.changes[b]; a.Is4() || assigned {
			continue
		}
		e.removeBlock(b)
		e.Doubtful = append(e.Doubtful, b)
	}
	e.sortBlocks()
}

// belief is the state of a slot as far as it is known.
type belief uint8

const (
	slotAbsent belief = iota
	slotDoubtful
	slotSure
)

// slot determines the state of one slot from the sources and this node's changes.
func (m *merger) slot(b netip.Prefix, v view) belief {
	c, ok := v.own.changes[b]
	switch {
	case !ok:
	case c.removed && (c.pending || m.recent(c.at)):
		return slotAbsent
	case m.recent(c.at):
		return slotSure
	case m.uncertainTime(c.at):
		if shown := m.slotFromSources(b, v); (shown == slotAbsent) == c.removed {
			return shown
		}
		return slotDoubtful
	}
	return m.slotFromSources(b, v)
}

// slotFromSources determines the state of one slot from the sources and the
// previous inventory, without this node's changes.
func (m *merger) slotFromSources(b netip.Prefix, v view) belief {
	was := beliefOf(v.prev, b)
	inMetadata := hasBlock(v.metadata, b)
	switch {
	case v.ec2 != nil && hasBlock(v.ec2, b), inMetadata && m.metadataSuffices(v):
		return slotSure
	case v.ec2 == nil && was != slotAbsent:
		return was // EC2 did not describe this ENI
	case inMetadata && (v.prev == nil || was != slotAbsent):
		return slotDoubtful
	case inMetadata && v.ec2 == nil:
		return slotDoubtful // only the metadata service shows it
	case inMetadata:
		return slotAbsent // the metadata is old: the slot was not known before, and EC2 omits it
	case v.metadata == nil && was != slotAbsent:
		return slotDoubtful // only EC2 omits it
	}
	return slotAbsent
}

// metadataSuffices reports whether the metadata service alone tells the slots of an ENI,
// because EC2 has not answered since this process began. The journal must name the ENI,
// so that it also has this node's latest changes, and the metadata must be newer than
// every change that an earlier process can have made.
func (m *merger) metadataSuffices(v view) bool {
	return v.own.owned && m.EC2At.IsZero() && (v.prev == nil || v.prev.Tags == nil) &&
		!m.Loaded.IsZero() && !m.MetadataAt.Before(m.Loaded.Add(m.Lag))
}

// hasBlock reports whether b is among the ENI's blocks. A nil ENI has none.
func hasBlock(e *ENI, b netip.Prefix) bool {
	if e == nil {
		return false
	}
	if b.IsSingleIP() {
		return slices.Contains(e.Addrs, b.Addr())
	}
	return slices.Contains(e.Prefixes, b)
}

// beliefOf returns the state of a slot in an earlier inventory.
func beliefOf(e *ENI, b netip.Prefix) belief {
	switch {
	case hasBlock(e, b):
		return slotSure
	case e != nil && slices.Contains(e.Doubtful, b):
		return slotDoubtful
	}
	return slotAbsent
}

// doubtDuplicates puts in doubt every slot that two ENIs have, even if one of them
// has it only in doubt. It spares an ENI that this node recently assigned the slot to.
func (m *merger) doubtDuplicates(enis []ENI) {
	claims := map[netip.Prefix]int{}
	for _, e := range enis {
		for _, b := range slices.Concat(e.Blocks(), e.Doubtful) {
			claims[b]++
		}
	}
	for i := range enis {
		e := &enis[i]
		for _, b := range e.Blocks() {
			if claims[b] < 2 || m.assignedHere(e.ID, b) {
				continue
			}
			e.removeBlock(b)
			e.Doubtful = append(e.Doubtful, b)
		}
		e.sortBlocks()
	}
}

// assignedHere reports whether this node recently assigned the slot to the ENI.
func (m *merger) assignedHere(id string, b netip.Prefix) bool {
	ev := m.own[id]
	if ev == nil {
		return false
	}
	c, ok := ev.changes[b]
	return ok && !c.removed && m.recent(c.at)
}

// removeBlock removes a block from the ENI's lists.
func (e *ENI) removeBlock(b netip.Prefix) {
	e.Addrs = slices.DeleteFunc(e.Addrs, func(a netip.Addr) bool { return b.IsSingleIP() && a == b.Addr() })
	e.Prefixes = slices.DeleteFunc(e.Prefixes, func(p netip.Prefix) bool { return p == b })
	e.Doubtful = slices.DeleteFunc(e.Doubtful, func(p netip.Prefix) bool { return p == b })
}

// later returns the later of two times.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// earlier returns the earlier of two times. It ignores a zero time.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
