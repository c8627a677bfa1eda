// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vpcnet/vpcnet/internal/fabric/vpcrules"
)

// readEvery is the time between two readings of the counters, and so the precision of
// the times in the records.
const readEvery = time.Second

const defaultAccount = "123456789012"

// FlowLog records the flows of all ENIs. It is safe for concurrent use.
type FlowLog struct {
	fabric *Fabric
	stop   chan struct{}
	done   chan struct{}
	once   sync.Once

	// The mutex of the Fabric guards the following fields.
	records *vpcrules.Aggregator
	err     error // of a reading that failed
}

// FlowLog begins to record the flows of all ENIs, as a VPC flow log does. A Fabric has
// one flow log at a time; while there is one, the error is os.ErrExist. The caller should
// close the flow log; the Fabric closes it as well.
//
// The log sees the packets that the router forwards: it records ACCEPT at the sending
// and at the receiving ENI, and REJECT at the ENI whose security groups or network ACL
// denied the packet. As in AWS it does not record the traffic with the router itself, to
// which the metadata service and the resolver belong. It also does not record packets
// that the source/destination check or the route tables drop.
func (f *Fabric) FlowLog(in FlowLogInput) (*FlowLog, error) {
	in.Account, in.Interval = cmp.Or(in.Account, defaultAccount), cmp.Or(in.Interval, time.Minute)
	if in.Interval < readEvery {
		return nil, fmt.Errorf("fabric: flow log: interval is %v, want at least %v", in.Interval, readEvery)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.net == nil:
		return nil, errClosed
	case f.log != nil:
		return nil, fmt.Errorf("fabric: flow log: %w", os.ErrExist)
	}
	l := &FlowLog{fabric: f, stop: make(chan struct{}), done: make(chan struct{})}
	l.records = vpcrules.NewAggregator(in.Account, in.Interval, time.Now())
	f.log = l
	if err := errors.Join(f.applyRules(), f.net.setFlowLog(true)); err != nil {
		f.log = nil
		return nil, fmt.Errorf("fabric: flow log: %w", err)
	}
	go l.run()
	return l, nil
}

// run reads the counters until the flow log is closed.
func (l *FlowLog) run() {
	defer close(l.done)
	tick := time.NewTicker(readEvery)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
			l.fabric.mu.Lock()
			l.read()
			l.fabric.mu.Unlock()
		}
	}
}

// read adds the counters of the router to the records. The caller holds the mutex of the
// Fabric.
func (l *FlowLog) read() {
	f := l.fabric
	if f.net == nil || f.log != l {
		return
	}
	o := vpcrules.Observation{ENIs: map[string]netip.Addr{}}
	byIndex := map[int]string{}
	for id, p := range f.ports {
		byIndex[p.index] = id
		o.ENIs[id] = netip.Addr{}
		if p.Addr.Is4() {
			o.ENIs[id] = p.Addr
		}
	}
	var err error
	if o.Counts, o.Skipped, err = f.net.readFlows(byIndex); err != nil {
		l.err = errors.Join(l.err, err)
		return
	}
	o.Time = time.Now()
	l.records.Observe(o)
}

// Records ends the current aggregation interval and returns the records of all intervals
// that ended since the last call. The intervals are in order; the records of one interval
// are sorted by ENI and start. An ENI without traffic in an interval has a record with the
// status NODATA. The times are precise to a second. After Close the error is os.ErrClosed.
func (l *FlowLog) Records() ([]vpcrules.Record, error) {
	l.fabric.mu.Lock()
	defer l.fabric.mu.Unlock()
	if l.fabric.log != l {
		return nil, fmt.Errorf("fabric: flow log: %w", os.ErrClosed)
	}
	l.read()
	l.records.End()
	err := l.err
	l.err = nil
	return l.records.Take(), err
}

// Close ends the flow log. A second call does nothing.
func (l *FlowLog) Close() error {
	var err error
	l.once.Do(func() {
		close(l.stop)
		<-l.done
		l.fabric.mu.Lock()
		defer l.fabric.mu.Unlock()
		l.fabric.log = nil
		if l.fabric.net != nil {
			err = errors.Join(l.fabric.net.setFlowLog(false), l.fabric.applyRules())
		}
	})
	if err != nil {
		return fmt.Errorf("fabric: flow log: %w", err)
	}
	return nil
}

// setFlowLog begins or ends to count flows.
func (r *routing) setFlowLog(on bool) error {
	b := &builder{routing: r, t: table()}
	if b.logFlows(on); b.err != nil {
		return b.err
	}
	for _, v := range ipVersions {
		r.nft.FlushSet(v.flows(flowSet, maxFlows))
	}
	return r.nft.Flush()
}

// readFlows returns the counters of the flows of the ENIs with the given link indexes.
// It returns true if the router had no room for some flows.
func (r *routing) readFlows(byIndex map[int]string) (map[vpcrules.Flow]vpcrules.Count, bool, error) {
	counts, full := map[vpcrules.Flow]vpcrules.Count{}, false
	for _, v := range ipVersions {
		elements, err := r.nft.GetSetElements(v.flows(flowSet, maxFlows))
		if err != nil {
			return nil, false, fmt.Errorf("counters of flows: %w", err)
		}
		full = full || len(elements) >= maxFlows
		for _, e := range elements {
			k, ok := v.parseKey(e.Key)
			id, attached := byIndex[k.index]
			if !ok || !attached || e.Counter == nil {
				continue
			}
			f := vpcrules.Flow{
				ENI: id, Outbound: k.mark&markInbound == 0, Action: vpcrules.Accept, Protocol: k.protocol,
				Src: k.src, Dst: k.dst, SrcPort: k.srcPort, DstPort: k.dstPort,
			}
			if k.mark&markRejected != 0 {
				f.Action = vpcrules.Reject
			}
			counts[f] = vpcrules.Count{Packets: e.Counter.Packets, Bytes: e.Counter.Bytes}
		}
	}
	return counts, full, nil
}
