// SPDX-License-Identifier: Apache-2.0

package iptables_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vpcnet/vpcnet/snat"
	"github.com/vpcnet/vpcnet/snat/iptables"
)

// A program that translates with iptables until its context ends.
func Example() {
	run := func(ctx context.Context) error {
		rules, err := snat.Config{
			NodeAddrs:   []netip.Addr{netip.MustParseAddr("10.0.1.10")},
			PrimaryLink: "ens5",
			VPC:         []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")},
		}.Iptables()
		if err != nil {
			return err
		}
		for _, limit := range rules.Limits() {
			fmt.Println("with iptables", limit)
		}
		node, err := iptables.Open(ctx, iptables.Config{})
		if err != nil {
			return err
		}
		defer node.Close()
		if _, err := node.Apply(ctx, rules); errors.Is(err, iptables.ErrLocked) {
			fmt.Println("try again later:", err)
		} else if err != nil {
			return err
		}
		return node.Watch(ctx, iptables.WatchConfig{
			Desired: func() (snat.IptablesRuleset, bool) { return rules, true },
			Every:   5 * time.Second,
		})
	}
	_ = run
}
