// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/vpcnet/vpcnet/datapath/policy"
)

// A web server may receive requests from one subnet, and may not open connections. Later the
// clients may ask another port too.
func Example() {
	class := func(last uint16) policy.Class {
		clients := policy.Rule{
			Name:  "clients",
			Peers: []policy.Block{{Prefix: netip.MustParsePrefix("10.0.1.0/24")}},
			Ports: []policy.Ports{{Protocol: policy.TCP, First: 80, Last: last}},
		}
		return policy.Class{
			Ingress: policy.Rules{Isolated: true, Allow: []policy.Rule{clients}},
			Egress:  policy.Rules{Isolated: true},
		}
	}
	state := func(c policy.Class) policy.State {
		web, err := policy.Compile(c)
		if err != nil {
			panic(err)
		}
		return policy.State{
			Classes: map[string]policy.Compiled{"web": web},
			Pods:    map[netip.Addr]string{netip.MustParseAddr("10.0.2.2"): "web"},
		}
	}
	client := netip.MustParseAddr("10.0.1.7")
	fmt.Println(policy.Judge(class(80), policy.Packet{Peer: client, Protocol: policy.TCP, Port: 80}))
	d := state(class(80)).Judge(policy.Flow{Src: client, Dst: netip.MustParseAddr("10.0.2.2"), Protocol: policy.UDP, Port: 80})
	fmt.Println(d.Allowed, d.Class, d.Direction)
	fmt.Print(policy.Diff(state(class(80)), state(class(81))))
	// Output:
	// {true clients}
	// false web ingress
	// delete element inet vpcnet-policy in4-web { 10.0.1.0/24 . tcp . 80 }
	// add element inet vpcnet-policy in4-web { 10.0.1.0/24 . tcp . 80-81 }
}

// A pod may open connections to the internet, but not to the metadata service.
func ExampleJudge() {
	internet := policy.Class{Egress: policy.Rules{Isolated: true, Allow: []policy.Rule{{
		Name: "internet",
		Peers: []policy.Block{{
			Prefix: netip.MustParsePrefix("0.0.0.0/0"),
			Except: []netip.Prefix{netip.MustParsePrefix("169.254.169.254/32")},
		}},
		Ports: []policy.Ports{{Protocol: policy.TCP}},
	}}}}
	for _, peer := range []string{"203.0.113.10", "169.254.169.254"} {
		v := policy.Judge(internet, policy.Packet{
			Direction: policy.Egress, Peer: netip.MustParseAddr(peer), Protocol: policy.TCP, Port: 443,
		})
		fmt.Printf("%s: allowed %t, rule %q\n", peer, v.Allowed, v.Rule)
	}
	// Output:
	// 203.0.113.10: allowed true, rule "internet"
	// 169.254.169.254: allowed false, rule ""
}

// A program that enforces policies repairs their table until its context ends.
func ExampleHandle_Watch() {
	run := func(ctx context.Context, s policy.State) error {
		node, err := policy.Open("") // the network namespace of this process
		if err != nil {
			return err
		}
		defer node.Close()
		if _, err := node.Apply(ctx, s); err != nil {
			return err
		}
		return node.Watch(ctx, policy.WatchConfig{
			Every: 10 * time.Second,
			Repaired: func(r policy.Repair) {
				if r.Err != nil || r.Fighting {
					slog.Error("policies are damaged", "by", r.By, "repair", r.Changes, "err", r.Err)
					return
				}
				slog.Warn("policies were damaged", "by", r.By, "repaired after", r.Took)
			},
		})
	}
	_ = run
}
