// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"time"
)

// confirm returns an error if the attachment may have lost the addresses that
// an ADD was given that has had the lock since then. Until fenceAfter no DEL can
// have gone on without the lock, and the answer costs nothing. After that there
// must be no tombstone, which such a DEL leaves and which stays while the ADD
// has the lock, and the agent must say that the attachment still holds just these
// addresses: it may have taken them back on its own. An agent that does not
// answer confirms nothing: the address may have another pod by now, and the
// runtime can try again.
func (c *call) confirm(ctx context.Context, since time.Time, given AddResponse) error {
	if time.Since(since) <= fenceAfter {
		return nil
	}
	lost := func(details string) error {
		return newError(CodeTryAgainLater, ReasonAddressLost+": the attachment has been deleted while ADD worked on it", details)
	}
	path := tombstonePath(c.conf.tombstones(), c.Attachment)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return lost("a DEL has left the tombstone " + path)
	}
	held, err := c.client(c.conf.timeout()).Check(ctx, CheckRequest{c.Attachment})
	if err != nil {
		c.note(err)
		e := agentFailure(err)
		if e.Code == CodeUnknownContainer {
			return lost(e.Error())
		}
		e.Code = CodeTryAgainLater
		return e
	}
	if is, was := addrsOf(held), addrsOf(given); !slices.Equal(is, was) {
		return lost(fmt.Sprintf("the agent gave it %v; now it holds %v", was, is))
	}
	return nil
}

// addrsOf returns the addresses in an agent's answer, sorted.
func addrsOf(r AddResponse) []netip.Addr {
	var addrs []netip.Addr
	for _, a := range r.Addresses {
		addrs = append(addrs, a.Addr)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}
