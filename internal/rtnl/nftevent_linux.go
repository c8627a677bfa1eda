// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// nfgenmsg is the size of struct nfgenmsg, the header of nftables messages.
const nfgenmsg = 4

// nftNewGeneration is the type of the message that ends a transaction.
const nftNewGeneration = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN

// nftDeleteTable is the type of the report that a table was deleted.
const nftDeleteTable = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELTABLE

// nftEvent decodes a message of an nftables socket. In each report on tables, chains,
// rules, sets and elements the first attribute is the name of the table.
func nftEvent(m message) Event {
	var e Event
	if len(m.Data) < nfgenmsg {
		return e
	}
	if m.Header.Type == nftNewGeneration {
		var t Transaction
		for kind, v := range attributes(m.Data[nfgenmsg:]) {
			switch {
			case kind == unix.NFTA_GEN_PROC_NAME:
				t.Program = unix.ByteSliceToString(v)
			case kind == unix.NFTA_GEN_PROC_PID && len(v) == 4:
				t.PID = int(binary.BigEndian.Uint32(v))
			}
		}
		e.Subject = t
		return e
	}
	for kind, v := range attributes(m.Data[nfgenmsg:]) {
		if kind == unix.NFTA_TABLE_NAME {
			e.Deleted = m.Header.Type == nftDeleteTable
			e.Subject = Table{unix.ByteSliceToString(v)}
			return e
		}
	}
	return e
}
