// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The tests write ENIs as "a .5 .16/28 ?.9; b": the ENI's ID and its slots in
// 10.0.0.0/24. A question mark means that a slot is in doubt. "p" is the primary
// ENI. A dash means that a source did not answer.

// mergeOwner is the owner tag of this node in the tests.
const mergeOwner = "us"

var (
	mergeInstance = Instance{ID: "i-1", PrimaryMAC: "mac-p", PrimaryENI: "p"}
	mergeNow      = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
)

func parseENIs(s string) []ENI {
	var out []ENI
	for _, part := range strings.Split(s, ";") {
		fields := strings.Fields(part)
		if len(fields) == 0 {
			continue
		}
		e := ENI{ID: fields[0], MAC: "mac-" + fields[0], Kind: KindInterface, Device: int(fields[0][0]), Tags: map[string]string{
			TagOwner: mergeOwner, TagInstance: "i-1",
		}}
		if e.ID == "p" {
			e.Device = 0
		}
		for _, f := range fields[1:] {
			b := parseBlock("10.0.0" + strings.TrimPrefix(f, "?"))
			if f[0] == '?' {
				e.Doubtful = append(e.Doubtful, b)
			} else {
				e.addBlock(b)
			}
		}
		e.sortBlocks()
		out = append(out, e)
	}
	return out
}

