// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// MergeInput is all that is known when an Inventory is made.
type MergeInput struct {
	// Prev is the Inventory before; zero at start.
	Prev Inventory
	// EC2 and Metadata are the ENIs of the instance as each source shows them,
	// EC2At and MetadataAt when it was asked; a zero time means that it did not
	// answer.
	EC2, Metadata     []ENI
	EC2At, MetadataAt time.Time
	// Intents are the own mutations, open ones and those done lately.
	Intents []Intent
	// Loaded is when this process read the intents that an earlier process
	// wrote: none of those changed after it. Zero means that all are its own.
	Loaded time.Time
	// Instance is the instance, and Owner the value of our owner tag.
	Instance Instance
	Owner    string
	// Lag is how long after a change a source may still show the state before.
	Lag time.Duration
	// TripShare is the share of known slots that may vanish at once.
	TripShare float64
}

// Merge weighs what the sources say and returns what to believe. It is a pure
// function. Without any source it brings Prev up to date with the intents:
//
//   - what EC2 shows is there, unless this node took it away within Lag;
//   - what this node made within Lag is there, whoever denies it;
//   - what was known, and one source denies, stays, its slots in doubt;
//   - what was known and both sources deny is gone;
//   - what only the metadata service shows is in doubt.
func Merge(in MergeInput) Inventory {
	m := merger{MergeInput: in, at: earlier(in.EC2At, in.MetadataAt), own: evidenceOf(in.Intents)}
	if m.at.IsZero() {
		m.at = in.Prev.At // only the own mutations are news
	}
	inv := Inventory{Instance: in.Instance, At: later(in.EC2At, in.MetadataAt), EC2At: in.EC2At, MetadataAt: in.MetadataAt, Trip: in.Prev.Trip}
	if !in.EC2At.IsZero() {
		inv.Source |= SourceEC2
	}
	if !in.MetadataAt.IsZero() {
		inv.Source |= SourceMetadata
	}
	for _, id := range m.ids() {
		e, verdict := m.merge(id)
		switch verdict {
		case present:
			inv.ENIs = append(inv.ENIs, e)
		case vanished:
			inv.Gone = append(inv.Gone, id)
		}
	}
	m.settleDoubles(inv.ENIs)
	m.checkTrip(&inv)
	slices.SortFunc(inv.ENIs, func(a, b ENI) int {
		return cmp.Or(cmp.Compare(a.Card, b.Card), cmp.Compare(a.Device, b.Device), cmp.Compare(a.ID, b.ID))
	})
	return inv
}

// merger is a Merge under way. at is when the sources were asked, the first of
// them if both were: no change after it can be expected to show.
type merger struct {
	MergeInput
	at  time.Time
	own map[string]*evidence
}

// verdict is what becomes of an ENI.
type verdict uint8

const (
	absent   verdict = iota // it is not, and was not known to be
	present                 // it is in the inventory
	vanished                // it was known, and is no more
)

// view is what is said of one ENI; nil where a source does not show it.
type view struct {
	ec2, metadata, prev *ENI
	own                 *evidence
}

func (m *merger) view(id string) view {
	v := view{ec2: find(m.EC2, id), metadata: find(m.Metadata, id), prev: find(m.Prev.ENIs, id), own: m.own[id]}
	if v.own == nil {
		v.own = &evidence{}
	}
	return v
}

func find(enis []ENI, id string) *ENI {
	i := slices.IndexFunc(enis, func(e ENI) bool { return e.ID == id })
	if i < 0 {
		return nil
	}
	return &enis[i]
}

// ids lists every ENI that anyone knows of, sorted.
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

// recent says whether a source may still show the state from before t.
func (m *merger) recent(t time.Time) bool {
	return m.weighs(t) && !m.unsure(t)
}

// weighs says whether a source may still show the state from before t, as far as
// the time can be relied on.
func (m *merger) weighs(t time.Time) bool {
	return m.at.Before(t.Add(m.Lag)) || m.unsure(t)
}

// unsure says that nothing is certain about when a change at t was: an earlier
// process noted it, by a clock that may have been set since, either with a time
// in the future, which reading made the time of reading, or with one that seems
// long ago. It holds until the sources have had the time to show the change,
// however late it was.
func (m *merger) unsure(t time.Time) bool {
	if t.IsZero() || m.Loaded.IsZero() || t.After(m.Loaded) || !m.at.Before(m.Loaded.Add(m.Lag)) {
		return false
	}
	return t.Equal(m.Loaded) || !m.at.Before(t.Add(m.Lag))
}

func (m *merger) merge(id string) (ENI, verdict) {
	v := m.view(id)
	if v.own.gone && m.recent(v.own.left) {
		return ENI{}, absent
	}
	base, verdict := m.base(v)
	if verdict != present {
		return ENI{}, verdict
	}
	e := base.clone()
	m.fill(&e, v)
	e.InFlight = v.own.coming || v.own.leaving || v.own.gone && m.unsure(v.own.left)
	e.Managed = m.managed(e, v)
	m.slots(&e, v)
	return e, present
}

