// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"encoding/json"
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
	"github.com/vpcnet/vpcnet/eni/instancetype"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/warmpool"
)

// TestStartTriesForEver checks that start, without EC2 and the metadata service,
// tries again with growing pauses, reports the problem meanwhile, and ends with its
// context.
func TestStartTriesForEver(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	t.Setenv("AWS_REGION", "us-west-2")
	synctest.Test(t, func(t *testing.T) {
		pool, err := ipam.Open(ipam.Config{})
		if err != nil {
			t.Fatal(err)
		}
		var log lockedBuffer
		cfg, err := Config{
			MetadataEndpoint: "http://127.0.0.1:1", EC2Endpoint: "http://127.0.0.1:1", Logger: slog.New(slog.NewJSONHandler(&log, nil)),
		}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		n := &node{cfg: cfg, log: cfg.Logger, pool: pool, backend: NewBackend(cfg.backend(pool)), intents: eni.NewMemory()}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		st, err := n.start(ctx)
		if st != nil || err != nil {
			t.Errorf("start = %v, %v after its context ended, want nil, nil", st, err)
		}
		var pauses []string
		for line := range strings.Lines(log.String()) {
			var e struct{ Level, Msg, Reason, Retry string }
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			if e.Level != "ERROR" || e.Msg != "agent cannot start yet" || e.Reason != string(ipam.ReasonNoMetadata) {
				t.Errorf("log line %s, want an error with reason %s", line, ipam.ReasonNoMetadata)
			}
			pauses = append(pauses, e.Retry)
		}
		first := []string{"1s", "2s", "4s", "8s", "16s", "30s", "30s"}
		if len(pauses) < 15 || !slices.Equal(pauses[:len(first)], first) || pauses[len(pauses)-1] != "30s" {
			t.Errorf("pauses %v, want %v and so on", pauses, first)
		}
		got := n.backend.starting()
		if got.Reason != string(ipam.ReasonNoMetadata) || !strings.Contains(got.Details, "check that the instance metadata service is enabled") {
			t.Errorf("the answer to a plugin is %+v, want reason %s and advice", got, ipam.ReasonNoMetadata)
		}
	})
}

// TestLimits checks that limits are those of the instance type, reduced by the
// settings.
func TestLimits(t *testing.T) {
	m5 := instancetype.Limits{Cards: []int{3}, AddrsPerENI: 10, Nitro: true}
	cards := instancetype.Limits{Cards: []int{4, 7}, DefaultCard: 1, AddrsPerENI: 5, Nitro: true}
	old := instancetype.Limits{Cards: []int{2}, AddrsPerENI: 4}
	for _, c := range []struct {
		name   string
		cfg    Config
		limits instancetype.Limits
		want   []warmpool.Limits
	}{
		{"as the type", Config{}, m5, []warmpool.Limits{{MaxENIs: 3, SlotsPerENI: 9, AddressesPerSlot: 1}}},
		{"fewer ENIs", Config{MaxENIs: 2}, m5, []warmpool.Limits{{MaxENIs: 2, SlotsPerENI: 9, AddressesPerSlot: 1}}},
		{"more ENIs than the type has", Config{MaxENIs: 20}, m5, []warmpool.Limits{{MaxENIs: 3, SlotsPerENI: 9, AddressesPerSlot: 1}}},
		{"pods", Config{MaxPods: 17}, m5, []warmpool.Limits{{MaxENIs: 3, SlotsPerENI: 9, AddressesPerSlot: 1, MaxPods: 17}}},
		{"prefixes", Config{Prefixes: true}, m5, []warmpool.Limits{{MaxENIs: 3, SlotsPerENI: 9, AddressesPerSlot: 16}}},
		{"prefixes on a type without", Config{Prefixes: true}, old, []warmpool.Limits{{MaxENIs: 2, SlotsPerENI: 3, AddressesPerSlot: 1}}},
		{"primary ENI on another card", Config{}, cards, []warmpool.Limits{{}, {MaxENIs: 7, SlotsPerENI: 4, AddressesPerSlot: 1}}},
	} {
		if diff := cmp.Diff(c.want, c.cfg.limits(c.limits, c.cfg.cards(c.limits, eni.Inventory{}))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// TestAnnounce checks that the CNI configuration contains the settings of the agent
// and is written to the path in the settings, if any.
func TestAnnounce(t *testing.T) {
	s := Config{Socket: "/run/a.sock", StateDir: filepath.Join(t.TempDir(), "state"), HostLinkPrefix: "veth"}
	announce := func(c Config) error {
		return (&node{cfg: c, log: slog.New(slog.DiscardHandler)}).announce(t.Context(), nil)
	}
	s.Conflist = filepath.Join(t.TempDir(), "net.d", "10-vpcnet.conflist")
	if err := announce(s); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(s.Conflist)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{s.Socket, s.StateDir, `"veth"`, `"ips": true`, `"mac": true`} {
		if !strings.Contains(string(text), word) {
			t.Errorf("the configuration lacks %s:\n%s", word, text)
		}
	}
	under := s
	under.Conflist = filepath.Join(s.Conflist, "10-vpcnet.conflist")
	if err := announce(under); err == nil || !strings.Contains(err.Error(), "CNI configuration") {
		t.Errorf("path below a file: %v, want an error that names the CNI configuration", err)
	}
	none := s
	none.Conflist = ""
	if err := announce(none); err != nil {
		t.Errorf("empty path: %v, want success", err)
	}
}
