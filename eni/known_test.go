// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// stored returns an inventory as a program reads it back from a file.
func stored(t *testing.T, inv eni.Inventory) eni.Inventory {
	t.Helper()
	data, err := json.Marshal(inv)
	if err != nil {
		t.Fatal(err)
	}
	var out eni.Inventory
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// storedRefusal is an inventory with an *OpError of EC2.
const storedRefusal = `{"EC2Err":{"Op":"DescribeNetworkInterfaces","ENI":"eni-1","Code":"Unavailable",` +
	`"Why":"ec2-unreachable","After":1000000000,"Text":"away"}}`

// TestInventoryJSON encodes and decodes an inventory with a value in every field,
// and an empty one.
func TestInventoryJSON(t *testing.T) {
	addr, addr6 := netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("2001:db8::5")
	prefix, prefix6 := netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("2001:db8::/64")
	at := time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC)
	var refused eni.Inventory // only this package can set RetryAfter
	if err := json.Unmarshal([]byte(storedRefusal), &refused); err != nil {
		t.Fatal(err)
	}
	e := eni.ENI{
		ID: "eni-1", MAC: "02:00:00:00:00:01", SubnetID: "subnet-1", Subnet: prefix, Subnet6: prefix6, Card: 1, Device: 2,
		Primary: true, Kind: eni.KindTrunk, Managed: true, ManagedBy: "eks.amazonaws.com", Addr: addr, Addr6: addr6, Addrs: []netip.Addr{addr, addr6},
		Prefixes: []netip.Prefix{prefix}, Doubtful: []netip.Prefix{prefix6}, Groups: []string{"sg-1"}, Attachment: "attach-1",
		Instance: "i-1", Status: "attached", DeleteOnTermination: true, Description: "d", VPCID: "vpc-1", Zone: "z",
		Tags: map[string]string{"a": "é<&>\""}, InFlight: true, Sources: eni.SourceEC2 | eni.SourceOwn,
	}
	full := eni.Inventory{
		Instance: eni.Instance{
			ID: "i-1", Type: "m5.large", Zone: "z", VPCID: "vpc-1", PrimaryENI: "eni-1", PrimaryMAC: e.MAC,
			PrimarySubnet: eni.Subnet{ID: "subnet-1", Zone: "z", VPCID: "vpc-1", Prefix: prefix, Prefix6: prefix6, Free: -1, Tags: map[string]string{"b": ""}},
			Groups:        []string{"sg-1"}, VPC: []netip.Prefix{prefix, prefix6},
		},
		ENIs: []eni.ENI{e, {}}, Source: eni.SourceMetadata, At: at, EC2At: at.Add(1), MetadataAt: at.Add(2),
		EC2Err:      refused.EC2Err,
		MetadataErr: errors.New("plain"), Gone: []string{"eni-9"}, Trip: &eni.Trip{At: at, Missing: 3, Known: 4},
	}
	for _, v := range []any{full, full.Instance, full.Instance.PrimarySubnet, e} {
		for i := range reflect.TypeOf(v).NumField() {
			if reflect.ValueOf(v).Field(i).IsZero() {
				t.Errorf("the test has no value for %T.%s", v, reflect.TypeOf(v).Field(i).Name)
			}
		}
	}
	for _, inv := range []eni.Inventory{full, {}} {
		got := stored(t, inv)
		same := cmp.Options{
			cmp.Comparer(equal[netip.Addr]), cmp.Comparer(equal[netip.Prefix]),
			cmp.Comparer(func(a, b error) bool { return fmt.Sprint(a) == fmt.Sprint(b) }),
		}
		if diff := cmp.Diff(inv, got, same); diff != "" {
			t.Errorf("(-stored +read):\n%s", diff)
		}
	}
	var op *eni.OpError
	if got := stored(t, full); !errors.Is(got.EC2Err, eni.ErrUnreachable) || !errors.As(got.EC2Err, &op) || op.RetryAfter() != time.Second {
		t.Errorf("the error is decoded as %#v", got.EC2Err)
	}
	var one eni.ENI
	data, err := json.Marshal(e)
	if err == nil {
		err = json.Unmarshal(data, &one)
	}
	if diff := cmp.Diff(e, one, cmp.Comparer(equal[netip.Addr]), cmp.Comparer(equal[netip.Prefix])); diff != "" || err != nil {
		t.Errorf("a single ENI: %v, (-stored +read):\n%s", err, diff)
	}
}