func printENIs(enis []ENI) string {
	var parts []string
	for _, e := range enis {
		s := e.ID
		for _, b := range e.Blocks() {
			s += " " + short(b)
		}
		for _, b := range e.Doubtful {
			s += " ?" + short(b)
		}
		if e.InFlight {
			s += " (in flight)"
		}
		if !e.Managed {
			s += " (not managed)"
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, "; ")
}

func short(b netip.Prefix) string {
	s := strings.TrimPrefix(b.String(), "10.0.0")
	return strings.TrimSuffix(s, "/32")
}

func TestMerge(t *testing.T) {
	ago := func(d time.Duration) time.Time { return mergeNow.Add(-d) }
	assigned := func(id, blocks string, at time.Time) Intent {
		return Intent{Op: OpAssign, ENI: id, Done: true, Changed: at, Blocks: parseENIs(id + " " + blocks)[0].Blocks()}
	}
	unassigned := func(id, blocks string, at time.Time) Intent {
		in := assigned(id, blocks, at)
		in.Op = OpUnassign
		return in
	}
	unfinished := func(in Intent) Intent { in.Done = false; return in }
	made := func(s string, at time.Time) Intent {
		e := parseENIs(s)[0]
		return Intent{Op: OpProvision, ENI: e.ID, Made: &e, Done: true, Changed: at, Blocks: e.Blocks()}
	}
	for _, c := range []struct {
		name                string
		prev, ec2, metadata string
		intents             []Intent
		want                string
		gone                string
		trip                bool
	}{
		{name: "at start, both agree", ec2: "p .5; a .6 .16/28", metadata: "p .5; a .6 .16/28", want: "p .5; a .6 .16/28"},
		{name: "at start, metadata late", ec2: "p .5; a .6", metadata: "p", want: "p .5; a .6"},
		{name: "at start, metadata shows more", ec2: "p .5", metadata: "p .5 .6", want: "p .5 ?.6"},
		{name: "at start, metadata shows an ENI that EC2 omits", ec2: "p", metadata: "p; a .5", want: "p; a ?.5"},
		{name: "at start, only metadata", ec2: "-", metadata: "p .5; a .6", want: "p ?.5; a ?.6"},
		{name: "at start, only EC2", ec2: "p .5; a .6", metadata: "-", want: "p .5; a .6"},
		{name: "EC2 away, known before", prev: "p .5; a .6", ec2: "-", metadata: "p .5; a .6", want: "p .5; a .6"},
		{name: "EC2 away, metadata omits an ENI", prev: "p .5; a .6", ec2: "-", metadata: "p .5", want: "p .5; a .6"},
		{name: "metadata omits an ENI", prev: "p; a .6", ec2: "p; a .6", metadata: "p", want: "p; a .6"},
		{name: "only EC2 omits an ENI", prev: "p; a .6", ec2: "p", metadata: "p; a .6", want: "p; a .6"},
		{name: "both omit an ENI", prev: "p .5 .7 .8; a .6", ec2: "p .5 .7 .8", metadata: "p .5 .7 .8", want: "p .5 .7 .8", gone: "a"},
		{name: "EC2 omits an ENI, metadata away", prev: "p .1 .2 .3; a .6", ec2: "p .1 .2 .3", metadata: "-", want: "p .1 .2 .3; a .6"},
		{name: "both omit the only slot", prev: "p .5", ec2: "p", metadata: "p", want: "p"},
		{name: "both omit half of the slots", prev: "p .1 .2; a .5 .6", ec2: "p .1 .2", metadata: "p .1 .2", want: "p .1 .2", gone: "a"},
		{name: "both omit an ENI created just now", prev: "p; a .6", ec2: "p", metadata: "p", intents: []Intent{made("a .6", ago(time.Minute))}, want: "p; a .6"},
		{name: "the same after a restart", ec2: "p", metadata: "p", intents: []Intent{made("a .6", ago(time.Minute))}, want: "p; a .6"},
		{name: "both omit an ENI created long ago", prev: "p .1 .2; a .6", ec2: "p .1 .2", metadata: "p .1 .2", intents: []Intent{made("a .6", ago(time.Hour))}, want: "p .1 .2", gone: "a"},
		{name: "retired just now, still shown", prev: "p", ec2: "p; a .6", metadata: "p; a .6", intents: []Intent{{Op: OpRetire, ENI: "a", Done: true, Changed: ago(time.Minute)}}, want: "p"},
		{name: "being retired", prev: "p; a .6", ec2: "p; a .6", metadata: "p; a .6", intents: []Intent{{Op: OpRetire, ENI: "a", Changed: ago(time.Minute)}}, want: "p; a .6 (in flight)"},
		{name: "being attached", prev: "p", ec2: "p; a .6", metadata: "p", intents: []Intent{{Op: OpProvision, ENI: "a", Changed: ago(time.Minute)}}, want: "p; a .6 (in flight)"},
		{name: "assigned just now, no source shows it", prev: "p .5", ec2: "p", metadata: "p", intents: []Intent{assigned("p", ".5", ago(time.Minute))}, want: "p .5"},
		{name: "the same after a restart, slot", ec2: "p", metadata: "p", intents: []Intent{assigned("p", ".5", ago(time.Minute))}, want: "p .5"},
		{name: "unassigned just now, both still show it", prev: "p", ec2: "p .5", metadata: "p .5", intents: []Intent{unassigned("p", ".5", ago(time.Minute))}, want: "p"},
		{name: "unassigned long ago, metadata still shows it", prev: "p", ec2: "p", metadata: "p .5", want: "p"},
		{name: "being unassigned, for an hour", prev: "p", ec2: "p .5", metadata: "p .5", intents: []Intent{unfinished(unassigned("p", ".5", ago(time.Hour)))}, want: "p"},
		{name: "unassigned and assigned again", prev: "p .5", ec2: "p", metadata: "p", intents: []Intent{unassigned("p", ".5", ago(time.Minute)), assigned("p", ".5", ago(time.Second))}, want: "p .5"},
		{name: "assigned and unassigned again", prev: "p", ec2: "p .5", metadata: "p .5", intents: []Intent{assigned("p", ".5", ago(time.Minute)), unassigned("p", ".5", ago(time.Second))}, want: "p"},
		{name: "EC2 omits one, metadata does not", prev: "p .5 .6", ec2: "p .5", metadata: "p .5 .6", want: "p .5 ?.6"},
		{name: "EC2 omits one, metadata away", prev: "p .5 .6", ec2: "p .5", metadata: "-", want: "p .5 ?.6"},
		{name: "both omit one", prev: "p .5 .6 .7", ec2: "p .5 .7", metadata: "p .5 .7", want: "p .5 .7"},
		{name: "one in doubt is shown again", prev: "p .5 ?.6", ec2: "p .5 .6", metadata: "p .5 .6", want: "p .5 .6"},
		{name: "another program added one", prev: "p .5", ec2: "p .5 .6", metadata: "p .5", want: "p .5 .6"},
		{name: "two ENIs have one", ec2: "p .5; a .5", metadata: "p .5; a .5", want: "p ?.5; a ?.5"},
		{name: "two ENIs have one, assigned to one of them just now", prev: "p .5; a", ec2: "p .5; a .5", metadata: "a .5", intents: []Intent{assigned("p", ".5", ago(time.Minute))}, want: "p .5; a ?.5"},
		{name: "most slots are missing at once", prev: "p .1 .2 .3 .4", ec2: "p .1", metadata: "p .1", want: "p .1 ?.2 ?.3 ?.4", trip: true},
		{name: "all ENIs are missing at once", prev: "p; a .1 .2; b .3 .4", ec2: "p", metadata: "p", want: "p; a ?.1 ?.2; b ?.3 ?.4", trip: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := mergeInput{
				Prev: Inventory{ENIs: managedENIs(c.prev)}, Intents: c.intents,
				Instance: mergeInstance, Owner: mergeOwner, Lag: 2 * time.Minute, TripShare: 0.5,
			}
			if c.ec2 != "-" {
				in.EC2, in.EC2At = parseENIs(c.ec2), mergeNow
			}
			if c.metadata != "-" {
				in.Metadata, in.MetadataAt = metadataENIs(c.metadata), mergeNow
			}
			inv := merge(in)
			want := printENIs(managedENIs(c.want))
			if strings.Contains(c.want, "in flight") {
				want = c.want
			}
			got := strings.ReplaceAll(printENIs(inv.ENIs), " (not managed)", "")
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("inventory (-want +got):\n%s", diff)
			}
			if got := strings.Join(inv.Gone, " "); got != c.gone {
				t.Errorf("gone %q, want %q", got, c.gone)
			}
			if (inv.Trip != nil) != c.trip {
				t.Errorf("trip %+v, want %v", inv.Trip, c.trip)
			}
		})
	}
}

