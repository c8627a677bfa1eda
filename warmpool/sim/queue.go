// SPDX-License-Identifier: Apache-2.0

package sim

import "time"

// due is an entry of the queue.
type due struct {
	at time.Duration
	// seq orders entries with the same time by when they were pushed.
	seq        uint64
	node, pod  int32
	generation uint32
	kind       kind
}

// queue is a binary heap ordered by time.
type queue struct {
	heap []due
	seq  uint64
}

func (q *queue) next() time.Duration {
	if len(q.heap) == 0 {
		return never
	}
	return q.heap[0].at
}

func before(a, b *due) bool { return a.at < b.at || a.at == b.at && a.seq < b.seq }

func (q *queue) push(x due) {
	q.seq++
	x.seq = q.seq
	q.heap = append(q.heap, x)
	i := len(q.heap) - 1
	for i > 0 {
		parent := (i - 1) / 2
		if !before(&x, &q.heap[parent]) {
			break
		}
		q.heap[i] = q.heap[parent]
		i = parent
	}
	q.heap[i] = x
}

func (q *queue) pop() due {
	top := q.heap[0]
	last := len(q.heap) - 1
	x := q.heap[last]
	q.heap = q.heap[:last]
	i := 0
	for {
		child := 2*i + 1
		if child >= last {
			break
		}
		if child+1 < last && before(&q.heap[child+1], &q.heap[child]) {
			child++
		}
		if !before(&q.heap[child], &x) {
			break
		}
		q.heap[i] = q.heap[child]
		i = child
	}
	if last > 0 {
		q.heap[i] = x
	}
	return top
}

// fifo holds the cooling addresses. All cool for the same time, so they leave in
// the order in which they entered.
type fifo struct {
	ring  []coolingSlot
	first int
	size  int
}

type coolingSlot struct {
	until time.Duration
	node  int32
	slot  *slot
}

func (f *fifo) next() time.Duration {
	if f.size == 0 {
		return never
	}
	return f.ring[f.first].until
}

func (f *fifo) push(r coolingSlot) {
	if f.size == len(f.ring) {
		bigger := make([]coolingSlot, max(64, 2*f.size))
		for i := range f.size {
			bigger[i] = f.ring[(f.first+i)%len(f.ring)]
		}
		f.ring, f.first = bigger, 0
	}
	f.ring[(f.first+f.size)%len(f.ring)] = r
	f.size++
}

func (f *fifo) pop() coolingSlot {
	r := f.ring[f.first]
	f.ring[f.first] = coolingSlot{}
	f.first = (f.first + 1) % len(f.ring)
	f.size--
	return r
}
