// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The flags of a table, NFT_TABLE_F_PERSIST and with it NFT_TABLE_F_OWNER, of
// linux/netfilter/nf_tables.h. With both of them the kernel refuses changes by other
// sockets than the owner's, and passes the table over in a flush of the ruleset. When the
// owner's socket is closed the kernel keeps the table and clears NFT_TABLE_F_OWNER. The
// next socket that sets it is the next owner.
const (
	tablePersists = 0x4
	tableOwned    = 0x2 | tablePersists
)

// errNoOwners means that the kernel cannot keep a table whose owner has ended.
var errNoOwners = fmt.Errorf("nftables tables that outlive their owner need Linux 6.9: %w", errors.ErrUnsupported)

// own makes the library's socket the owner of a table. It creates the table if it is absent.
// A table that has another owner, or none because it was made without, is an error.
func (c *conn) own(table string) error {
	if c.owned[table] {
		return nil
	}
	if err := c.transact(newTable(table, tableOwned)); err != nil {
		return err
	}
	c.owned[table] = true
	return nil
}

// ownAgain deletes the table, which may be absent, and makes it again with the library's
// socket as the owner, or with gone only deletes it.
func (c *conn) ownAgain(table string, gone bool) error {
	steps := []netlink.Message{newTable(table, tableOwned), deleteTable(table)}
	if !gone {
		steps = append(steps, newTable(table, tableOwned))
	}
	err := c.transact(steps...)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) { // or a table without an owner is there
		steps[0] = newTable(table, 0)
		err = c.transact(steps...)
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w: %w", errNoOwners, err)
	}
	c.owned[table] = err == nil && !gone
	return err
}

func newTable(name string, flags uint32) netlink.Message {
	return tableMessage(unix.NFT_MSG_NEWTABLE, netlink.Create, name, netlink.Attribute{
		Type: unix.NFTA_TABLE_FLAGS, Data: binary.BigEndian.AppendUint32(nil, flags),
	})
}

func deleteTable(name string) netlink.Message { return tableMessage(unix.NFT_MSG_DELTABLE, 0, name) }

func tableMessage(kind netlink.HeaderType, flags netlink.HeaderFlags, name string, more ...netlink.Attribute) netlink.Message {
	attributes := append([]netlink.Attribute{{Type: unix.NFTA_TABLE_NAME, Data: cString(name)}}, more...)
	data, err := netlink.MarshalAttributes(attributes)
	if err != nil {
		panic(err) // attributes of a fixed shape
	}
	return netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | kind, Flags: netlink.Request | netlink.Acknowledge | flags},
		Data:   append([]byte{unix.NFPROTO_INET, 0, 0, 0}, data...),
	}
}

// transact carries out requests in one transaction on the library's socket, which may own
// tables. The library itself cannot write the flags of a table.
func (c *conn) transact(requests ...netlink.Message) error {
	end := func(kind netlink.HeaderType) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: kind, Flags: netlink.Request},
			Data:   []byte{0, 0, 0, unix.NFNL_SUBSYS_NFTABLES},
		}
	}
	messages := append([]netlink.Message{end(unix.NFNL_MSG_BATCH_BEGIN)}, requests...)
	if _, err := c.library.SendMessages(append(messages, end(unix.NFNL_MSG_BATCH_END))); err != nil {
		return err
	}
	var first error
	for range requests { // the kernel acknowledges each
		if _, err := c.library.Receive(); err != nil && first == nil {
			first = err
		}
	}
	return first
}
