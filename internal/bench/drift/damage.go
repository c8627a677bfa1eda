// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// damage is a change that another program makes to the state of the node.
type damage struct {
	netstate.Change
	// slow means that after the repair the kernel takes up to two seconds to resolve
	// a neighbour again. Packets may pass for a moment before that.
	slow bool
}

// name returns the first line of the command that does the damage.
func (d damage) name() string { return strings.SplitN(d.String(), "\n", 2)[0] }

// slowBound is the least bound after a slow damage.
const slowBound = 2500 * time.Millisecond

// damages returns all possible damages to the desired state d. They delete an
// address, route, rule, neighbour, map element or the nft table, set a link down,
// change the MTU of a link or the MAC of a pod's link, or change a sysctl of which
// the kernel reports changes.
func damages(d datapath.Desired) (all []damage) {
	states := []netstate.State{d.Node.State()}
	for _, p := range d.Pods {
		states = append(states, p.HostState())
	}
	for _, c := range netstate.Diff(netstate.State{}, netstate.Join(states...)) {
		switch i := c.Item.(type) {
		case netstate.Link:
			other := i
			other.MTU = 1300
			all = append(all, damage{Change: netstate.Change{Op: netstate.OpAdd, Item: other}})
			other = i
			other.Up = false
			all = append(all, damage{netstate.Change{Op: netstate.OpAdd, Item: other}, true})
			if i.Kind == "veth" && i.Peer != "" {
				other = i
				other.MAC = "02:00:00:00:00:98"
				all = append(all, damage{Change: netstate.Change{Op: netstate.OpAdd, Item: other}})
			}
		case netstate.Sysctl:
			if strings.HasSuffix(i.Key, ".rp_filter") || strings.HasSuffix(i.Key, "forward") || strings.HasSuffix(i.Key, "forwarding") {
				other := netstate.Sysctl{Key: i.Key, Value: "0"}
				if i.Value == "0" || strings.HasSuffix(i.Key, ".rp_filter") {
					other.Value = "1"
				}
				all = append(all, damage{Change: netstate.Change{Op: netstate.OpAdd, Item: other}})
			}
		case netstate.Address:
			all = append(all, damage{netstate.Change{Op: netstate.OpDelete, Item: i}, true})
		case netstate.Filter:
			for _, e := range i.Sources {
				all = append(all, damage{Change: netstate.Change{Op: netstate.OpDelete, Item: e}})
			}
			all = append(all, damage{Change: netstate.Change{Op: netstate.OpDelete, Item: i}})
		default:
			all = append(all, damage{Change: netstate.Change{Op: netstate.OpDelete, Item: i}})
		}
	}
	return all
}