// Faults of both sources.
var (
	ec2Hangs      = enitest.Fault{Action: "*", Hang: true}
	ec2Refuses    = enitest.Fault{Action: "*", Err: &enitest.APIError{Code: "Unavailable", Message: "come back", Status: 503}}
	ec2Slow       = enitest.Fault{Action: "*", Delay: 5 * time.Second}
	metadataHangs = hangMetadata("meta-data/*", "meta-data/*/*", "meta-data/*/*/*", "meta-data/*/*/*/*", "meta-data/*/*/*/*/*", "api/token")
)

func hangMetadata(paths ...string) []enitest.Fault {
	var out []enitest.Fault
	for _, p := range paths {
		out = append(out, enitest.Fault{Action: p, Hang: true}, enitest.Fault{Action: p + "/", Hang: true})
	}
	return out
}

// TestRestart starts an agent while a source does not answer, with and without the
// inventory of the previous process.
func TestRestart(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault []enitest.Fault
		known bool
		limit time.Duration // of the duration of Discover
		fails bool
		pods  bool // whether the secondary ENI has slots for pods, not in doubt
	}{
		{"both answer", nil, true, 100 * time.Millisecond, false, true},
		{"both answer, nothing known", nil, false, 100 * time.Millisecond, false, true},
		{"EC2 hangs", []enitest.Fault{ec2Hangs}, true, 2500 * time.Millisecond, false, true},
		{"EC2 hangs, nothing known", []enitest.Fault{ec2Hangs}, false, 90 * time.Second, false, false},
		{"EC2 refuses", []enitest.Fault{ec2Refuses}, true, 2500 * time.Millisecond, false, true},
		{"EC2 refuses, nothing known", []enitest.Fault{ec2Refuses}, false, 40 * time.Second, false, false},
		{"EC2 is slow", []enitest.Fault{ec2Slow}, true, 2500 * time.Millisecond, false, true},
		{"EC2 is slow, nothing known", []enitest.Fault{ec2Slow}, false, 6 * time.Second, false, true},
		{"metadata hangs", metadataHangs, true, 2500 * time.Millisecond, false, true},
		{"metadata hangs, nothing known", metadataHangs, false, 11 * time.Second, true, false},
		{"both hang", append(metadataHangs, ec2Hangs), true, 10500 * time.Millisecond, true, true},
		{"EC2 refuses, metadata hangs", append(metadataHangs, ec2Refuses), true, 10500 * time.Millisecond, true, true},
		{"both hang, nothing known", append(metadataHangs, ec2Hangs), false, 11 * time.Second, true, false},
	} {
		t.Run(c.name, inBubble(func(t *testing.T) {
			w := newWorld(t, enitest.Config{})
			inst := w.run("m5.large")
			intents := eni.NewMemory()
			first := w.manager(inst, eni.Config{Intents: intents})
			e := w.provision(first, eni.ProvisionInput{Slots: 5})
			time.Sleep(10 * time.Minute)
			inv, err := first.Discover(t.Context())
			w.check(err)
			time.Sleep(time.Hour)
			cfg := eni.Config{Intents: eni.NewMemory()}
			if c.known {
				cfg = eni.Config{Intents: intents, Known: stored(t, inv)}
			}
			m := w.manager(inst, cfg)
			var removers []func()
			for _, f := range c.fault {
				removers = append(removers, w.AddFault(f))
			}
			if got := m.Inventory(); c.known && (!got.At.Equal(inv.At) || !sameENIs(got, inv) || got.Instance.ID != inst.ID) {
				t.Errorf("before the first Discover: %+v, want %+v", got, inv)
			}
			begin := time.Now()
			if c.known {
				if l, err := m.Limits(t.Context()); err != nil || l.Type != "m5.large" || time.Since(begin) > 0 {
					t.Errorf("limits %+v, %v after %v", l, err, time.Since(begin))
				}
			}
			got, err := m.Discover(t.Context())
			if took := time.Since(begin); took > c.limit || (err != nil) != c.fails {
				t.Errorf("Discover took %v, want %v at most; error %v", took, c.limit, err)
			}
			t.Logf("Discover took %v: %v, EC2 %v, metadata %v", time.Since(begin), err, got.EC2Err, got.MetadataErr)
			known, _ := m.Inventory().ENI(e.ID)
			if known.ForPods() != c.pods || c.pods && (len(known.Blocks()) != 5 || len(known.Doubtful) > 0) {
				t.Errorf("the ENI is %+v, want it for pods: %v", known, c.pods)
			}
			if err == nil && (got.Source&eni.SourceEC2 == 0) != (got.EC2Err != nil) || err == nil && (got.Source&eni.SourceMetadata == 0) != (got.MetadataErr != nil) {
				t.Errorf("answers of %v, errors %v, %v", got.Source, got.EC2Err, got.MetadataErr)
			}
			for _, remove := range removers {
				remove()
			}
			if due, err := m.Check(t.Context()); err != nil || due != (c.fails || got.Source != eni.SourceEC2|eni.SourceMetadata) {
				t.Errorf("another Discover is due: %v, %v", due, err)
			}
			got, err = m.Discover(t.Context())
			w.check(err)
			if known, _ := got.ENI(e.ID); !known.ForPods() || len(known.Blocks()) != 5 || got.Source != eni.SourceEC2|eni.SourceMetadata {
				t.Errorf("later: answers of %v, the ENI is %+v", got.Source, known)
			}
		}))
	}
}

