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

// routeGroups are the multicast groups of a route netlink socket that a Monitor joins.
// Netconf groups report changed settings of links.
var routeGroups = []int{
	unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV4_NETCONF,
	unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_IPV6_NETCONF,
}

// Monitor receives the kernel's reports of changes in one network namespace. One
// goroutine uses a Monitor at a time.
//
// The subscriptions of package netlink deliver reports of one kind each, in an order
// among kinds that is not the kernel's, by goroutines that end when a report is lost.
type Monitor struct {
	route, nft int // sockets
	wake       int // an eventfd that ends Wait
	buf        []byte
}

// NewMonitor returns a Monitor of the network namespace that ns is open on. The kernel
// holds reports in a buffer of bufferSize bytes until they are read, and drops those
// that do not fit. The caller closes the Monitor.
func NewMonitor(ns *os.File, bufferSize int) (*Monitor, error) {
	m := &Monitor{route: -1, nft: -1, wake: -1, buf: make([]byte, receiveSize)}
	err := InNetns(ns, func() (err error) {
		if m.route, err = subscribe(unix.NETLINK_ROUTE, bufferSize, routeGroups...); err != nil {
			return err
		}
		m.nft, err = subscribe(unix.NETLINK_NETFILTER, bufferSize, unix.NFNLGRP_NFTABLES)
		if errors.Is(err, unix.EPROTONOSUPPORT) { // a kernel without netfilter
			err = nil
		}
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

// subscribe opens a socket that receives the reports of groups. Function Subscribe of
// package nl, if the kernel refuses the groups, closes the descriptor twice, the second
// time when it may belong to another file.
func subscribe(protocol, bufferSize int, groups ...int) (int, error) {
	fd, err := openSocket(protocol)
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
	// Without CAP_NET_ADMIN in the initial user namespace, net.core.rmem_max limits the
	// size. That is enough while there are few changes.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bufferSize) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bufferSize)
	}
	return fd, nil
}

// Close closes the sockets.
func (m *Monitor) Close() error {
	var errs []error
	for _, fd := range []int{m.route, m.nft, m.wake} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}

// Wait returns when there is a report to read, after d, or when ctx ends.
func (m *Monitor) Wait(ctx context.Context, d time.Duration) error {
	stop := context.AfterFunc(ctx, func() { _, _ = unix.Write(m.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) })
	defer stop()
	fds := []unix.PollFd{
		{Fd: int32(m.route), Events: unix.POLLIN},
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

// maxDatagrams bounds how many datagrams of a socket one call of Read reads. Without
// it a process that never stops making changes would keep Read from returning.
const maxDatagrams = 500

// Read calls f for each report that has arrived, and does not wait. Lost means that
// the kernel dropped some. Links has the names of the links by number; f may change it,
// so that the names follow the reports about links.
func (m *Monitor) Read(links LinkNames, f func(Event)) (lost bool, err error) {
	routeLost, err := m.read(m.route, func(msg message) { f(routeEvent(msg, links)) })
	if err != nil {
		return routeLost, err
	}
	if m.nft < 0 {
		return routeLost, nil
	}
	nftLost, err := m.read(m.nft, func(msg message) { f(nftEvent(msg)) })
	return routeLost || nftLost, err
}

func (m *Monitor) read(fd int, f func(message)) (lost bool, err error) {
	for range maxDatagrams {
		datagram, err := receive(fd, m.buf, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			lost = true
		case errors.Is(err, unix.EAGAIN):
			return lost, nil
		case err != nil:
			return lost, fmt.Errorf("read changes: %w", err)
		}
		for msg, err := range messagesOf(datagram) {
			if err != nil {
				return lost, fmt.Errorf("read changes: %w", err)
			}
			f(message(msg))
		}
	}
	return lost, nil
}
