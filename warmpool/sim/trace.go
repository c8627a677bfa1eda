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

// Event is the start or the end of a pod on a node.
type Event struct {
	At   time.Duration
	Node int
	// Pod is the number of the pod on its node. Numbers are small, because the
	// numbers of stopped pods are used again.
	Pod int
	// Delete is set for the end of a pod.
	Delete bool
}

// Trace is a sequence of events in order of time. Events can be iterated several
// times and always yields the same events.
type Trace struct {
	Name  string
	Nodes int
	// Horizon is the end of the simulation.
	Horizon time.Duration
	// From is the start of the measured time. Earlier events fill the nodes.
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

// ReadJSONLines reads a trace of one JSON object per line:
//
//	{"time": 12.5, "node": "n1", "op": "add", "pod": "web-7"}
//
// The time is in seconds since the start. The op is add or delete. Without a pod
// name, delete stops the oldest pod of the node.
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

// ReadCSV reads a trace of lines `time,node,op,pod`, with the same meaning as in
// ReadJSONLines. The pod column and a header line are optional.
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
				continue // header
			}
			return Trace{}, fmt.Errorf("%w: line %d: time %q is not a number of seconds", ErrTrace, row, line[0])
		}
		records = append(records, rec)
	}
}

// names maps the names in a trace file to small numbers.
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
			return Trace{}, fmt.Errorf("%w: record %d: time %g, node %q: want 0 to 1e9 and a name", ErrTrace, i+1, r.Time, r.Node)
		}
		ev := Event{At: time.Duration(r.Time * float64(time.Second)), Node: n.node(r.Node), Delete: r.Op == "delete"}
		if r.Op != "add" && r.Op != "delete" {
			return Trace{}, fmt.Errorf("%w: record %d: op %q, want add or delete", ErrTrace, i+1, r.Op)
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
		return 0, fmt.Errorf("pod %q starts twice", pod)
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
	return 0, fmt.Errorf("pod %q stops but does not run", pod)
}