// TestRestartFromJournal starts an agent without the inventory of the previous process
// while EC2 does not answer, as after a reboot. The journal must name the ENIs, and the
// metadata service their slots.
func TestRestartFromJournal(t *testing.T) {
	for name, fault := range map[string]enitest.Fault{"hangs": ec2Hangs, "refuses": ec2Refuses} {
		t.Run(name, inBubble(func(t *testing.T) {
			w := newWorld(t, enitest.Config{})
			inst := w.run("m5.large")
			intents := eni.NewMemory()
			first := w.manager(inst, eni.Config{Intents: intents})
			e := w.provision(first, eni.ProvisionInput{Slots: 5})
			retired := w.provision(first, eni.ProvisionInput{Slots: 1})
			time.Sleep(10 * time.Minute)
			_, err := first.Discover(t.Context())
			w.check(err)
			w.check(first.Retire(t.Context(), retired.ID))
			w.check(first.Unassign(t.Context(), eni.UnassignInput{ENI: e.ID, Blocks: e.Blocks()[:1]}))
			time.Sleep(10 * time.Minute)
			_, err = first.Discover(t.Context())
			w.check(err)
			all, err := intents.All(t.Context())
			w.check(err)
			if len(all) != 2 {
				t.Errorf("the journal has %+v, want a record of each of 2 ENIs", all)
			}
			remove := w.AddFault(fault)
			m := w.manager(inst, eni.Config{Intents: intents})
			for begin := time.Now(); time.Since(begin) < 3*time.Minute; time.Sleep(20 * time.Second) {
				asked := time.Now()
				inv, err := m.Discover(t.Context())
				w.check(err)
				if took := time.Since(asked); took > 10*time.Second || inv.EC2Err == nil {
					t.Errorf("Discover took %v, EC2 %v", took, inv.EC2Err)
				}
				have, _ := inv.ENI(e.ID)
				sure, doubtful := 4, 0
				if asked.Sub(begin) < 2*time.Minute {
					sure, doubtful = 0, 4
				}
				if !have.ForPods() || len(have.Addrs) != sure || len(have.Doubtful) != doubtful {
					t.Errorf("after %v: %+v, want it for pods with %d addresses and %d in doubt", asked.Sub(begin), have, sure, doubtful)
				}
			}
			remove()
			inv, err := m.Discover(t.Context())
			w.check(err)
			if have, _ := inv.ENI(e.ID); inv.EC2Err != nil || !have.ForPods() || len(have.Addrs) != 4 {
				t.Errorf("EC2 answers again: %v, %+v", inv.EC2Err, have)
			}
		}))
	}
}

