// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/google/nftables"
	"github.com/vishvananda/netns"
)

// flushRuleset removes all nftables rules of the node.
func (w *world) flushRuleset() error {
	h, err := netns.GetFromPath(w.ns.Path())
	if err != nil {
		return err
	}
	defer h.Close()
	conn, err := nftables.New(nftables.WithNetNSFd(int(h)))
	if err != nil {
		return err
	}
	conn.FlushRuleset()
	return conn.Flush()
}