// base picks the description to start from.
func (m *merger) base(v view) (ENI, verdict) {
	made := v.own.made != nil && m.weighs(v.own.attached)
	switch {
	case v.ec2 != nil:
		return *v.ec2, present
	case v.own.coming && (v.prev == nil || m.denied(v, made)):
		return ENI{}, absent // not attached yet; its intent holds the slot
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

// denied says whether both sources answered and neither shows an ENI that was
// not made here just now.
func (m *merger) denied(v view, made bool) bool {
	return !made && !m.EC2At.IsZero() && !m.MetadataAt.IsZero() && v.metadata == nil
}

// fill adds what one source knows and another does not.
func (m *merger) fill(e *ENI, v view) {
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

// managed says whether the ENI is ours to change: by its tags, or as the
// primary one. Without tags, as when EC2 is away, what was known holds.
func (m *merger) managed(e ENI, v view) bool {
	switch {
	case e.Tags[TagNoManage] == "true":
		return false
	case e.Primary:
		return true
	case e.Tags != nil:
		return e.Tags[TagOwner] == m.Owner && e.Tags[TagInstance] == m.Instance.ID
	case v.prev != nil:
		return v.prev.Managed
	}
	return v.own.made != nil
}

// slots settles which of the ENI's slots are there and which in doubt.
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
		case sure:
			e.addBlock(b)
		case doubtful:
			e.Doubtful = append(e.Doubtful, b)
		}
	}
	e.sortBlocks()
}

// belief is what to think of a slot.
type belief uint8

const (
	no belief = iota
	doubtful
	sure
)

func (m *merger) slot(b netip.Prefix, v view) belief {
	c, ok := v.own.changes[b]
	switch {
	case !ok:
	case c.removed && (c.open || m.recent(c.at)):
		return no
	case m.recent(c.at):
		return sure
	case m.unsure(c.at):
		if shown := m.shown(b, v); (shown == no) == c.removed {
			return shown
		}
		return doubtful
	}
	return m.shown(b, v)
}

// shown is what to think of a slot by the sources, and what was known, alone.
func (m *merger) shown(b netip.Prefix, v view) belief {
	was := believed(v.prev, b)
	inMetadata := holds(v.metadata, b)
	switch {
	case v.ec2 != nil && holds(v.ec2, b):
		return sure
	case v.ec2 == nil && was != no:
		return was // EC2 has not been heard on this ENI
	case inMetadata && (v.prev == nil || was != no):
		return doubtful
	case inMetadata && v.ec2 == nil:
		return doubtful // the metadata service alone knows it
	case inMetadata:
		return no // an old view: it was not known before, and EC2 denies it
	case v.metadata == nil && was != no:
		return doubtful // EC2 alone denies it
	}
	return no
}

func holds(e *ENI, b netip.Prefix) bool {
	if e == nil {
		return false
	}
	if b.IsSingleIP() {
		return slices.Contains(e.Addrs, b.Addr())
	}
	return slices.Contains(e.Prefixes, b)
}

// believed is what an earlier inventory made of a slot.
func believed(e *ENI, b netip.Prefix) belief {
	switch {
	case holds(e, b):
		return sure
	case e != nil && slices.Contains(e.Doubtful, b):
		return doubtful
	}
	return no
}

// settleDoubles puts in doubt what two ENIs claim, be it in doubt already,
// unless it was put on one of them here just now.
func (m *merger) settleDoubles(enis []ENI) {
	claims := map[netip.Prefix]int{}
	for _, e := range enis {
		for _, b := range slices.Concat(e.Blocks(), e.Doubtful) {
			claims[b]++
		}
	}
	for i := range enis {
		e := &enis[i]
		for _, b := range e.Blocks() {
			if claims[b] < 2 || m.putHere(e.ID, b) {
				continue
			}
			e.drop(b)
			e.Doubtful = append(e.Doubtful, b)
		}
		e.sortBlocks()
	}
}

func (m *merger) putHere(id string, b netip.Prefix) bool {
	ev := m.own[id]
	if ev == nil {
		return false
	}
	c, ok := ev.changes[b]
	return ok && !c.removed && m.recent(c.at)
}

// drop takes a slot off the ENI's lists.
func (e *ENI) drop(b netip.Prefix) {
	e.Addrs = slices.DeleteFunc(e.Addrs, func(a netip.Addr) bool { return b.IsSingleIP() && a == b.Addr() })
	e.Prefixes = slices.DeleteFunc(e.Prefixes, func(p netip.Prefix) bool { return p == b })
	e.Doubtful = slices.DeleteFunc(e.Doubtful, func(p netip.Prefix) bool { return p == b })
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// earlier is the earlier of two times that are set.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