// TestOwnedByJournalOnly checks that an ENI of another program is not managed although
// the journal names others, and one with changed tags is no longer.
func TestOwnedByJournalOnly(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.large")
		intents := eni.NewMemory()
		first := w.manager(inst, eni.Config{Intents: intents})
		e := w.provision(first, eni.ProvisionInput{Slots: 2})
		time.Sleep(10 * time.Minute)
		_, err := first.Discover(t.Context())
		w.check(err)
		w.check(w.AddTags(e.ID, map[string]string{eni.TagNoManage: "true"}))
		_, err = first.Discover(t.Context())
		w.check(err)
		w.AddFault(ec2Refuses)
		m := w.manager(inst, eni.Config{Intents: intents})
		inv, err := m.Discover(t.Context())
		w.check(err)
		if have, ok := inv.ENI(e.ID); !ok || have.Managed || !inv.ENIs[0].Managed {
			t.Errorf("%+v, want it known and not managed", have)
		}
	})(t)
}

func sameENIs(a, b eni.Inventory) bool {
	return cmp.Equal(a.ENIs, b.ENIs, cmp.Comparer(equal[netip.Addr]), cmp.Comparer(equal[netip.Prefix]))
}

// TestSlowSource checks that the third Discover gets the answer of an EC2 that always
// takes 7 seconds.
func TestSlowSource(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		m := w.manager(w.run("m5.large"), eni.Config{})
		_, err := m.Discover(t.Context())
		w.check(err)
		w.AddFault(enitest.Fault{Action: "*", Delay: 7 * time.Second})
		for i, want := range []time.Duration{2 * time.Second, 4 * time.Second, 7 * time.Second, 2 * time.Second} {
			begin := time.Now()
			inv, err := m.Discover(t.Context())
			w.check(err)
			if took := time.Since(begin); took != want || (inv.EC2Err == nil) != (want == 7*time.Second) {
				t.Errorf("Discover %d took %v, want %v: %v", i, took, want, inv.EC2Err)
			}
		}
	})(t)
}

// TestKnownWithJournal checks that the changes of the earlier process after it stored
// its inventory count, while EC2 hangs and the metadata service lags.
func TestKnownWithJournal(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.xlarge")
		intents := eni.NewMemory()
		first := w.manager(inst, eni.Config{Intents: intents})
		kept, gone := w.provision(first, eni.ProvisionInput{Slots: 4}), w.provision(first, eni.ProvisionInput{Slots: 2})
		leaving := w.provision(first, eni.ProvisionInput{Slots: 1})
		time.Sleep(10 * time.Minute)
		inv, err := first.Discover(t.Context())
		w.check(err)
		inv.Trip = &eni.Trip{At: time.Now().Add(year)}
		inv.ENIs[1].InFlight = true
		known := stored(t, inv)
		w.SetLag(enitest.Lag{Metadata: time.Hour})
		w.check(first.Unassign(t.Context(), eni.UnassignInput{ENI: kept.ID, Blocks: kept.Blocks()[:1]}))
		w.check(first.Retire(t.Context(), gone.ID))
		remove := w.AddFault(enitest.Fault{Action: "DetachNetworkInterface", Drop: true})
		if err := first.Retire(t.Context(), leaving.ID); err == nil {
			t.Fatal("retired")
		}
		remove()
		time.Sleep(20 * time.Minute)
		w.AddFault(ec2Hangs)

		m := w.manager(inst, eni.Config{Intents: intents, Known: known})
		if m.Mode() != eni.ModeFull {
			t.Errorf("mode %v because of the trip of another process", m.Mode())
		}
		for _, how := range []string{"by the journal", "by the metadata service"} {
			if how == "by the journal" {
				_, err = m.Unfinished(t.Context())
			} else {
				_, err = m.Discover(t.Context())
			}
			w.check(err)
			now := m.Inventory()
			if e, _ := now.ENI(kept.ID); !e.ForPods() || slices.Contains(e.Blocks(), kept.Blocks()[0]) || !slices.Equal(e.Blocks(), kept.Blocks()[1:]) {
				t.Errorf("%s: a released address is shown, or another is missing: %+v", how, e)
			}
			if e, _ := now.ENI(gone.ID); e.ForPods() {
				t.Errorf("%s: usable although retired: %+v", how, e)
			}
			if e, ok := now.ENI(leaving.ID); !ok || e.ForPods() {
				t.Errorf("%s: the ENI is being retired, but is shown as %+v", how, e)
			}
		}
	})(t)
}

// TestOldProvisionHidesNothing checks that a known ENI stays known while EC2 hangs,
// although an old journal says that it is still being created.
func TestOldProvisionHidesNothing(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.large")
		first := w.manager(inst, eni.Config{})
		e := w.provision(first, eni.ProvisionInput{Slots: 3})
		in := provisioning(e)
		in.ID, in.ENI, in.Start, in.Changed = "old", e.ID, time.Now(), time.Now()
		intents := eni.NewMemory()
		w.check(intents.Put(t.Context(), in))
		m := w.manager(inst, eni.Config{Intents: intents, Known: stored(t, first.Inventory())})
		w.AddFault(ec2Hangs)
		inv, err := m.Discover(t.Context())
		w.check(err)
		if got, ok := inv.ENI(e.ID); !ok || !slices.Equal(got.Blocks(), e.Blocks()) || len(inv.Gone) > 0 {
			t.Errorf("inventory has %+v, gone %v", got, inv.Gone)
		}
	})(t)
}

// TestProvisionWaitsForEC2 checks that Provision waits for EC2 as long as necessary
// to choose a place for an ENI, and that a concurrent Discover does not wait for it.
func TestProvisionWaitsForEC2(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		m := w.manager(w.run("m5.large"), eni.Config{})
		_, err := m.Discover(t.Context())
		w.check(err)
		time.Sleep(time.Hour)
		w.AddFault(enitest.Fault{Action: "DescribeNetworkInterfaces", Delay: 7 * time.Second})
		var background sync.WaitGroup
		background.Go(func() { w.provision(m, eni.ProvisionInput{Slots: 1}) })
		time.Sleep(100 * time.Millisecond)
		begin := time.Now()
		inv, err := m.Discover(t.Context())
		w.check(err)
		if took := time.Since(begin); took > 2*time.Second || inv.EC2Err == nil {
			t.Errorf("Discover took %v, EC2 %v", took, inv.EC2Err)
		}
		background.Wait()
		if inv := m.Inventory(); inv.EC2Err != nil || len(inv.ENIs) != 2 {
			t.Errorf("EC2 has answered, but the inventory is %+v", inv)
		}
	})(t)
}

// TestKnownOfAnotherInstance checks that Config.Known is dropped when the metadata
// service shows another instance ID.
func TestKnownOfAnotherInstance(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		one, other := w.run("m5.large"), w.run("m5.large")
		first := w.manager(one, eni.Config{})
		w.provision(first, eni.ProvisionInput{Slots: 1})
		m := w.manager(other, eni.Config{Known: stored(t, first.Inventory())})
		if _, err := m.Discover(t.Context()); err == nil {
			t.Error("Discover returned no error")
		}
		inv, err := m.Discover(t.Context())
		w.check(err)
		if inv.Instance.ID != other.ID || len(inv.ENIs) != 1 {
			t.Errorf("inventory %+v", inv)
		}
	})(t)
}

