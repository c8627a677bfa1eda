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

// monitorBuffer is how many bytes of reports the kernel queues before it drops
// further ones: enough for some thousand transactions.
const monitorBuffer = 4 << 20

// datagramSize holds the largest report: the kernel puts what fits into a page
// into one, and more only if it is about one object.
const datagramSize = 64 << 10

// Monitor receives the kernel's reports of changes to one table of family inet.
// One goroutine uses it at a time.
type Monitor struct {
	conn  *netlink.Conn
	raw   syscall.RawConn
	buf   []byte
	table string
	own   string // this program's name
	// touched is true while the reports of a transaction that changes the table
	// have come, and not yet the one that names the program behind it.
	touched bool
}

// NewMonitor subscribes to the changes in the namespace ns, which it does not use
// afterwards. The caller closes the monitor.
func NewMonitor(ns *os.File, table string) (*Monitor, error) {
	own, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		return nil, err
	}
	fd, err := namespaceFD(ns)
	if err != nil {
		return nil, err
	}
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: fd})
	if err != nil {
		return nil, fmt.Errorf("subscribe to nftables changes: %w", err)
	}
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe to nftables changes: %w", err), conn.Close())
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	// Without the privilege the system's bound holds, which is enough in quiet times.
	_ = conn.SetReadBuffer(monitorBuffer)
	return &Monitor{
		conn: conn, raw: raw, buf: make([]byte, datagramSize),
		table: table, own: strings.TrimSpace(string(own)),
	}, nil
}

// Close ends the subscription.
func (m *Monitor) Close() error { return m.conn.Close() }

// Report is what a Monitor has received.
type Report struct {
	// Changed is true if a transaction changed the table, or if the kernel had to
	// drop reports.
	Changed bool
	// By names the programs behind the transactions that changed the table, as
	// "nft (pid 7)", in order and each once. This program is not among them, nor
	// is another one of the same name.
	By []string
}

// Wait receives the reports that have come, and waits for d if there are none. It
// ends with ctx, whose error it then returns.
func (m *Monitor) Wait(ctx context.Context, d time.Duration) (r Report, err error) {
	if err := m.conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		return r, err
	}
	stop := context.AfterFunc(ctx, func() { _ = m.conn.SetReadDeadline(time.Unix(1, 0)) })
	none, err := m.receive(&r, true)
	stop()
	if none || err != nil || ctx.Err() != nil {
		return r, errors.Join(ctx.Err(), err)
	}
	return r, m.pending(&r)
}

// Pending receives the reports that have come, without waiting.
func (m *Monitor) Pending() (r Report, err error) { return r, m.pending(&r) }

// maxPending bounds how many datagrams are received before the caller acts, or
// another program that never pauses would keep it from acting.
const maxPending = 500

func (m *Monitor) pending(r *Report) error {
	if err := m.conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	for range maxPending {
		if none, err := m.receive(r, false); none || err != nil {
			return err
		}
	}
	return nil
}

// receive adds one datagram to r. none means that there was none, and with wait
// none before the deadline.
func (m *Monitor) receive(r *Report, wait bool) (none bool, err error) {
	var n int
	deadline := m.raw.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), m.buf, unix.MSG_DONTWAIT)
		return !wait || !errors.Is(err, unix.EAGAIN)
	})
	switch {
	case errors.Is(deadline, os.ErrDeadlineExceeded), deadline == nil && errors.Is(err, unix.EAGAIN):
		return true, nil
	case deadline == nil && errors.Is(err, unix.EINTR):
		return false, nil
	case deadline == nil && errors.Is(err, unix.ENOBUFS):
		r.Changed, m.touched = true, true
		return false, nil
	case deadline != nil || err != nil:
		return true, fmt.Errorf("nftables changes: %w", errors.Join(deadline, err))
	}
	messages, err := syscall.ParseNetlinkMessage(m.buf[:n])
	if err != nil { // one that is larger than the buffer
		r.Changed, m.touched = true, true
		return false, nil
	}
	for _, message := range messages {
		m.take(r, message)
	}
	return false, nil
}

// take adds one message to r. The kernel sends those of a transaction in
// succession, and at its end one that names the program.
func (m *Monitor) take(r *Report, message syscall.NetlinkMessage) {
	if message.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(message.Data) < nfgenmsg {
		return
	}
	attributes, err := netlink.UnmarshalAttributes(message.Data[nfgenmsg:])
	if err != nil {
		return
	}
	if message.Header.Type&0xff == unix.NFT_MSG_NEWGEN {
		if name := m.program(attributes); m.touched && name != "" {
			r.Add(Report{By: []string{name}})
		}
		m.touched = false
		return
	}
	for _, a := range attributes {
		// In the reports on tables, chains, rules, sets, elements and objects alike
		// the first attribute is the table's name.
		if a.Type == unix.NFTA_TABLE_NAME && text(a.Data) == m.table && message.Data[0] == unix.NFPROTO_INET {
			r.Changed, m.touched = true, true
		}
	}
}

// program returns the name of another program that the report at the end of a
// transaction gives, "" if it is this one.
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

// Add adds what another Report says.
func (r *Report) Add(more Report) {
	r.Changed = r.Changed || more.Changed
	for _, name := range more.By {
		if !slices.Contains(r.By, name) {
			r.By = append(r.By, name)
		}
	}
}

func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }
