// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// TestNewRefuses checks that New refuses tags and groups that EC2 would refuse, and
// that EC2 accepts what New accepts.
func TestNewRefuses(t *testing.T) {
	many := func(n int) map[string]string {
		out := map[string]string{}
		for i := range n {
			out[fmt.Sprint("key", i)] = ""
		}
		return out
	}
	groups := make(eni.FixedGroups, 17)
	for i := range groups {
		groups[i] = fmt.Sprintf("sg-%017x", i)
	}
	for name, c := range map[string]struct {
		cfg  eni.Config
		want string // part of the error, or empty
	}{
		"46 tags":             {eni.Config{Tags: many(46), Cluster: "c"}, ""},
		"47 tags":             {eni.Config{Tags: many(47), Cluster: "c"}, "51 tags"},
		"47 tags, no cluster": {eni.Config{Tags: many(47)}, ""},
		"reserved key":        {eni.Config{Tags: map[string]string{"AWS:x": ""}}, "reserved"},
		"empty key":           {eni.Config{Tags: map[string]string{"": "x"}}, "0 characters"},
		"longest tag":         {eni.Config{Tags: map[string]string{strings.Repeat("k", 128): strings.Repeat("v", 256)}}, ""},
		"long key":            {eni.Config{Tags: map[string]string{strings.Repeat("k", 129): ""}}, "129 characters"},
		"long value":          {eni.Config{Tags: map[string]string{"k": strings.Repeat("v", 257)}}, "257 characters"},
		"long owner":          {eni.Config{Owner: strings.Repeat("v", 257)}, "257 characters"},
		"17 groups":           {eni.Config{Groups: groups}, "17 security groups"},
		"17 groups of a zone": {eni.Config{Groups: eni.ByZone{"z": {Groups: groups}}}, "17 security groups"},
		"16 groups":           {eni.Config{Groups: groups[:16]}, ""},
		"name of a group":     {eni.Config{Groups: eni.FixedGroups{"default"}}, "not an ID"},
	} {
		t.Run(name, inBubble(func(t *testing.T) {
			w := newWorld(t, enitest.Config{})
			c.cfg.Client = eni.NewClient(w.config(w.run("m5.large").ID, nil), fast)
			m, err := eni.New(c.cfg)
			if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q in it", err, c.want)
			}
			if err != nil || c.cfg.Groups != nil {
				return
			}
			if _, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 1}); err != nil {
				t.Errorf("EC2 refuses what New accepts: %v", err)
			}
		}))
	}
}

// TestTooManyGroups checks that a node whose groups exceed the quota of the account
// makes few calls, and names the quota.
func TestTooManyGroups(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		var ids eni.FixedGroups
		for i := range 6 {
			g, err := w.AddSecurityGroup(w.vpc.ID, fmt.Sprint("g", i), nil)
			w.check(err)
			ids = append(ids, g.ID)
		}
		m := w.manager(w.run("m5.large"), eni.Config{Groups: ids})
		for begin := time.Now(); time.Since(begin) < 10*time.Minute; time.Sleep(5 * time.Second) {
			if _, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 1}); !errors.Is(err, eni.ErrQuota) {
				t.Fatalf("%v, want ErrQuota", err)
			}
		}
		if n := w.Calls()["CreateNetworkInterface"]; n > 50 || len(w.ENIs()) != 1 {
			t.Errorf("%d calls, %d ENIs, want at most 50 calls and one ENI", n, len(w.ENIs()))
		}
	})(t)
}

// TestNotSent checks that a call that waits for the budget until its context ends is
// called throttled only if EC2 has throttled, and leaves no operation open.
func TestNotSent(t *testing.T) {
	for _, throttled := range []bool{false, true} {
		inBubble(func(t *testing.T) {
			w := newWorld(t, enitest.Config{})
			inst := w.run("m5.large")
			cfg := fast
			cfg.WriteRate, cfg.WriteBurst, cfg.Attempts = 0.01, 1, 1
			m := w.manager(inst, eni.Config{Client: eni.NewClient(w.config(inst.ID, nil), cfg)})
			_, err := m.Discover(t.Context())
			w.check(err)
			in := eni.AssignInput{ENI: w.eni(m), Slots: 1}
			if throttled {
				w.AddFault(enitest.Fault{Action: "AssignPrivateIpAddresses", Times: 1, Err: &enitest.APIError{Code: "RequestLimitExceeded", Status: 503}})
			}
			_, err = m.Assign(t.Context(), in)
			if errors.Is(err, eni.ErrThrottled) != throttled {
				t.Fatalf("first call: %v", err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			for name, do := range map[string]func() error{
				"Assign":    func() error { _, err := m.Assign(ctx, in); return err },
				"Provision": func() error { _, err := m.Provision(ctx, eni.ProvisionInput{Slots: 1}); return err },
			} {
				err := do()
				want := eni.ErrUnreachable
				if throttled {
					want = eni.ErrThrottled
				}
				if !errors.Is(err, want) || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s: %v, want %v and DeadlineExceeded", name, err, want)
				}
			}
			if open, err := m.Unfinished(t.Context()); !throttled && len(open) > 0 || err != nil {
				t.Errorf("unfinished: %+v, %v", open, err)
			}
		})(t)
	}
}
