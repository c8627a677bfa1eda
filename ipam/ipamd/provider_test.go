// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
)

// wait starts a pod that waits for an address.
func (n *world) wait(ctx context.Context, id string) {
	n.t.Helper()
	go n.pool.Allocate(ctx, ipam.Request{Attachment: attachment(id), Families: []ipam.Family{ipam.IPv4}})
	synctest.Wait()
	if len(n.pool.View().Waiting) != 1 {
		n.t.Fatalf("%d pods wait, want 1", len(n.pool.View().Waiting))
	}
}

// TestUrgency checks that calls have a higher priority while a pod waits, and that
// calls that release capacity have the lowest.
func TestUrgency(t *testing.T) {
	type want struct {
		caller   string
		priority eni.Priority
	}
	for _, c := range []struct {
		name          string
		do            func(n *world, made agent.ENI) error
		warm, waiting want
	}{
		{"create", func(n *world, _ agent.ENI) error {
			_, err := n.provider.CreateENI(n.t.Context(), agent.CreateInput{Slots: 1})
			return err
		}, want{"refill", eni.PriorityRefill}, want{"pod", eni.PriorityPod}},
		{"assign", func(n *world, made agent.ENI) error {
			_, err := n.provider.Assign(n.t.Context(), agent.AssignInput{ENI: made.ID, Family: ipam.IPv4, Slots: 1})
			return err
		}, want{"refill", eni.PriorityRefill}, want{"pod", eni.PriorityPod}},
		{"unassign", func(n *world, made agent.ENI) error {
			return n.provider.Unassign(n.t.Context(), made.ID, made.Blocks)
		}, want{"release", eni.PriorityRelease}, want{"release", eni.PriorityRelease}},
		{"delete", func(n *world, made agent.ENI) error {
			return n.provider.DeleteENI(n.t.Context(), made.ID)
		}, want{"release", eni.PriorityRelease}, want{"release", eni.PriorityRelease}},
	} {
		for _, waits := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, nil)
				made, err := n.provider.CreateENI(t.Context(), agent.CreateInput{Slots: 1})
				n.check(err)
				want := c.warm
				if waits {
					want = c.waiting
					n.wait(t.Context(), "a")
				}
				_, skip := n.since(0)
				n.check(c.do(n, made))
				calls, _ := n.since(skip)
				if len(calls) == 0 {
					t.Errorf("%s made no call", c.name)
				}
				for _, call := range calls {
					if call.Caller != want.caller || call.Priority != want.priority {
						t.Errorf("%s, a pod waits: %v: %s by %q with priority %d, want %+v", c.name, waits, call.Action, call.Caller, call.Priority, want)
					}
				}
			})
		}
	}
}

// TestPodsFirst checks that, with the budget spent and EC2 throttling, a call for
// which a pod waits comes before an earlier refill.
func TestPodsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		second, err := n.provider.CreateENI(t.Context(), agent.CreateInput{})
		n.check(err)
		n.cloud.SetThrottle(&enitest.Throttle{Actions: map[string]enitest.Bucket{"AssignPrivateIpAddresses": {Size: 1, Rate: 0.1}}})
		_, err = n.provider.Assign(t.Context(), agent.AssignInput{ENI: n.primary().ID, Family: ipam.IPv4, Slots: 1})
		n.check(err)
		var order []string
		done := make(chan string)
		assign := func(caller, id string) {
			if _, err := n.provider.Assign(t.Context(), agent.AssignInput{ENI: id, Family: ipam.IPv4, Slots: 1}); err != nil {
				caller = err.Error()
			}
			done <- caller
		}
		go assign("refill", n.primary().ID)
		synctest.Wait()
		n.wait(t.Context(), "a")
		go assign("pod", second.ID)
		order = append(order, <-done, <-done)
		if !slices.Equal(order, []string{"pod", "refill"}) {
			t.Errorf("order %v, want the pod first", order)
		}
	})
}

