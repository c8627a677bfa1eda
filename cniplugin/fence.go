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

	"github.com/vpcnet/vpcnet/cniplugin/internal/statedir"
)

// confirm returns an error if the attachment may have lost the addresses that its
// ADD was given.
//
// While the lock of the ADD is younger than fenceAfter, no DEL can have gone on
// without it, and confirm returns at once. After that confirm requires two
// things. There must be no tombstone: a DEL without the lock leaves one, and it
// stays while the ADD holds the lock. And the agent must answer that the
// attachment still holds exactly these addresses, because the agent may have
// released them by itself. If the agent does not answer, confirm returns an
// error, because the address may belong to another pod by now and the runtime
// can try again.
func (c *call) confirm(ctx context.Context, given allocation) error {
	if time.Since(given.lockedSince) <= fenceAfter {
		return nil
	}
	lost := func(details string) error {
		return &Error{
			Code: CodeTryAgainLater, Msg: ReasonAddressLost + ": the attachment was deleted while ADD was wiring it",
			Details: details,
		}
	}
	path := statedir.RecordPath(c.conf.tombstones(), c.Attachment.String())
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return lost("a DEL has left the tombstone " + path)
	}
	held, err := c.client(c.conf.timeout()).Check(ctx, CheckRequest{c.Attachment})
	if errors.Is(err, errNoMethod) {
		return nil
	}
	if err != nil {
		c.recordTimeout(err)
		e := CNIError(err)
		if e.Code == CodeUnknownContainer {
			return lost(e.Error())
		}
		e.Code = CodeTryAgainLater
		return e
	}
	if is, was := addrsOf(held), addrsOf(given.AddResponse); !slices.Equal(is, was) {
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