// TestKnownRemovesNothing checks that nothing is unassigned, detached or deleted on
// the evidence of Config.Known alone.
func TestKnownRemovesNothing(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.large")
		first := w.manager(inst, eni.Config{})
		e := w.provision(first, eni.ProvisionInput{Slots: 2})
		m := w.manager(inst, eni.Config{Known: stored(t, first.Inventory())})
		for _, f := range append(metadataHangs, enitest.Fault{Action: "Describe*", Hang: true}) {
			w.AddFault(f)
		}
		w.ResetCalls()
		if err := m.Unassign(t.Context(), eni.UnassignInput{ENI: e.ID, Blocks: e.Blocks()}); err == nil {
			t.Error("unassigned")
		}
		if err := m.Retire(t.Context(), e.ID); err == nil {
			t.Error("retired")
		}
		if got := w.removalCalls(); len(got) > 0 {
			t.Errorf("%v was called", got)
		}
	})(t)
}

// TestResumeInTheBackground checks that the Manager answers all other calls while
// Resume waits for an EC2 that hangs, and that calls which EC2 does answer succeed.
func TestResumeInTheBackground(t *testing.T) {
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprint("known ", known), inBubble(func(t *testing.T) {
			w := newWorld(t, enitest.Config{})
			inst := w.run("m5.large")
			intents := eni.NewMemory()
			first := w.manager(inst, eni.Config{Intents: intents})
			e := w.provision(first, eni.ProvisionInput{Slots: 3})
			remove := w.AddFault(enitest.Fault{Action: "[ADU]*", Drop: true})
			_ = first.Unassign(t.Context(), eni.UnassignInput{ENI: e.ID, Blocks: e.Blocks()[:1]})
			_, _ = first.Assign(t.Context(), eni.AssignInput{ENI: w.primary(inst).ID, Slots: 1})
			_, _ = first.Provision(t.Context(), eni.ProvisionInput{Slots: 1})
			remove()
			if open, err := first.Unfinished(t.Context()); err != nil || len(open) < 3 {
				t.Fatalf("unfinished %v, %v", open, err)
			}
			cfg := eni.Config{Intents: intents}
			if known {
				cfg.Known = stored(t, first.Inventory())
			}
			m := w.manager(inst, cfg)
			w.AddFault(enitest.Fault{Action: "[DU]*", Hang: true})
			var background sync.WaitGroup
			begin := time.Now()
			var took time.Duration
			background.Go(func() {
				if err := m.Resume(t.Context()); err == nil {
					t.Error("resumed without EC2")
				}
				took = time.Since(begin)
			})
			time.Sleep(100 * time.Millisecond)
			step := func(what string, limit time.Duration, do func() error) {
				t.Helper()
				begin := time.Now()
				if err := do(); err != nil || time.Since(begin) > limit {
					t.Errorf("%s took %v: %v", what, time.Since(begin), err)
				}
			}
			m.Inventory()
			if known {
				step("limits", 0, func() error { _, err := m.Limits(t.Context()); return err })
				step("discover", 2500*time.Millisecond, func() error { _, err := m.Discover(t.Context()); return err })
				step("check", 0, func() error { _, err := m.Check(t.Context()); return err })
				step("assign", 0, func() error {
					_, err := m.Assign(t.Context(), eni.AssignInput{ENI: w.primary(inst).ID, Slots: 1})
					return err
				})
			} else {
				step("discover", 90*time.Second, func() error { _, err := m.Discover(t.Context()); return err })
			}
			background.Wait()
			if took < 30*time.Second {
				t.Errorf("Resume gave up after %v", took)
			}
		}))
	}
}
