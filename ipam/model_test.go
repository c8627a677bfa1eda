// SPDX-License-Identifier: Apache-2.0

package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/ipam"
)

const modelCooldown = time.Minute

// model is the state of a pool as its clients see it: the addresses of each pod,
// and the time of each release.
type model struct {
	t       *testing.T
	rnd     *rand.Rand
	journal *memory
	pool    *ipam.Pool
	held    map[string][]ipam.Allocation
	freed   map[netip.Addr]time.Time
	// last is the pod that has released each address.
	last map[netip.Addr]string
}

func (m *model) open() {
	m.pool = open(m.t, ipam.Config{Journal: m.journal, Cooldown: modelCooldown})
}

func (m *model) pod() string { return fmt.Sprint("pod", m.rnd.IntN(25)) }

func (m *model) eni() ipam.ENI {
	n := m.rnd.IntN(4)
	return ipam.ENI{ID: fmt.Sprint("eni-", n), Device: n}
}

// block returns a random block of an ENI. Some of them overlap.
func (m *model) block(eni int) netip.Prefix {
	switch m.rnd.IntN(4) {
	case 0:
		return netip.MustParsePrefix(fmt.Sprintf("10.0.%d.%d/28", eni, 16*m.rnd.IntN(3)))
	case 1:
		return netip.MustParsePrefix(fmt.Sprintf("2001:db8:0:%d::/80", eni))
	default:
		return netip.MustParsePrefix(fmt.Sprintf("10.0.%d.%d/32", eni, 30+m.rnd.IntN(8)))
	}
}

// addr returns a random address, mostly of a block that the pool may have.
func (m *model) addr() netip.Addr {
	if m.rnd.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte{10, 0, byte(m.rnd.IntN(4)), byte(m.rnd.IntN(50))})
	}
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:0:%d::%x", m.rnd.IntN(4), m.rnd.IntN(12)))
}

func (m *model) allocate() error {
	pod := m.pod()
	families := [][]ipam.Family{{4}, {6}, {4, 6}}[m.rnd.IntN(3)]
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Millisecond)
	defer cancel()
	r := request(pod, families...)
	if m.rnd.IntN(4) == 0 {
		r.Addrs = append(r.Addrs, m.addr())
	}
	got, err := m.pool.Allocate(ctx, r)
	if err != nil {
		return err
	}
	if len(r.Addrs) > 0 && !slices.Contains(addrs(got), r.Addrs[0]) {
		m.t.Errorf("%v got %v", r, got)
	}
	if old := m.held[pod]; old != nil {
		if !slices.EqualFunc(old, got, same) {
			m.t.Errorf("%s got %v first and %v later", pod, old, got)
		}
		return nil
	}
	for _, a := range got {
		for other, have := range m.held {
			for _, b := range have {
				if a.Addr == b.Addr {
					m.t.Errorf("%v belongs to both %s and %s", a.Addr, pod, other)
				}
			}
		}
		if at, ok := m.freed[a.Addr]; ok && time.Since(at) < modelCooldown && m.last[a.Addr] != pod {
			m.t.Errorf("%v was allocated %v after its release, want at least %v", a.Addr, time.Since(at), modelCooldown)
		}
	}
	m.held[pod] = got
	return nil
}

func (m *model) release() error {
	pod := m.pod()
	got, err := m.pool.Release(attachment(pod))
	if m.held[pod] == nil != errors.Is(err, ipam.ErrNotAllocated) && !errors.Is(err, ipam.ErrJournal) {
		m.t.Errorf("release of %s, which holds %v, returned %v", pod, m.held[pod], err)
	}
	if err == nil {
		for _, a := range got {
			m.freed[a.Addr], m.last[a.Addr] = time.Now(), pod
		}
		delete(m.held, pod)
	}
	return err
}

