// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

const year = 365 * 24 * time.Hour

func TestRebase(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name    string
		at, age time.Duration // how long before now the time on disk is, and the rebased one
	}{
		{"just now", 0, 0},
		{"a minute ago", time.Minute, time.Minute},
		{"ten years ago", 10 * year, 10 * year},
		{"in a second", -time.Second, 0},
		{"in an hour", -time.Hour, 0},
		{"in ten years", -10 * year, 0},
	} {
		disk := now.Add(-c.at).UTC()
		got := rebase(disk, now)
		if age := now.Sub(got); age != c.age {
			t.Errorf("%s: age %v, want %v", c.name, age, c.age)
		}
		if !monotonic(got) {
			t.Errorf("%s: %v has no monotonic reading", c.name, got)
		}
	}
	if got := rebase(time.Time{}, now); !got.IsZero() {
		t.Errorf("the zero time is rebased to %v", got)
	}
	far := time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC)
	if age := now.Sub(rebase(far, now)); age < 200*year {
		t.Errorf("the first second of year 1 is %v old", age)
	}
}

func TestRebaseEnd(t *testing.T) {
	now := time.Now()
	for _, c := range []struct{ left, want time.Duration }{
		{-10 * year, -10 * year}, {-time.Second, -time.Second}, {0, 0}, {20 * time.Second, 20 * time.Second},
		{time.Hour, time.Minute}, {10 * year, time.Minute},
	} {
		if got := rebaseEnd(now.Add(c.left).UTC(), now, time.Minute).Sub(now); got != c.want {
			t.Errorf("%v left on disk: %v, want %v", c.left, got, c.want)
		}
	}
	if got := rebaseEnd(time.Time{}, now, time.Minute); !got.IsZero() {
		t.Errorf("the zero time is rebased to %v", got)
	}
}

// monotonic reports whether a time has a monotonic reading. Only the text of a time
// shows that.
func monotonic(t time.Time) bool { return strings.Contains(t.String(), " m=") }

// TestMergeUncertainTime checks that a journalled change of uncertain age neither
// hides nor confirms a slot against a source, until the sources have had time to
// show the change.
func TestMergeUncertainTime(t *testing.T) {
	loaded := time.Now()
	slot := netip.MustParsePrefix("10.0.0.7/32")
	const lag = 2 * time.Minute
	with := func(blocks ...netip.Prefix) []ENI {
		e := ENI{ID: "eni-1", MAC: "m", Kind: KindInterface, Tags: map[string]string{TagOwner: "o", TagInstance: "i"}}
		for _, b := range blocks {
			e.addBlock(b)
		}
		return []ENI{e}
	}
	const in, doubt, out = "sure", "doubtful", "no"
	for _, c := range []struct {
		name  string
		op    Op
		disk  time.Duration // when the change was made, relative to the reading
		after time.Duration // when the sources were asked, relative to the reading
		ec2   bool          // EC2 shows the slot
		want  string
	}{
		{"released a minute ago, shown", OpUnassign, -time.Minute, 0, true, out},
		{"released an hour ago, shown", OpUnassign, -time.Hour, 0, true, doubt},
		{"released ten years ago, shown", OpUnassign, -10 * year, 0, true, doubt},
		{"released in an hour, shown", OpUnassign, time.Hour, 0, true, doubt},
		{"released in ten years, shown", OpUnassign, 10 * year, time.Minute, true, doubt},
		{"released in ten years, not shown", OpUnassign, 10 * year, 0, false, out},
		{"released ten years ago, still shown after the lag", OpUnassign, -10 * year, lag, true, in},
		{"released in ten years, still shown after the lag", OpUnassign, 10 * year, lag, true, in},
		{"released a minute ago, still shown after the lag", OpUnassign, -time.Minute, lag, true, in},
		{"assigned a minute ago, not shown", OpAssign, -time.Minute, 0, false, in},
		{"assigned an hour ago, not shown", OpAssign, -time.Hour, 0, false, doubt},
		{"assigned an hour ago, shown", OpAssign, -time.Hour, 0, true, in},
		{"assigned in an hour, not shown", OpAssign, time.Hour, 0, false, doubt},
		{"assigned in ten years, shown", OpAssign, 10 * year, 0, true, in},
		{"assigned in ten years, not shown after the lag", OpAssign, 10 * year, lag, false, out},
	} {
		intent := Intent{ID: "1", Op: c.op, ENI: "eni-1", Done: true, Blocks: []netip.Prefix{slot}, Changed: loaded.Add(c.disk).UTC()}
		shown := with()
		if c.ec2 {
			shown = with(slot)
		}
		at := loaded.Add(c.after)
		inv := merge(mergeInput{
			EC2: shown, Metadata: with(), EC2At: at, MetadataAt: at, Loaded: loaded, Lag: lag, Owner: "o", Instance: Instance{ID: "i"},
			Intents: []Intent{intent.rebase(loaded, time.Minute)},
		})
		got := map[belief]string{slotSure: in, slotDoubtful: doubt, slotAbsent: out}[beliefOf(&inv.ENIs[0], slot)]
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestMergeUncertainRetirement checks that an ENI that EC2 shows, and that was
// retired at an uncertain time according to the journal, is in the inventory but
// has no addresses for pods.
func TestMergeUncertainRetirement(t *testing.T) {
	loaded := time.Now()
	e := ENI{ID: "eni-1", MAC: "m", Kind: KindInterface, Tags: map[string]string{TagOwner: "o", TagInstance: "i"}}
	for _, c := range []struct {
		disk, after time.Duration
		found, pods bool
	}{
		{-time.Minute, 0, false, false},
		{-time.Hour, 0, true, false},
		{10 * year, 0, true, false},
		{10 * year, 2 * time.Minute, true, true},
	} {
		at := loaded.Add(c.after)
		in := Intent{ID: "1", Op: OpRetire, ENI: "eni-1", Done: true, Changed: loaded.Add(c.disk).UTC()}
		inv := merge(mergeInput{
			EC2: []ENI{e}, Metadata: []ENI{e}, EC2At: at, MetadataAt: at, Loaded: loaded, Lag: 2 * time.Minute, Owner: "o", Instance: Instance{ID: "i"},
			Intents: []Intent{in.rebase(loaded, time.Minute)},
		})
		got, found := inv.ENI("eni-1")
		if found != c.found || got.ForPods() != c.pods {
			t.Errorf("retired at %v, asked %v after the reading: found %v, for pods %v", c.disk, c.after, found, got.ForPods())
		}
	}
}
