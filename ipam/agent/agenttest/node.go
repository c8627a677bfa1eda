// SPDX-License-Identifier: Apache-2.0

package agenttest

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
)

// Node is an instance and its links. The zero value has a primary ENI and the limits of
// an m5.large. Set the fields before the first call. It is safe for concurrent use.
type Node struct {
	// MaxENIs is the number of ENIs on card 0, the only one. Zero means 3.
	MaxENIs int
	// SlotsPerENI is the number of IPv4 blocks of an ENI. Zero means 9.
	SlotsPerENI int
	// Prefixes makes an IPv4 block a /28 prefix instead of a single address.
	Prefixes bool
	// Latency is how long each call of the provider takes. Calls of the links take no
	// time.
	Latency time.Duration

	mu     sync.Mutex
	enis   []agent.ENI
	made   int // ENIs created so far
	blocks [2]uint32
	calls  map[string]int
	links  map[string][]netip.Prefix
}

var (
	_ agent.Provider = (*Node)(nil)
	_ agent.Links    = (*Node)(nil)
)

// primaryID is the ID of the primary ENI.
const primaryID = "eni-0"

// refusal is an error with a reason, see agent.ReasonOf.
type refusal struct {
	reason ipam.Reason
	text   string
}

func (r refusal) Error() string  { return r.text }
func (r refusal) Reason() string { return string(r.reason) }

// Calls returns the number of calls by name: observe, create, assign, unassign and
// delete. The caller owns the map.
func (n *Node) Calls() map[string]int {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := maps.Clone(n.calls)
	if out == nil {
		out = map[string]int{}
	}
	return out
}

// ENIs returns the present ENIs in the order in which they were created.
func (n *Node) ENIs() []agent.ENI {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.snapshot()
}

// snapshot copies the ENIs. The caller holds n.mu.
func (n *Node) snapshot() []agent.ENI {
	n.start()
	out := slices.Clone(n.enis)
	for i := range out {
		out[i].Blocks = slices.Clone(out[i].Blocks)
	}
	return out
}

// start creates the primary ENI and the defaults. The caller holds n.mu.
func (n *Node) start() {
	if n.calls != nil {
		return
	}
	n.calls, n.links = map[string]int{}, map[string][]netip.Prefix{}
	if n.MaxENIs == 0 {
		n.MaxENIs = 3
	}
	if n.SlotsPerENI == 0 {
		n.SlotsPerENI = 9
	}
	n.enis = []agent.ENI{{ID: primaryID, Primary: true}}
}

// call counts a call and takes its time.
func (n *Node) call(ctx context.Context, name string) error {
	n.mu.Lock()
	n.start()
	n.calls[name]++
	n.mu.Unlock()
	select {
	case <-time.After(n.Latency):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Observe implements [agent.Provider].
func (n *Node) Observe(ctx context.Context) (agent.Observation, error) {
	at := time.Now()
	if err := n.call(ctx, "observe"); err != nil {
		return agent.Observation{}, err
	}
	return agent.Observation{ENIs: n.ENIs(), Source: "agenttest", At: at}, nil
}

// CreateENI implements [agent.Provider].
func (n *Node) CreateENI(ctx context.Context, in agent.CreateInput) (agent.ENI, error) {
	if err := n.call(ctx, "create"); err != nil {
		return agent.ENI{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if in.Card != 0 || len(n.enis) >= n.MaxENIs {
		return agent.ENI{}, refusal{ipam.ReasonENILimit, fmt.Sprintf("card %d has its maximum of ENIs", in.Card)}
	}
	n.made++
	e := agent.ENI{ID: fmt.Sprint("eni-", n.made), Device: n.freeDevice()}
	for _, f := range in.Families {
		e.Blocks = append(e.Blocks, n.take(f, n.slots(f, in.Slots))...)
	}
	n.enis = append(n.enis, e)
	e.Blocks = slices.Clone(e.Blocks)
	return e, nil
}

// slots returns how many blocks of a family a new ENI gets.
func (n *Node) slots(f ipam.Family, requested int) int {
	if f == ipam.IPv6 {
		return 1
	}
	return min(requested, n.SlotsPerENI)
}

func (n *Node) freeDevice() int {
	device := 1
	for slices.ContainsFunc(n.enis, func(e agent.ENI) bool { return e.Device == device }) {
		device++
	}
	return device
}

// take returns the next blocks of a family: of 10.0.0.0/8 or 2001:db8::/32.
func (n *Node) take(f ipam.Family, blocks int) (out []netip.Prefix) {
	for range blocks {
		if f == ipam.IPv6 {
			addr := [16]byte{0x20, 0x01, 0x0d, 0xb8}
			binary.BigEndian.PutUint32(addr[6:], n.blocks[1])
			n.blocks[1]++
			out = append(out, netip.PrefixFrom(netip.AddrFrom16(addr), 80))
			continue
		}
		bits, step := 32, uint32(1)
		if n.Prefixes {
			bits, step = 28, 16
		}
		var addr [4]byte
		binary.BigEndian.PutUint32(addr[:], 10<<24|n.blocks[0])
		n.blocks[0] += step
		out = append(out, netip.PrefixFrom(netip.AddrFrom4(addr), bits))
	}
	return out
}

// Assign implements [agent.Provider].
func (n *Node) Assign(ctx context.Context, in agent.AssignInput) ([]netip.Prefix, error) {
	if err := n.call(ctx, "assign"); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.find(in.ENI)
	if e == nil {
		return nil, refusal{ipam.ReasonNotManaged, in.ENI + " does not exist"}
	}
	have := 0
	for _, b := range e.Blocks {
		if ipam.FamilyOf(b.Addr()) == in.Family {
			have++
		}
	}
	if have+in.Slots > n.SlotsPerENI {
		return nil, refusal{ipam.ReasonSlotLimit, fmt.Sprintf("%s has %d of %d slots, no room for %d", in.ENI, have, n.SlotsPerENI, in.Slots)}
	}
	got := n.take(in.Family, in.Slots)
	e.Blocks = append(e.Blocks, got...)
	return got, nil
}

// find returns an ENI, nil if there is none. The caller holds n.mu.
func (n *Node) find(id string) *agent.ENI {
	i := slices.IndexFunc(n.enis, func(e agent.ENI) bool { return e.ID == id })
	if i < 0 {
		return nil
	}
	return &n.enis[i]
}

// Unassign implements [agent.Provider].
func (n *Node) Unassign(ctx context.Context, id string, blocks []netip.Prefix) error {
	if err := n.call(ctx, "unassign"); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if e := n.find(id); e != nil {
		e.Blocks = slices.DeleteFunc(e.Blocks, func(p netip.Prefix) bool { return slices.Contains(blocks, p) })
	}
	return nil
}

// DeleteENI implements [agent.Provider]. It refuses the primary ENI.
func (n *Node) DeleteENI(ctx context.Context, id string) error {
	if err := n.call(ctx, "delete"); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if id == primaryID {
		return refusal{ipam.ReasonNotManaged, id + " is the primary ENI"}
	}
	n.enis = slices.DeleteFunc(n.enis, func(e agent.ENI) bool { return e.ID == id })
	return nil
}

// Ensure implements [agent.Links].
func (n *Node) Ensure(_ context.Context, e agent.ENI) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.start()
	n.links[e.ID] = slices.Clone(e.Blocks)
	return nil
}

// Remove implements [agent.Links].
func (n *Node) Remove(_ context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.links, id)
	return nil
}

// Links returns the blocks that each link carries, by ENI. The caller owns the map.
func (n *Node) Links() map[string][]netip.Prefix {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := map[string][]netip.Prefix{}
	for id, blocks := range n.links {
		out[id] = slices.Clone(blocks)
	}
	return out
}
