// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// monitorBuffer is the number of bytes of reports that the kernel queues before it
// drops reports: enough for some thousand transactions.
const monitorBuffer = 4 << 20

// datagramSize is the size of the largest datagram: the kernel puts reports into one
// as long as they fit into a page, and a larger report into one of its own.
const datagramSize = 64 << 10

// Monitor receives the kernel's reports of changes to one table of family inet.
// One goroutine uses it at a time.
type Monitor struct {
	conn  *netlink.Conn
	raw   syscall.RawConn
	buf   []byte
	table string
	own   string // the name of this program
	// changing is true between the first report of a transaction that changes the
	// table and the report that names the program behind the transaction.
	changing bool
}

// NewMonitor subscribes to the changes in the namespace ns. It does not use ns
// afterwards. On a kernel without nftables the monitor receives nothing. The caller closes
// the monitor.
func NewMonitor(ns *os.File, table string) (*Monitor, error) {
	own, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		return nil, err
	}
	fd, err := namespaceFD(ns)
	if err != nil {
		return nil, err
	}
	conn, err := dialNetfilter(fd)
	silent := errors.Is(missing(err), ErrMissing)
	if silent { // a socket of another protocol, without subscription
		conn, err = netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: fd})
	}
	if err != nil {
		return nil, fmt.Errorf("subscribe to nftables changes: %w", err)
	}
	if silent {
		err = nil
	} else {
		err = conn.JoinGroup(unix.NFNLGRP_NFTABLES)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe to nftables changes: %w", err), conn.Close())
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	// Without CAP_NET_ADMIN in the initial user namespace net.core.rmem_max is the
	// bound, which is enough for some hundred transactions.
	_ = conn.SetReadBuffer(monitorBuffer)
	return &Monitor{
		conn: conn, raw: raw, buf: make([]byte, datagramSize),
		table: table, own: strings.TrimSpace(string(own)),
	}, nil
}

// Close ends the subscription.
func (m *Monitor) Close() error { return m.conn.Close() }

// Report summarises the reports that a [Monitor] has received.
type Report struct {
	// Changed is true if a transaction changed the table, or if the kernel had to
	// drop reports.
	Changed bool
	// By names the programs behind the transactions that changed the table, as
	// "nft (pid 7)", in order and each once. It leaves out this program and other
	// programs of the same name.
	By []string
}

// Wait receives the pending reports. If there are none, it waits for one until d has
// passed. If ctx ends, Wait returns its error.
func (m *Monitor) Wait(ctx context.Context, d time.Duration) (r Report, err error) {
	if err := m.conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		return r, err
	}
	stop := context.AfterFunc(ctx, func() { _ = m.conn.SetReadDeadline(time.Unix(1, 0)) })
	received, err := m.receive(&r, true)
	stop()
	if !received || err != nil || ctx.Err() != nil {
		return r, errors.Join(ctx.Err(), err)
	}
	return r, m.pending(&r)
}

// Pending receives the pending reports without waiting.
func (m *Monitor) Pending() (r Report, err error) { return r, m.pending(&r) }

// maxPending bounds the number of datagrams in a Report. Without it the caller would
// never act while another program makes changes without a pause.
const maxPending = 500

func (m *Monitor) pending(r *Report) error {
	if err := m.conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	for range maxPending {
		if received, err := m.receive(r, false); !received || err != nil {
			return err
		}
	}
	return nil
}

// receive adds one datagram to r. If there is none it returns false, with wait at the
// deadline and else at once.
func (m *Monitor) receive(r *Report, wait bool) (received bool, err error) {
	var n int
	waitErr := m.raw.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), m.buf, unix.MSG_DONTWAIT)
		return !wait || !errors.Is(err, unix.EAGAIN)
	})
	switch {
	case errors.Is(waitErr, os.ErrDeadlineExceeded), waitErr == nil && errors.Is(err, unix.EAGAIN):
		return false, nil
	case waitErr == nil && errors.Is(err, unix.EINTR):
		return true, nil
	case waitErr == nil && errors.Is(err, unix.ENOBUFS): // the kernel dropped reports
		r.Changed, m.changing = true, true
		return true, nil
	case waitErr != nil || err != nil:
		return false, fmt.Errorf("nftables changes: %w", errors.Join(waitErr, err))
	}
	messages, err := syscall.ParseNetlinkMessage(m.buf[:n])
	if err != nil { // the datagram is larger than the buffer
		r.Changed, m.changing = true, true
		return true, nil
	}
	for _, message := range messages {
		m.add(r, message)
	}
	return true, nil
}

// add adds one message to r. The kernel sends the messages of a transaction in
// succession, and then one that names the program behind it.
func (m *Monitor) add(r *Report, message syscall.NetlinkMessage) {
	if message.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(message.Data) < nfgenmsg {
		return
	}
	attributes, err := netlink.UnmarshalAttributes(message.Data[nfgenmsg:])
	if err != nil {
		return
	}
	if message.Header.Type&0xff == unix.NFT_MSG_NEWGEN {
		if name := m.program(attributes); m.changing && name != "" {
			r.add(Report{By: []string{name}})
		}
		m.changing = false
		return
	}
	for _, a := range attributes {
		// The number of this attribute is the same in the reports on tables, chains,
		// rules, sets, elements and objects.
		if a.Type == unix.NFTA_TABLE_NAME && text(a.Data) == m.table && message.Data[0] == unix.NFPROTO_INET {
			r.Changed, m.changing = true, true
		}
	}
}

// program returns the name of the program in the report at the end of a transaction,
// "" if it is this program.
func (m *Monitor) program(attributes []netlink.Attribute) string {
	var (
		name string
		pid  uint32
	)
	for _, a := range attributes {
		switch {
		case a.Type == unix.NFTA_GEN_PROC_NAME:
			name = text(a.Data)
		case a.Type == unix.NFTA_GEN_PROC_PID && len(a.Data) == 4:
			pid = binary.BigEndian.Uint32(a.Data)
		}
	}
	if name == "" || name == m.own {
		return ""
	}
	return fmt.Sprintf("%s (pid %d)", name, pid)
}

// add adds another Report to r.
func (r *Report) add(more Report) {
	r.Changed = r.Changed || more.Changed
	for _, name := range more.By {
		if !slices.Contains(r.By, name) {
			r.By = append(r.By, name)
		}
	}
}

func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }
