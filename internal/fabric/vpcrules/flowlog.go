// SPDX-License-Identifier: Apache-2.0

package vpcrules

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Flow identifies the packets that one flow log record counts.
type Flow struct {
	ENI              string
	Outbound         bool
	Action           Action
	Protocol         uint8
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
}

// Count is a counter that grows.
type Count struct{ Packets, Bytes uint64 }

// Observation is a reading of all counters.
type Observation struct {
	Time time.Time
	// ENIs are the primary private IPv4 addresses of the attached ENIs, by ID. The
	// address is the zero Addr if the ENI has none.
	ENIs map[string]netip.Addr
	// Counts are the counters of the flows. A counter that is missing begins again at
	// zero.
	Counts map[Flow]Count
	// Skipped means that some flows had no counter.
	Skipped bool
}

// Aggregator makes flow log records from readings of counters. It is not safe for
// concurrent use.
type Aggregator struct {
	account  string
	interval time.Duration
	begin    time.Time // of the current aggregation interval
	last     time.Time // of the last observation
	seen     map[Flow]Count
	current  map[Flow]*Record
	enis     map[string]netip.Addr // all that were attached in the current interval
	skipped  bool
	records  []Record
}

// NewAggregator returns an Aggregator. Its first interval begins now.
func NewAggregator(account string, interval time.Duration, now time.Time) *Aggregator {
	a := &Aggregator{account: account, interval: interval, last: now, seen: map[Flow]Count{}}
	a.next(now)
	return a
}

func (a *Aggregator) next(now time.Time) {
	a.begin, a.current, a.enis, a.skipped = now, map[Flow]*Record{}, map[string]netip.Addr{}, false
}

// Observe adds the growth of the counters since the last observation to the records of
// the current interval. If the interval is over then, it ends with this observation.
func (a *Aggregator) Observe(o Observation) {
	for id, addr := range o.ENIs {
		a.enis[id] = addr
	}
	a.skipped = a.skipped || o.Skipped
	for f, count := range o.Counts {
		before := a.seen[f]
		if count.Packets < before.Packets { // the counter has begun again
			before = Count{}
		}
		if _, attached := a.enis[f.ENI]; !attached || count.Packets == before.Packets {
			continue
		}
		r := a.current[f]
		if r == nil {
			r = a.record(f)
			a.current[f] = r
		}
		r.Packets, r.Bytes = r.Packets+count.Packets-before.Packets, r.Bytes+count.Bytes-before.Bytes
		r.End = o.Time.Truncate(time.Second)
	}
	a.seen, a.last = o.Counts, o.Time
	if o.Time.Sub(a.begin) >= a.interval {
		a.End()
	}
}

// record returns an empty record that begins at the last observation.
func (a *Aggregator) record(f Flow) *Record {
	r := &Record{
		Account: a.account, ENI: f.ENI, Src: f.Src, Dst: f.Dst, PktSrc: f.Src, PktDst: f.Dst,
		SrcPort: f.SrcPort, DstPort: f.DstPort, Protocol: f.Protocol,
		Start: a.last.Truncate(time.Second), Action: f.Action, Status: StatusOK,
	}
	// AWS shows the primary address in place of all IPv4 addresses of the ENI's end
	// (https://docs.aws.amazon.com/vpc/latest/userguide/flow-logs-limitations.html).
	own := &r.Dst
	if f.Outbound {
		own = &r.Src
	}
	if primary := a.enis[f.ENI]; primary.IsValid() && own.Is4() {
		*own = primary
	}
	return r
}

// End ends the current interval at the last observation.
func (a *Aggregator) End() {
	idle := map[string]bool{}
	for id := range a.enis {
		idle[id] = true
	}
	first := len(a.records)
	for _, r := range a.current {
		delete(idle, r.ENI)
		a.records = append(a.records, *r)
	}
	empty := func(id string, status LogStatus) {
		a.records = append(a.records, Record{
			Account: a.account, ENI: id, Start: a.begin.Truncate(time.Second), End: a.last.Truncate(time.Second), Status: status,
		})
	}
	for id := range a.enis {
		switch {
		case a.skipped:
			empty(id, SkipData)
		case idle[id]:
			empty(id, NoData)
		}
	}
	slices.SortFunc(a.records[first:], Record.compare)
	a.next(a.last)
}

func (r Record) compare(o Record) int {
	return cmp.Or(
		cmp.Compare(r.ENI, o.ENI), r.Start.Compare(o.Start), cmp.Compare(r.Status, o.Status),
		cmp.Compare(r.Protocol, o.Protocol), r.PktSrc.Compare(o.PktSrc), r.PktDst.Compare(o.PktDst),
		cmp.Compare(r.SrcPort, o.SrcPort), cmp.Compare(r.DstPort, o.DstPort), cmp.Compare(r.Action, o.Action),
	)
}

// Take returns the records of all intervals that have ended since the last call. The
// intervals are in order; the records of one interval are sorted by ENI and start.
func (a *Aggregator) Take() []Record {
	all := a.records
	a.records = nil
	return all
}
