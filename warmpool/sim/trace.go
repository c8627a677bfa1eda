// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"time"
)

// Event is a pod that comes to a node or leaves it.
type Event struct {
	At   time.Duration
	Node int
	// Pod names the pod on its node; small numbers that are used again.
	Pod int
	// Delete says that the pod leaves.
	Delete bool
}

// Trace is a sequence of events in the order of time. Events can be ranged
// over several times and always yields the same.
type Trace struct {
	Name  string
	Nodes int
	// Horizon is when the simulation ends.
	Horizon time.Duration
	// From is when measuring starts: what comes before fills the nodes.
	From   time.Duration
	Events iter.Seq[Event]
}

// record is a line of a trace file.
type record struct {
	Time float64 `json:"time"` // seconds
	Node string  `json:"node"`
	Op   string  `json:"op"` // add or delete
	Pod  string  `json:"pod"`
}

// ReadJSONLines reads a trace of one JSON object a line:
//
//	{"time": 12.5, "node": "n1", "op": "add", "pod": "web-7"}
//
// Time is in seconds since the start. Without pod names a deletion takes the
// node's oldest pod.
func ReadJSONLines(r io.Reader) (Trace, error) {
	var records []record
	dec := json.NewDecoder(r)
	for {
		var rec record
		err := dec.Decode(&rec)
		if errors.Is(err, io.EOF) {
			return newTrace(records)
		}
		if err != nil {
			return Trace{}, fmt.Errorf("%w: record %d: %w", ErrTrace, len(records)+1, err)
		}
		records = append(records, rec)
	}
}

// ReadCSV reads a trace of lines `time,node,op,pod`, the pod column being
// optional, with or without a header line. The meaning is that of
// ReadJSONLines.
func ReadCSV(r io.Reader) (Trace, error) {
	in := csv.NewReader(r)
	in.FieldsPerRecord = -1
	in.TrimLeadingSpace = true
	var records []record
	for {
		line, err := in.Read()
		if errors.Is(err, io.EOF) {
			return newTrace(records)
		}
		if err != nil {
			return Trace{}, fmt.Errorf("%w: %w", ErrTrace, err)
		}
		row, _ := in.FieldPos(0)
		if len(line) < 3 || len(line) > 4 {
			return Trace{}, fmt.Errorf("%w: line %d has %d fields, want time,node,op[,pod]", ErrTrace, row, len(line))
		}
		rec := record{Node: line[1], Op: line[2]}
		if len(line) == 4 {
			rec.Pod = line[3]
		}
		if rec.Time, err = strconv.ParseFloat(line[0], 64); err != nil {
			if row == 1 {
				continue // the header
			}
			return Trace{}, fmt.Errorf("%w: line %d: time %q is no number of seconds", ErrTrace, row, line[0])
		}
		records = append(records, rec)
	}
}

// names turns the names of a trace file into small numbers.
type names struct {
	nodes map[string]int
	live  []map[string]int // pod name to number, by node
	order [][]string       // pods in order of arrival, by node
	free  [][]int
	next  []int
	auto  int
}

// newTrace checks the records and numbers their nodes and pods.
func newTrace(records []record) (Trace, error) {
	slices.SortStableFunc(records, func(a, b record) int {
		switch {
		case a.Time < b.Time:
			return -1
		case a.Time > b.Time:
			return 1
		}
		return 0
	})
	n := names{nodes: map[string]int{}}
	events := make([]Event, 0, len(records))
	for i, r := range records {
		if r.Time < 0 || r.Time > 1e9 || r.Node == "" {
			return Trace{}, fmt.Errorf("%w: record %d: time %g at node %q", ErrTrace, i+1, r.Time, r.Node)
		}
		ev := Event{At: time.Duration(r.Time * float64(time.Second)), Node: n.node(r.Node), Delete: r.Op == "delete"}
		if r.Op != "add" && r.Op != "delete" {
			return Trace{}, fmt.Errorf("%w: record %d: op %q is neither add nor delete", ErrTrace, i+1, r.Op)
		}
		var err error
		if ev.Delete {
			ev.Pod, err = n.leave(ev.Node, r.Pod)
		} else {
			ev.Pod, err = n.arrive(ev.Node, r.Pod)
		}
		if err != nil {
			return Trace{}, fmt.Errorf("%w: record %d: %w", ErrTrace, i+1, err)
		}
		events = append(events, ev)
	}
	if len(events) == 0 {
		return Trace{}, fmt.Errorf("%w: no events", ErrTrace)
	}
	return Trace{
		Name: "trace", Nodes: len(n.nodes),
		Horizon: events[len(events)-1].At + 10*time.Minute,
		Events:  slices.Values(events),
	}, nil
}

func (n *names) node(name string) int {
	i, ok := n.nodes[name]
	if !ok {
		i = len(n.nodes)
		n.nodes[name] = i
		n.live = append(n.live, map[string]int{})
		n.order = append(n.order, nil)
		n.free = append(n.free, nil)
		n.next = append(n.next, 0)
	}
	return i
}

func (n *names) arrive(node int, pod string) (int, error) {
	if pod == "" {
		n.auto++
		pod = "#" + strconv.Itoa(n.auto)
	}
	if _, ok := n.live[node][pod]; ok {
		return 0, fmt.Errorf("pod %q comes twice", pod)
	}
	id := n.next[node]
	if k := len(n.free[node]); k > 0 {
		id, n.free[node] = n.free[node][k-1], n.free[node][:k-1]
	} else {
		n.next[node]++
	}
	n.live[node][pod] = id
	n.order[node] = append(n.order[node], pod)
	return id, nil
}

func (n *names) leave(node int, pod string) (int, error) {
	for i, name := range n.order[node] {
		if pod == "" || name == pod {
			id := n.live[node][name]
			delete(n.live[node], name)
			n.order[node] = slices.Delete(n.order[node], i, i+1)
			n.free[node] = append(n.free[node], id)
			return id, nil
		}
	}
	return 0, fmt.Errorf("pod %q leaves but is not there", pod)
}
