// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/warmpool"
)

// TestStartTriesForEver: without EC2 and the metadata service the start goes on
// trying, ever less often, knows what is wrong meanwhile, and ends when it is
// told to.
func TestStartTriesForEver(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	t.Setenv("AWS_REGION", "us-west-2")
	synctest.Test(t, func(t *testing.T) {
		pool, err := ipam.Open(ipam.Config{})
		if err != nil {
			t.Fatal(err)
		}
		s := defaults()
		s.MetadataEndpoint, s.EC2Endpoint = "http://127.0.0.1:1", "http://127.0.0.1:1"
		b := newBackend(pool, eni.NewMemory(), s)
		var log lockedBuffer
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		st, err := start(ctx, s, b, nil, knowledge{}, slog.New(slog.NewJSONHandler(&log, nil)))
		if st != nil || err != nil {
			t.Errorf("start: %v, %v, want nothing once it is told to end", st, err)
		}
		var pauses []string
		for line := range strings.Lines(log.String()) {
			var e struct{ Level, Msg, Reason, Retry string }
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			if e.Level != "ERROR" || e.Msg != "agent cannot start yet" || e.Reason != string(ipam.ReasonNoMetadata) {
				t.Errorf("log line %s", line)
			}
			pauses = append(pauses, e.Retry)
		}
		first := []string{"1s", "2s", "4s", "8s", "16s", "30s", "30s"}
		if len(pauses) < 15 || !slices.Equal(pauses[:len(first)], first) || pauses[len(pauses)-1] != "30s" {
			t.Errorf("pauses %v, want %v and so on", pauses, first)
		}
		got := b.starting()
		if got.Reason != string(ipam.ReasonNoMetadata) || !strings.Contains(got.Details, "see that the instance metadata service is switched on") {
			t.Errorf("the answer to a plugin is %+v", got)
		}
	})
}

// TestLimits: what the instance type can carry, cut down to what is set.
func TestLimits(t *testing.T) {
	m5 := eni.Limits{Cards: []int{3}, AddrsPerENI: 10, Nitro: true}
	cards := eni.Limits{Cards: []int{4, 7}, DefaultCard: 1, AddrsPerENI: 5, Nitro: true}
	old := eni.Limits{Cards: []int{2}, AddrsPerENI: 4}
	for _, c := range []struct {
		name   string
		args   []string
		limits eni.Limits
		want   []warmpool.Limits
	}{
		{"as the type", nil, m5, []warmpool.Limits{{MaxENIs: 3, SlotsPerENI: 9, AddressesPerSlot: 1}}},
		{"fewer ENIs", []string{"-max-eni=2"}, m5, []warmpool.Limits{{MaxENIs: 2, SlotsPerENI: 9, AddressesPerSlot: 1}}},
		{"more ENIs than there are", []string{"-max-eni=20"}, m5, []warmpool.Limits{{MaxENIs: 3, SlotsPerENI: 9, AddressesPerSlot: 1}}},
		{"all ENIs, in words of amazon-vpc-cni-k8s", []string{"-max-eni=-1"}, m5, []warmpool.Limits{{MaxENIs: 3, SlotsPerENI: 9, AddressesPerSlot: 1}}},
		{"pods", []string{"-max-pods=17"}, m5, []warmpool.Limits{{MaxENIs: 3, SlotsPerENI: 9, AddressesPerSlot: 1, MaxPods: 17}}},
		{"prefixes", []string{"-enable-prefix-delegation"}, m5, []warmpool.Limits{{MaxENIs: 3, SlotsPerENI: 9, AddressesPerSlot: 16}}},
		{"prefixes on a type without", []string{"-enable-prefix-delegation"}, old, []warmpool.Limits{{MaxENIs: 2, SlotsPerENI: 3, AddressesPerSlot: 1}}},
		{"primary ENI on another card", nil, cards, []warmpool.Limits{{}, {MaxENIs: 7, SlotsPerENI: 4, AddressesPerSlot: 1}}},
	} {
		s, err := parse(c.args, noEnv, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, s.limits(c.limits)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// TestAnnounce: the CNI configuration names what the agent was given, goes where
// it was told to, and nowhere if it was told so.
func TestAnnounce(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	s := defaults()
	s.Socket, s.StateDir, s.VethPrefix = "/run/a.sock", "/var/lib/a", "veth"
	s.Conflist = filepath.Join(t.TempDir(), "net.d", "10-vpcnet.conflist")
	if err := announce(s, log); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(s.Conflist)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{s.Socket, s.StateDir, `"veth"`} {
		if !strings.Contains(string(text), word) {
			t.Errorf("the configuration lacks %s:\n%s", word, text)
		}
	}
	under := s
	under.Conflist = filepath.Join(s.Conflist, "10-vpcnet.conflist")
	if err := announce(under, log); err == nil || !strings.Contains(err.Error(), "-conflist") {
		t.Errorf("a configuration below a file: %v, want an error that names -conflist", err)
	}
	none := s
	none.Conflist = ""
	if err := announce(none, log); err != nil {
		t.Errorf("no configuration: %v", err)
	}
}