// managedENIs is parseENIs for ENIs that are known to be managed.
func managedENIs(s string) []ENI {
	if strings.Contains(s, "(") {
		return nil
	}
	out := parseENIs(s)
	for i := range out {
		out[i].Managed = true
		out[i].Primary = out[i].ID == "p"
	}
	return out
}

// metadataENIs is parseENIs without the tags, which the metadata service does not
// show.
func metadataENIs(s string) []ENI {
	out := parseENIs(s)
	for i := range out {
		out[i].Tags = nil
	}
	return out
}

func TestMergeManaged(t *testing.T) {
	tagged := func(e ENI, key, value string) ENI {
		e.Tags = map[string]string{TagOwner: mergeOwner, TagInstance: "i-1"}
		e.Tags[key] = value
		return e
	}
	a, p := parseENIs("a")[0], parseENIs("p")[0]
	for _, c := range []struct {
		name string
		e    ENI
		want bool
	}{
		{"tagged for this node", a, true},
		{"of another owner", tagged(a, TagOwner, "them"), false},
		{"of another instance", tagged(a, TagInstance, "i-2"), false},
		{"not to be managed", tagged(a, TagNoManage, "true"), false},
		{"tagged not to be managed, with the value false", tagged(a, TagNoManage, "false"), true},
		{"primary", tagged(p, TagOwner, ""), true},
		{"primary, not to be managed", tagged(p, TagNoManage, "true"), false},
	} {
		inv := merge(mergeInput{EC2: []ENI{c.e}, EC2At: mergeNow, Instance: mergeInstance, Owner: mergeOwner})
		if inv.ENIs[0].Managed != c.want {
			t.Errorf("%s: managed %v, want %v", c.name, !c.want, c.want)
		}
	}
}

// TestMergeOwnIPv6 checks that the own IPv6 address of an ENI, which routes and the source
// translation depend on, is lost only if EC2 and the metadata service both omit it.
func TestMergeOwnIPv6(t *testing.T) {
	own, other := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	with := func(a netip.Addr) []ENI {
		e := parseENIs("p .5")[0]
		e.Addr, e.Addr6 = netip.MustParseAddr("10.0.0.4"), a
		return []ENI{e}
	}
	none := netip.Addr{}
	for _, c := range []struct {
		name                string
		ec2, metadata, want netip.Addr
		away                Source
	}{
		{name: "both show it", ec2: own, metadata: own, want: own},
		{name: "EC2 omits it", metadata: own, want: own},
		{name: "EC2 omits it, metadata away", away: SourceMetadata, want: own},
		{name: "metadata omits it", ec2: own, want: own},
		{name: "metadata omits it, EC2 away", away: SourceEC2, want: own},
		{name: "EC2 shows another one, metadata late", ec2: other, metadata: own, want: other},
		{name: "both show another one", ec2: other, metadata: other, want: other},
		{name: "both omit it", want: none},
	} {
		in := mergeInput{Prev: Inventory{ENIs: with(own)}, Instance: mergeInstance, Owner: mergeOwner, Lag: 2 * time.Minute, TripShare: 0.5}
		if c.away != SourceEC2 {
			in.EC2, in.EC2At = with(c.ec2), mergeNow
		}
		if c.away != SourceMetadata {
			in.Metadata, in.MetadataAt = with(c.metadata), mergeNow
		}
		inv := merge(in)
		if got := inv.ENIs[0].Addr6; got != c.want {
			t.Errorf("%s: own address %v, want %v", c.name, got, c.want)
		}
	}
}

