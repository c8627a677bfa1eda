// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Logged is a packet that a rule has logged.
type Logged struct {
	// Prefix is that of the statement [Log].
	Prefix string
	// Packet has the beginning of the packet, from the IP header on.
	Packet []byte
}

// The messages and attributes of linux/netfilter/nfnetlink_log.h.
const (
	logConfig = unix.NFNL_SUBSYS_ULOG<<8 | 1 // NFULNL_MSG_CONFIG
	logPacket = unix.NFNL_SUBSYS_ULOG << 8   // and NFULNL_MSG_PACKET, which is 0

	logCommand   = 1 // NFULA_CFG_CMD
	logMode      = 2 // NFULA_CFG_MODE
	logThreshold = 5 // NFULA_CFG_QTHRESH
	logBind      = 1 // NFULNL_CFG_CMD_BIND
	logCopies    = 2 // NFULNL_COPY_PACKET

	logPayload = 9  // NFULA_PAYLOAD
	logPrefix  = 10 // NFULA_PREFIX

	// logLength is the number of bytes of a packet that are copied: the headers.
	logLength = 128
)

// Listen calls f with each packet that rules in the keeper's namespace log to a group, until
// ctx ends, and returns the error of ctx. The kernel allows one listener for each group. What
// comes faster than f returns is lost.
func (k *Keeper) Listen(ctx context.Context, group uint16, f func(Logged)) error {
	var c *netlink.Conn
	err := k.Exclusively(ctx, k.cfg.Table, func(*Held) (err error) {
		c, err = listen(k.file, group)
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		messages, err := c.Receive()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.ENOBUFS): // the kernel dropped some
			continue
		case err != nil:
			return fmt.Errorf("%s: log group %d: %w", k.cfg.Package, group, err)
		}
		for _, m := range messages {
			if m.Header.Type == logPacket && len(m.Data) >= nfgenmsg {
				if l, err := loggedOf(m.Data[nfgenmsg:]); err == nil {
					f(l)
				}
			}
		}
	}
}

// listen opens a socket that is the listener of a group.
func listen(ns *os.File, group uint16) (*netlink.Conn, error) {
	fd, err := namespaceFD(ns)
	if err != nil {
		return nil, err
	}
	c, err := dialNetfilter(fd)
	if err != nil {
		return nil, missing(err)
	}
	mode := append(binary.BigEndian.AppendUint32(nil, logLength), logCopies, 0)
	for _, a := range []netlink.Attribute{
		{Type: logCommand, Data: []byte{logBind}},
		{Type: logMode, Data: mode},
		{Type: logThreshold, Data: binary.BigEndian.AppendUint32(nil, 1)},
	} {
		data, err := netlink.MarshalAttributes([]netlink.Attribute{a})
		if err == nil {
			_, err = c.Execute(netlink.Message{
				Header: netlink.Header{Type: logConfig, Flags: netlink.Request | netlink.Acknowledge},
				Data:   append([]byte{unix.AF_UNSPEC, 0, byte(group >> 8), byte(group)}, data...),
			})
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen to log group %d: %w", group, err), c.Close())
		}
	}
	return c, nil
}

// loggedOf reads the attributes of a logged packet.
func loggedOf(data []byte) (l Logged, err error) {
	list, err := netlink.UnmarshalAttributes(data)
	for _, a := range list {
		switch a.Type {
		case logPrefix:
			l.Prefix = text(a.Data)
		case logPayload:
			l.Packet = a.Data
		}
	}
	return l, err
}
