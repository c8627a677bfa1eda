// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// routeGroups are what a route netlink socket can tell about; netconf is the
// settings of links.
var routeGroups = []int{
	unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV4_NETCONF,
	unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_IPV6_NETCONF,
}

// eventBuffer is how much the kernel may have to say before it begins to forget,
// which it reports: enough for some thousand events.
const eventBuffer = 4 << 20

// Monitor receives the kernel's reports of changes in one namespace.
type Monitor struct {
	Route, nft int // sockets
	wake       int // an eventfd that ends wait
	buf        []byte
}

func NewMonitor(ns *os.File) (*Monitor, error) {
	m := &Monitor{Route: -1, nft: -1, wake: -1, buf: make([]byte, receiveSize)}
	err := InNetns(ns, func() (err error) {
		if m.Route, err = subscribe(unix.NETLINK_ROUTE, routeGroups); err != nil {
			return err
		}
		m.nft, err = subscribe(unix.NETLINK_NETFILTER, []int{unix.NFNLGRP_NFTABLES})
		return err
	})
	if err == nil {
		m.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe to changes: %w", err), m.Close())
	}
	return m, nil
}

func subscribe(protocol int, groups []int) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return -1, err
	}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	for _, g := range groups {
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g)
		}
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	// Without the privilege the system's bound holds, which is enough in quiet times.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, eventBuffer)
	return fd, nil
}

func (m *Monitor) Close() error {
	var errs []error
	for _, fd := range []int{m.Route, m.nft, m.wake} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}

// Wait returns when there is something to read, after d, or when ctx ends.
func (m *Monitor) Wait(ctx context.Context, d time.Duration) error {
	stop := context.AfterFunc(ctx, func() { _, _ = unix.Write(m.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) })
	defer stop()
	fds := []unix.PollFd{
		{Fd: int32(m.Route), Events: unix.POLLIN},
		{Fd: int32(m.nft), Events: unix.POLLIN},
		{Fd: int32(m.wake), Events: unix.POLLIN},
	}
	_, err := unix.Poll(fds, int(min(d, time.Hour).Milliseconds())+1)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	return err
}

// Event is one report.
type Event struct {
	Message
	Nft bool
}

// readTurns bounds how many datagrams of each socket are read before the reader
// acts, or a peer that never pauses would keep it from acting.
const readTurns = 500

// Read calls f for each report that has come. lost means that the kernel had to
// drop some.
func (m *Monitor) Read(f func(Event)) (lost bool, err error) {
	for _, fd := range []int{m.Route, m.nft} {
		for range readTurns {
			c := Conn{fd: fd, buf: m.buf}
			err := c.receive(func(msg Message) { f(Event{Message: msg, Nft: fd == m.nft}) })
			if errors.Is(err, unix.ENOBUFS) {
				lost = true
				continue
			}
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			if err != nil {
				return lost, fmt.Errorf("read changes: %w", err)
			}
		}
	}
	return lost, nil
}