// step calls one method at random.
func (m *model) step() error {
	e := m.eni()
	b := m.block(e.Device)
	switch m.rnd.IntN(16) {
	case 0, 1, 2, 3:
		return m.allocate()
	case 4, 5, 6:
		return m.release()
	case 7:
		return m.pool.SetENI(e)
	case 8:
		return m.pool.SetReady(e.ID, m.rnd.IntN(4) > 0)
	case 9, 10:
		return m.pool.AddBlocks(ipam.Block{Prefix: b, ENI: e.ID}, ipam.Block{Prefix: m.block(e.Device), ENI: e.ID})
	case 11:
		return m.pool.DrainBlocks(b)
	case 12:
		return m.pool.RemoveBlocks(b)
	case 13:
		return errors.Join(m.pool.DoubtBlocks(true, b), m.pool.DoubtBlocks(false, b))
	case 14:
		time.Sleep(time.Duration(m.rnd.IntN(60)) * time.Second)
		return nil
	default:
		if m.rnd.IntN(2) == 0 {
			return m.pool.RemoveENI(e.ID)
		}
		return m.pool.DrainENI(e.ID)
	}
}

func (m *model) run(steps int) {
	for range steps {
		var before ipam.View
		failing := m.rnd.IntN(10) == 0
		if failing {
			before = durable(m.pool.View())
			m.journal.fail = errors.New("disk full")
		}
		err := m.step()
		m.journal.fail = nil
		if failing && errors.Is(err, ipam.ErrJournal) {
			m.unchanged("a failed write", before)
		}
		if m.rnd.IntN(20) == 0 {
			m.restart()
		}
		m.check()
		if m.t.Failed() {
			return
		}
	}
}

// unchanged checks that the pool still has the durable state before.
func (m *model) unchanged(what string, before ipam.View) {
	if after := durable(m.pool.View()); !reflect.DeepEqual(before, after) {
		m.t.Errorf("%s changed the pool:\n%s", what, cmp.Diff(before, after, equate))
	}
}

// restart replaces the pool by a new one with the same journal.
func (m *model) restart() {
	before := durable(m.pool.View())
	m.open()
	m.unchanged("a restart", before)
	for i := range 4 {
		if err := m.pool.SetReady(fmt.Sprint("eni-", i), true); err != nil && !errors.Is(err, ipam.ErrUnknown) {
			m.t.Error(err)
		}
	}
}

// same compares the fields of allocations that a journal stores.
func same(a, b ipam.Allocation) bool {
	equal := a.At.Equal(b.At)
	a.At, a.RequestedAt, b.At, b.RequestedAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	return equal && a == b
}

func (m *model) check() {
	for pod, have := range m.held {
		if got := m.pool.Lookup(attachment(pod)); !slices.EqualFunc(have, got, same) {
			m.t.Errorf("%s holds %v in the pool, want %v", pod, got, have)
		}
	}
	v := m.pool.View()
	if v.Attachments != len(m.held) {
		m.t.Errorf("%d attachments, want %d", v.Attachments, len(m.held))
	}
	for _, n := range v.ENIs {
		for _, b := range n.Blocks {
			used := 0
			for _, have := range m.held {
				for _, a := range have {
					if b.Prefix.Contains(a.Addr) {
						used++
					}
				}
			}
			if b.Used != used || b.Used < 0 || b.Cooling < 0 || b.Free < 0 {
				m.t.Errorf("%v: used %d cooling %d free %d, want %d used", b.Prefix, b.Used, b.Cooling, b.Free, used)
			}
		}
	}
}

// TestModel calls the methods of pools at random, with restarts and failing
// writes in between, and compares the pools with the model.
func TestModel(t *testing.T) {
	seeds := uint64(2000)
	if testing.Short() {
		seeds = 200
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			m := &model{
				t: t, rnd: rand.New(rand.NewPCG(seed, 1)), journal: &memory{},
				held: map[string][]ipam.Allocation{}, freed: map[netip.Addr]time.Time{}, last: map[netip.Addr]string{},
			}
			m.open()
			m.run(80)
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
