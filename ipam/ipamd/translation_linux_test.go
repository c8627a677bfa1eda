// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
	"github.com/vpcnet/vpcnet/snat"
)

func TestMain(m *testing.M) { isolatetest.Test(m) }

// lackingTranslator is a backend on a kernel that refuses its rules with an error.
type lackingTranslator struct {
	translator
	err    error
	closed bool
}

func (l *lackingTranslator) apply(context.Context, snat.Config, time.Time) error { return l.err }

func (l *lackingTranslator) Close() error {
	l.closed = true
	return nil
}

func newNetns(t *testing.T) *fabric.Netns {
	t.Helper()
	ns, err := fabric.CreateNetns("/run/netns/auto")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Delete(); err != nil {
			t.Error(err)
		}
	})
	return ns
}

func translation() snat.Config {
	return snat.Config{
		NodeAddrs: []netip.Addr{netip.MustParseAddr("10.0.0.10")}, PrimaryLink: "ens5", VPC: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")},
	}
}

// TestOneBound: a change of iptables for a pod that has waited for an earlier change, which
// succeeded, has only the rest of the bound, and the pod waits no longer than for one change.
func TestOneBound(t *testing.T) {
	isolatetest.Require(t)
	tr, err := openTranslator(t.Context(), newNetns(t).Path(), snat.Iptables)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	var waited waitedError
	if err := tr.apply(t.Context(), translation(), time.Now().Add(-changeWithin)); !errors.As(err, &waited) {
		t.Errorf("apply after the bound: %v, want a waitedError", err)
	}
	if got, err := tr.(*iptablesTranslator).Observe(t.Context()); err != nil || !got.Equal(snat.IptablesRuleset{}) {
		t.Errorf("the chains are %v\n%s\nwant none", err, got)
	}
	if err := tr.apply(t.Context(), translation(), time.Now()); err != nil {
		t.Errorf("apply within the bound: %v", err)
	}
}

// TestAutoBackend applies a translation with the backend auto. If the kernel lacks what
// nftables need, iptables has the rules from then on; after another error, and with the backend
// nftables, it stays.
func TestAutoBackend(t *testing.T) {
	isolatetest.Require(t)
	lacking := errors.Join(errors.New("the kernel needs nf_tables"), errors.ErrUnsupported)
	busy := errors.New("the table is busy")
	for _, test := range []struct {
		name     string
		fallback bool
		err      error
		changes  bool
	}{
		{"auto, nftables is lacking", true, lacking, true},
		{"auto, another error", true, busy, false},
		{"nftables is lacking", false, lacking, false},
		{"auto, nftables", true, nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			ns := newNetns(t)
			first := &lackingTranslator{err: test.err}
			l := &Links{netns: ns.Path(), snat: first, fallback: test.fallback}
			t.Cleanup(func() {
				if err := l.translator().Close(); err != nil {
					t.Error(err)
				}
			})
			cfg := translation()
			err := l.applyTranslation(t.Context(), cfg, time.Now())
			if !test.changes {
				if !errors.Is(err, test.err) || l.translator() != first || first.closed {
					t.Errorf("apply: %v, want %v and the same backend, open", err, test.err)
				}
				return
			}
			if err != nil || !first.closed {
				t.Fatalf("apply: %v; the backend that lacks its rules is closed: %t", err, first.closed)
			}
			other, ok := l.translator().(*iptablesTranslator)
			if !ok || !strings.HasPrefix(other.name(), "iptables-") {
				t.Fatalf("the backend is %T, want iptables", l.translator())
			}
			want, err := cfg.Iptables()
			if err != nil {
				t.Fatal(err)
			}
			if got, err := other.Observe(t.Context()); err != nil || !got.Equal(want) {
				t.Errorf("the chains are %v\n%s\nwant\n%s", err, got, want)
			}
		})
	}
}

// TestSetVPCAgain checks that prefixes of the VPC which could not be applied are not taken for
// the present ones, so that the next check applies them.
func TestSetVPCAgain(t *testing.T) {
	isolatetest.Require(t)
	ns := newNetns(t)
	path, err := datapath.Open(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	busy := errors.New("the table is busy")
	backend := &lackingTranslator{err: busy}
	l := newLinks(LinksConfig{Netns: ns.Path()})
	l.path, l.snat, l.hasTranslation = path, backend, true
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	before := translation().VPC
	l.vpc = before
	// lo plays the link of the primary ENI.
	l.enis["eni-1"] = datapath.ENI{ID: "eni-1", MAC: make(net.HardwareAddr, 6), Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.10/24")}}
	after := append(slices.Clone(before), netip.MustParsePrefix("100.64.0.0/16"))
	if err := l.SetVPC(t.Context(), after); !errors.Is(err, busy) || !slices.Equal(l.VPC(), before) {
		t.Errorf("SetVPC: %v, and the prefixes are %v, want %v and %v", err, l.VPC(), busy, before)
	}
	backend.err = nil
	if err := l.SetVPC(t.Context(), after); err != nil || !slices.Equal(l.VPC(), after) {
		t.Errorf("SetVPC again: %v, and the prefixes are %v, want %v", err, l.VPC(), after)
	}
}