// TestSingles checks that pods get single addresses if the subnet has no whole /28
// left, on an existing ENI and on a new one, and otherwise the prefix.
func TestSingles(t *testing.T) {
	for _, c := range []struct {
		name  string
		whole bool // one /28 is whole
		bits  []int
	}{
		{"no whole prefix", false, []int{32, 32}},
		{"one whole prefix", true, []int{28}},
	} {
		synctest.Test(t, func(t *testing.T) {
			ways := map[string]func(n *world) ([]netip.Prefix, error){
				"assign": func(n *world) ([]netip.Prefix, error) {
					return n.provider.Assign(t.Context(), agent.AssignInput{ENI: n.primary().ID, Family: ipam.IPv4, Slots: 2})
				},
				"create": func(n *world) ([]netip.Prefix, error) {
					n.provider.NoPrimary = true // otherwise its free slots would come first
					e, err := n.provider.CreateENI(t.Context(), agent.CreateInput{Slots: 2})
					return e.Blocks, err
				},
			}
			for way, get := range ways {
				n := newNode(t, nil)
				n.provider.Prefixes = true
				n.fragment(c.whole)
				got, err := get(n)
				var bits []int
				for _, b := range got {
					bits = append(bits, b.Bits())
				}
				if err != nil || !slices.Equal(bits, c.bits) {
					t.Errorf("%s, %s: %v, %v, want lengths %v", c.name, way, got, err, c.bits)
				}
			}
		})
	}
}

// TestSinglesServe checks that an agent that uses prefixes still serves pods if the
// subnet has no whole prefix.
func TestSinglesServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		n.provider.Prefixes = true
		n.fragment(false)
		a := n.run(t.Context(), 1)
		for _, id := range []string{"a", "b", "c"} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			got, err := a.Allocate(ctx, ipam.Request{Attachment: attachment(id)})
			cancel()
			if err != nil || !got[0].Block.IsSingleIP() {
				t.Fatalf("pod %s: %v, %v, want a single address", id, got, err)
			}
		}
		if got := n.cloud.Calls()["AssignPrivateIpAddresses"]; got > 10 {
			t.Errorf("%d assign calls for 3 pods, want at most 10", got)
		}
	})
}

// TestPrefixesLater checks the whole ladder in one pool: a prefix while the subnet has one,
// then single addresses out of broken /28s, and prefixes again when one has become whole.
func TestPrefixesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		n.provider.Prefixes = true
		n.fragment(true)
		a := n.run(t.Context(), 1)
		pods := 0
		add := func(count int) (singles, prefixes int) {
			t.Helper()
			for range count {
				pods++
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
				got, err := a.Allocate(ctx, ipam.Request{Attachment: attachment(fmt.Sprint("pod", pods))})
				cancel()
				if err != nil {
					t.Fatalf("pod %d: %v", pods, err)
				}
				if got[0].Block.IsSingleIP() {
					singles++
				} else {
					prefixes++
				}
			}
			return singles, prefixes
		}
		if singles, prefixes := add(16); singles > 0 || prefixes != 16 {
			t.Errorf("%d pods with single addresses and %d of prefixes, want all of the one whole prefix", singles, prefixes)
		}
		if singles, _ := add(4); singles != 4 {
			t.Errorf("%d of 4 pods with single addresses, want all: no /28 is whole", singles)
		}
		n.check(n.cloud.Vacate(n.subnet.ID, netip.MustParseAddr("10.0.0.40"), netip.MustParseAddr("10.0.0.56"), netip.MustParseAddr("10.0.0.72")))
		time.Sleep(10 * time.Minute) // until the refusal is forgotten
		if singles, prefixes := add(12); prefixes == 0 {
			t.Errorf("%d pods with single addresses and %d of prefixes after a /28 became whole, want some of a prefix", singles, prefixes)
		}
		kinds := map[bool]int{}
		for _, b := range n.blocks() {
			kinds[b.IsSingleIP()]++
		}
		if kinds[true] == 0 || kinds[false] < 2 {
			t.Errorf("blocks %v, want single addresses and two prefixes in one pool", n.blocks())
		}
	})
}

