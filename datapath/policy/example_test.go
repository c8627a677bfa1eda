// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"fmt"
	"net/netip"

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
