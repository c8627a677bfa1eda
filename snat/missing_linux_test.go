// SPDX-License-Identifier: Apache-2.0

package snat_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
	"github.com/vpcnet/vpcnet/snat"
)

// TestMissing runs on a kernel without nftables. A node that translates nothing works there,
// and one that does gets one clear error. It needs such a kernel: internal/vm boots one, and
// loads no module before the test.
func TestMissing(t *testing.T) {
	isolatetest.Require(t)
	if _, err := os.Stat("/late"); err != nil {
		t.Log("this kernel has nftables: internal/vm runs this test on one that has not")
		return
	}
	_, h := namespace(t)
	if r, err := h.Observe(t.Context()); err != nil || !r.Equal(snat.Ruleset{}) {
		t.Errorf("Observe: %v, %v, want nothing", r, err)
	}
	if changed, err := h.Apply(t.Context(), snat.Ruleset{}); changed || err != nil {
		t.Errorf("Apply of nothing: %t, %v", changed, err)
	}
	rules, err := snat.Config{
		VPC: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}, PrimaryLink: "ens5", NodeAddrs: []netip.Addr{netip.MustParseAddr("10.0.0.10")}, Mark: 0x80,
	}.Ruleset()
	if err != nil {
		t.Fatal(err)
	}
	const want = "the kernel needs nf_tables with fib, ct and nat for family inet (Linux 5.2)"
	if _, err := h.Apply(t.Context(), rules); !errors.Is(err, errors.ErrUnsupported) || strings.Count(err.Error(), want) != 1 {
		t.Errorf("Apply: %v, want %v with %q", err, errors.ErrUnsupported, want)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err = h.Watch(ctx, snat.WatchConfig{
		Desired:  func() (snat.Ruleset, bool) { return snat.Ruleset{}, true },
		Repaired: func(r snat.Repair) { t.Errorf("Watch repairs %v", r.Changes) },
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Watch: %v, want %v", err, context.DeadlineExceeded)
	}
}