// TestTrip merges a view without most of the known slots. The view must trip at
// first. The trip must end when the slots are shown again, or when they are still
// missing much later.
func TestTrip(t *testing.T) {
	observe := func(prev Inventory, s string, at time.Duration) Inventory {
		return merge(mergeInput{
			Prev: prev, EC2: parseENIs(s), EC2At: mergeNow.Add(at), Metadata: metadataENIs(s), MetadataAt: mergeNow.Add(at),
			Instance: mergeInstance, Owner: mergeOwner, Lag: 2 * time.Minute, TripShare: 0.5,
		})
	}
	const all = "p .1 .2; a .3 .4"
	inv := observe(Inventory{}, all, 0)
	inv = observe(inv, "p .1", time.Minute)
	if inv.Trip == nil || inv.Trip.Missing != 3 || inv.Trip.Known != 4 {
		t.Fatalf("trip %+v", inv.Trip)
	}
	back := observe(inv, all, 2*time.Minute)
	if back.Trip != nil || printENIs(back.ENIs) != all {
		t.Errorf("shown again: %s, %+v", printENIs(back.ENIs), back.Trip)
	}
	if still := observe(inv, "p .1", 2*time.Minute); still.Trip == nil || printENIs(still.ENIs) != "p .1 ?.2; a ?.3 ?.4" {
		t.Errorf("missing a second time too soon: %s, %+v", printENIs(still.ENIs), still.Trip)
	}
	if gone := observe(inv, "p .1", 4*time.Minute); gone.Trip != nil || printENIs(gone.ENIs) != "p .1" || !slices.Equal(gone.Gone, []string{"a"}) {
		t.Errorf("missing much later: %s, %+v", printENIs(gone.ENIs), gone)
	}
}

// FuzzMerge checks the invariants of every merge.
func FuzzMerge(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		view := func() []ENI {
			s := "p"
			for i := range 8 {
				if rnd.IntN(2) == 0 {
					s += fmt.Sprintf(" .%d", i+1)
				}
			}
			for _, id := range []string{"a", "b"} {
				if rnd.IntN(3) > 0 {
					s += fmt.Sprintf("; %s .%d .%d", id, 1+rnd.IntN(20), 32+16*rnd.IntN(3))
				}
			}
			return parseENIs(s)
		}
		in := mergeInput{
			EC2: view(), Metadata: view(), Instance: mergeInstance, Owner: mergeOwner, Lag: 2 * time.Minute, TripShare: 2,
			Prev: merge(mergeInput{EC2: view(), EC2At: mergeNow, Instance: mergeInstance, Owner: mergeOwner}),
		}
		in.EC2At, in.MetadataAt = mergeNow.Add(time.Minute), mergeNow.Add(time.Minute)
		off := parseENIs("p .1 .2")[0].Blocks()
		in.Intents = []Intent{{Op: OpUnassign, ENI: "p", Done: true, Changed: mergeNow, Blocks: off}}
		inv := merge(in)
		seen := map[netip.Prefix]bool{}
		for _, e := range inv.ENIs {
			for _, b := range e.Blocks() {
				if seen[b] {
					t.Errorf("%s is on two ENIs", b)
				}
				seen[b] = true
				if e.ID == "p" && slices.Contains(off, b) {
					t.Errorf("%s was unassigned, but is shown", b)
				}
				if slices.Contains(e.Doubtful, b) {
					t.Errorf("%s is in doubt and not in doubt", b)
				}
			}
		}
		if again := merge(mergeInput{
			Prev: inv, EC2: in.EC2, EC2At: in.EC2At, Metadata: in.Metadata, MetadataAt: in.MetadataAt,
			Intents: in.Intents, Instance: in.Instance, Owner: in.Owner, Lag: in.Lag, TripShare: 2,
		}); printENIs(again.ENIs) != printENIs(inv.ENIs) {
			t.Errorf("merged again:\n%s\n%s", printENIs(inv.ENIs), printENIs(again.ENIs))
		}
	})
}
