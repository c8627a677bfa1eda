// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"errors"
	"fmt"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// counts returns what Keeper.Counts returns, for any table.
func (s *Socket) counts(table string) (map[string]uint64, error) {
	counts := map[string]uint64{}
	err := s.do(func(c *conn) error {
		answers, err := c.request(unix.NFT_MSG_GETRULE, netlink.Dump, netlink.Attribute{Type: unix.NFTA_RULE_TABLE, Data: cString(table)})
		if errors.Is(err, unix.ENOENT) {
			return nil
		} else if err != nil {
			return fmt.Errorf("list nftables rules: %w", err)
		}
		for _, answer := range answers {
			exprs, err := decodeExpressions(answer[unix.NFTA_RULE_EXPRESSIONS])
			if err != nil {
				return fmt.Errorf("nftables rule in table %s: %w", table, err)
			}
			for _, e := range exprs {
				if counter, ok := e.expr.(*expr.Counter); ok {
					counts[text(answer[unix.NFTA_RULE_CHAIN])] += counter.Packets
				}
			}
		}
		return nil
	})
	if errors.Is(err, ErrMissing) {
		err = nil
	}
	return counts, err
}

// Counts returns how many packets the counters of each chain of the keeper's table have
// counted. A rule that is replaced begins at 0. Chains without counters, and those of an absent
// table, are missing. It does not wait for changes of the table.
func (k *Keeper) Counts() (map[string]uint64, error) {
	counts, err := k.socket.counts(k.cfg.Table)
	if err != nil {
		return nil, fmt.Errorf("%s: table inet %s: %w", k.cfg.Package, k.cfg.Table, k.explain(err))
	}
	return counts, nil
}
