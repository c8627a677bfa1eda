// SPDX-License-Identifier: Apache-2.0

package snat_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vpcnet/vpcnet/snat"
)

// The rules of a node that translates for its pods and serves node ports. To put
// them into the kernel, give them to Handle.Apply.
func ExampleConfig_Ruleset() {
	rules, err := snat.Config{
		NodeAddrs:   []netip.Addr{netip.MustParseAddr("10.0.1.10")},
		PrimaryLink: "ens5",
		VPC:         []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")},
		Excluded:    []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")},
	}.Ruleset()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(rules)
	// Output:
	// table inet vpcnet-snat {
	// 	set inside {
	// 		type ipv4_addr
	// 		flags interval
	// 		elements = { 10.0.0.0/16, 192.168.0.0/16 }
	// 	}
	//
	// 	chain pods {
	// 		type filter hook prerouting priority dstnat + 10; policy accept;
	// 		iifname "eni*" ct state new ip daddr != @inside fib daddr type != local ct mark set ct mark | 0x00000080 comment "flows that will be translated"
	// 		iifname "eni*" ct mark & 0x00000080 == 0x00000080 meta mark set meta mark | 0x00000080 comment "leave by the primary ENI"
	// 	}
	//
	// 	chain source {
	// 		type nat hook postrouting priority srcnat + 10; policy accept;
	// 		oifname "ens5" ip daddr != @inside fib saddr type != local counter snat ip to 10.0.1.10 fully-random comment "pods appear as the node"
	// 	}
	// }
}

// A program that changes its rules while it runs, and repairs the table until it gets
// SIGTERM. Desired returns new rules before Apply is called with them.
func ExampleHandle_Watch() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	node, err := snat.Open("") // the network namespace of this process
	if err != nil {
		slog.Error("no translation", "err", err)
		return
	}
	defer node.Close()

	var wanted atomic.Pointer[snat.Ruleset]
	change := func(c snat.Config) error {
		rules, err := c.Ruleset()
		if err != nil {
			return err
		}
		wanted.Store(&rules)
		_, err = node.Apply(ctx, rules)
		return err
	}
	go func() {
		err := node.Watch(ctx, snat.WatchConfig{
			Desired: func() (snat.Ruleset, bool) {
				if rules := wanted.Load(); rules != nil {
					return *rules, true
				}
				return snat.Ruleset{}, false
			},
			Repaired: func(r snat.Repair) { slog.Warn("translation was damaged", "by", r.By, "repaired after", r.Took) },
			Every:    10 * time.Second,
			Logger:   slog.Default(),
		})
		slog.Info("watch of translation ended", "err", err)
	}()

	vpc := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}
	err = change(snat.Config{NodeAddrs: []netip.Addr{netip.MustParseAddr("10.0.1.10")}, PrimaryLink: "ens5", VPC: vpc})
	if err != nil {
		slog.Error("translation not changed", "err", err)
	}
	<-ctx.Done()
}

// Whether a flow is translated, to what and why, without a kernel. The pod is on a second
// ENI, ens6. Its flow to a Service with an endpoint in the internet leaves by ens6 if the
// node uses iptables.
func ExampleConfig_Trace() {
	cfg := snat.Config{
		NodeAddrs:   []netip.Addr{netip.MustParseAddr("10.0.1.10")},
		PrimaryLink: "ens5",
		VPC:         []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")},
		Ports:       snat.Ports{First: 20000, Last: 29999}, // those that the network ACL lets pass
	}
	flow := snat.Flow{
		Protocol: "tcp", Node: cfg.NodeAddrs,
		In: "eni0123456789a", Out: "ens6", Src: netip.MustParseAddr("10.0.1.21"),
		Dst: netip.MustParseAddr("172.20.0.10"), Endpoint: netip.MustParseAddr("203.0.113.10"),
	}
	for _, backend := range []snat.Backend{snat.Nftables, snat.Iptables} {
		way, err := cfg.Trace(backend, flow)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s: from %s by %s, mark %#x, %d rules\n", backend, way.Source, way.Out, way.Mark, len(way.Rules))
		if way.Translated {
			fmt.Println("its port is one of", way.Ports.First, "to", way.Ports.Last)
		}
	}
	// Output:
	// nftables: from 10.0.1.10 by ens5, mark 0x80, 3 rules
	// its port is one of 20000 to 29999
	// iptables: from 10.0.1.21 by ens6, mark 0x0, 0 rules
}
