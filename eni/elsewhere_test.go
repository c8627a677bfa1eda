// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// twoSubnets is a node with prefixes and two allowed subnets. Its primary ENI is in the
// first one.
type twoSubnets struct {
	*world
	other enitest.Subnet
	m     *eni.Manager
	first string // the primary ENI
}

func newTwoSubnets(t *testing.T, cfg eni.Config) *twoSubnets {
	t.Helper()
	w := &twoSubnets{world: newWorld(t, enitest.Config{})}
	w.other = w.addSubnet("10.0.2.0/24", "", nil)
	cfg.Subnets = eni.SubnetsByID{w.subnet.ID, w.other.ID}
	inst := w.run("m5.large")
	w.first = w.primary(inst).ID
	w.m = w.manager(inst, cfg)
	return w
}

// assign requests two prefixes or else three addresses for an ENI.
func (w *twoSubnets) assign(id string) ([]netip.Prefix, error) {
	return w.m.Assign(w.t.Context(), eni.AssignInput{ENI: id, Slots: 2, Prefixes: true, Singles: 3})
}

// want checks that an ENI gets n blocks with a prefix length.
func (w *twoSubnets) want(what, id string, n, bits int) {
	w.t.Helper()
	got, err := w.assign(id)
	if err != nil || len(got) != n || got[0].Bits() != bits {
		w.t.Errorf("%s: %v, %v, want %d of /%d", what, got, err, n, bits)
	}
}

// wantElsewhere checks that an ENI gets nothing, because another subnet may have a prefix.
func (w *twoSubnets) wantElsewhere(what, id string, retryAfter time.Duration) {
	w.t.Helper()
	got, err := w.assign(id)
	var op *eni.OpError
	if !errors.Is(err, eni.ErrNoFreePrefix) || !errors.As(err, &op) || op.RetryAfter() != retryAfter || len(got) > 0 {
		w.t.Errorf("%s: %v, %v, want ErrNoFreePrefix to be tried again after %v", what, got, err, retryAfter)
	}
}

// mend frees what breakBlocks has occupied.
func (w *twoSubnets) mend(s enitest.Subnet) {
	for a := s.Prefix.Addr(); s.Prefix.Contains(a); a = step(a, 16) {
		_ = w.Vacate(s.ID, step(a, 9))
	}
}

// TestAssignFallback assigns while the subnets fill up and empty again: prefixes, then
// prefixes of an ENI in the other subnet, then single addresses, and then prefixes again.
func TestAssignFallback(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newTwoSubnets(t, eni.Config{})
		w.want("both free", w.first, 2, 28)
		w.breakBlocks(w.subnet)
		w.wantElsewhere("first broken", w.first, 10*time.Second)
		second := w.provision(w.m, eni.ProvisionInput{Slots: 1, Prefixes: true, Singles: 1})
		if second.SubnetID != w.other.ID || len(second.Prefixes) != 1 {
			t.Errorf("the new ENI has %v in %s, want a prefix in the other subnet", second.Blocks(), second.SubnetID)
		}
		time.Sleep(time.Minute)
		w.wantElsewhere("first broken, after a prefix of the other", w.first, 10*time.Second)
		w.want("first broken, ENI in the other", second.ID, 2, 28)
		w.breakBlocks(w.other)
		w.ResetCalls()
		w.want("both broken", second.ID, 3, 32)
		if got := w.Calls()["AssignPrivateIpAddresses"]; got != 3 {
			t.Errorf("%d assign calls, want 3: for two prefixes, for one, and for addresses", got)
		}
		w.want("both broken, known", w.first, 3, 32)
		w.mend(w.subnet)
		time.Sleep(3 * time.Minute)
		w.want("first free again", w.first, 2, 28)
	})(t)
}

// TestAssignAfterElsewhere assigns while the first subnet has no prefix and the node gets
// none in the other one: after 10 seconds it gets single addresses. After two minutes the
// other subnet has another 10 seconds.
func TestAssignAfterElsewhere(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newTwoSubnets(t, eni.Config{})
		w.breakBlocks(w.subnet)
		w.wantElsewhere("at once", w.first, 10*time.Second)
		time.Sleep(4 * time.Second)
		w.ResetCalls()
		w.wantElsewhere("4 seconds later", w.first, 6*time.Second)
		if n := w.Calls()["AssignPrivateIpAddresses"]; n > 0 {
			t.Errorf("%d assign calls, want none: the subnet has just refused", n)
		}
		time.Sleep(6 * time.Second)
		w.want("10 seconds later", w.first, 3, 32)
		time.Sleep(time.Minute)
		w.want("a minute later", w.first, 3, 32)
		time.Sleep(time.Minute)
		w.wantElsewhere("two minutes later", w.first, 10*time.Second)
	})(t)
}

// TestAssignWithoutElsewhere checks that single addresses come at once if the node cannot
// get a prefix in the other subnet.
func TestAssignWithoutElsewhere(t *testing.T) {
	for name, c := range map[string]struct {
		cfg     eni.Config
		prepare func(w *twoSubnets)
		slots   int
	}{
		"no room for an ENI": {cfg: eni.Config{MaxENIs: 1}},
		"full":               {prepare: func(w *twoSubnets) { w.fill(w.other) }},
		"no prefix there, known from an ENI": {prepare: func(w *twoSubnets) {
			w.breakBlocks(w.other)
			w.provision(w.m, eni.ProvisionInput{Slots: 1, Prefixes: true, Singles: 1})
		}},
		"subnets cannot be listed": {prepare: func(w *twoSubnets) { w.Deny("", "DescribeSubnets") }},
		"ENIs cannot be created": {prepare: func(w *twoSubnets) {
			w.Deny("", "CreateNetworkInterface")
			if _, err := w.m.Provision(w.t.Context(), eni.ProvisionInput{Slots: 1, Prefixes: true}); !errors.Is(err, eni.ErrUnauthorized) {
				w.t.Errorf("provision: %v, want ErrUnauthorized", err)
			}
		}},
	} {
		t.Run(name, inBubble(func(t *testing.T) {
			w := newTwoSubnets(t, c.cfg)
			w.breakBlocks(w.subnet)
			if c.prepare != nil {
				c.prepare(w)
			}
			w.want("first broken", w.first, 3, 32)
		}))
	}
}

// TestProvisionWithoutPrefix checks that no ENI is created for single addresses while
// another one has free slots for them, and that one is created when that ENI's subnet is full.
func TestProvisionWithoutPrefix(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newTwoSubnets(t, eni.Config{})
		w.breakBlocks(w.subnet)
		w.breakBlocks(w.other)
		w.wantElsewhere("first broken", w.first, 10*time.Second)
		in := eni.ProvisionInput{Slots: 1, Prefixes: true, Singles: 3, PodsOnPrimary: true}
		if e, err := w.m.Provision(t.Context(), in); !errors.Is(err, eni.ErrNoFreePrefix) {
			t.Errorf("provision while the primary ENI has free slots: %v, %v, want ErrNoFreePrefix", e.ID, err)
		}
		w.want("both broken", w.first, 3, 32)
		w.fill(w.subnet)
		for {
			if _, err := w.assign(w.first); errors.Is(err, eni.ErrSubnetFull) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if e := w.provision(w.m, in); e.SubnetID != w.other.ID || e.Slots(eni.IPv4) != 3 {
			t.Errorf("provision after the first subnet is full: %v in %s, want 3 addresses in the other subnet", e.Blocks(), e.SubnetID)
		}
	})(t)
}