// fragment occupies an address of each free /28. If whole is set, it leaves out the
// last but one.
func (n *world) fragment(whole bool) {
	n.t.Helper()
	for i := 1; i < 16; i++ {
		if whole && i == 14 {
			continue
		}
		n.check(n.cloud.Occupy(n.subnet.ID, netip.AddrFrom4([4]byte{10, 0, 0, byte(16*i + 8)})))
	}
	// The first /28 is never whole, because AWS reserves addresses in it.
}

// TestObserve observes an instance with an ENI of the agent and one of another
// program.
func TestObserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		own, err := n.provider.CreateENI(t.Context(), agent.CreateInput{Slots: 2})
		n.check(err)
		made, err := n.otherClient().CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: aws.String(n.subnet.ID)})
		n.check(err)
		theirs := *made.NetworkInterface.NetworkInterfaceId
		_, err = n.otherClient().AttachNetworkInterface(t.Context(), &ec2.AttachNetworkInterfaceInput{
			DeviceIndex: aws.Int32(2), InstanceId: aws.String(n.instance.ID), NetworkInterfaceId: aws.String(theirs),
		})
		n.check(err)
		o, err := n.provider.Observe(t.Context())
		n.check(err)
		if o.Source != "ec2+metadata" || o.At.IsZero() || o.Lag != 0 || len(o.ENIs) != 3 {
			t.Fatalf("observation %+v, want 3 ENIs by both sources", o)
		}
		gateway := n.subnet.Prefix.Addr().Next()
		for i, e := range o.ENIs {
			in, _ := n.cloud.ENI(e.ID)
			wrong := e.Device != i || e.Primary != (i == 0) || e.NoPods != (e.ID == theirs) || e.MTU != 9001 || e.MAC.String() != in.MAC ||
				!slices.Equal(e.Addrs, []netip.Prefix{netip.PrefixFrom(in.Addr, 24)}) || !slices.Equal(e.Gateways, []netip.Addr{gateway})
			if wrong {
				t.Errorf("ENI %d: %+v, EC2 has %+v", i, e, in)
			}
		}
		if !slices.Equal(o.ENIs[1].Blocks, own.Blocks) || len(own.Blocks) != 2 {
			t.Errorf("blocks %v, want the %v it was made with", o.ENIs[1].Blocks, own.Blocks)
		}
		l := n.provider.Links
		if _, known := l.enis[theirs]; known || len(l.enis) != 2 || !slices.Equal(l.vpc, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}) {
			t.Errorf("links have ENIs %v and VPC %v, want the 2 ENIs for pods and 10.0.0.0/16", l.enis, l.vpc)
		}
	})
}

// TestUsedStays checks that neither Unassign nor DeleteENI removes the address of a
// pod.
func TestUsedStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		made, err := n.provider.CreateENI(t.Context(), agent.CreateInput{Slots: 2})
		n.check(err)
		n.check(n.pool.SetENI(ipam.ENI{ID: made.ID, Device: 1}))
		for _, b := range made.Blocks {
			n.check(n.pool.AddBlocks(ipam.Block{Prefix: b, ENI: made.ID}))
		}
		n.check(n.pool.SetReady(made.ID, true))
		got, err := n.pool.Allocate(t.Context(), ipam.Request{Attachment: attachment("a")})
		n.check(err)
		used, free := got[0].Block, made.Blocks[0]
		if free == used {
			free = made.Blocks[1]
		}
		if err := n.provider.Unassign(t.Context(), made.ID, []netip.Prefix{used}); !errors.Is(err, eni.ErrInUse) {
			t.Errorf("unassign the address of a pod: %v, want ErrInUse", err)
		}
		if err := n.provider.DeleteENI(t.Context(), made.ID); !errors.Is(err, eni.ErrInUse) {
			t.Errorf("delete the ENI of a pod: %v, want ErrInUse", err)
		}
		n.check(n.provider.Unassign(t.Context(), made.ID, []netip.Prefix{free}))
		if e, ok := n.cloud.ENI(made.ID); !ok || !slices.Equal(e.Addrs, []netip.Addr{used.Addr()}) {
			t.Errorf("EC2 has %v on the ENI, want %v", e.Addrs, used)
		}
	})
}
