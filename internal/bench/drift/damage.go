// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// damage is a change that a hostile or careless program makes to a piece of ours.
type damage struct {
	netstate.Change
	// slow means that after the repair the kernel takes up to two seconds until it
	// asks for a neighbour again; packets may pass for a moment before it does.
	slow bool
}

// name is the command that does the damage, or its first line.
func (d damage) name() string { return strings.SplitN(d.String(), "\n", 2)[0] }

// slowBound is the bound after a slow damage.
const slowBound = 2500 * time.Millisecond

// damages lists everything that can be done to what d wants: each address, route,
// rule, neighbour and element of a map deleted, each link set down or given another MTU, pods'
// links another MAC, each setting that the kernel reports another value, and the
// table of nftables deleted.
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
