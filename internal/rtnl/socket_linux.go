// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// openSocket opens a netlink socket in the namespace of the thread. It is not in the
// runtime's poller, as the sockets of package nl are: there each answer of the kernel
// wakes a thread that has nothing to do, which costs an ADD a tenth of its time.
func openSocket(protocol int) (fd int, err error) {
	return unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
}

// send sends serialized requests to the kernel, which is where a netlink socket sends
// data that has no address. Method Send of nl.NetlinkSocket sends one request.
func send(fd int, requests []byte) error {
	for {
		_, err := unix.Write(fd, requests)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// receive reads one datagram into buf and returns its messages, which point into buf.
// Method Receive of nl.NetlinkSocket allocates 64 KiB for each datagram.
func receive(fd int, buf []byte, flags int) ([]syscall.NetlinkMessage, error) {
	n, _, err := unix.Recvfrom(fd, buf, flags)
	if errors.Is(err, unix.EINTR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	messages, err := syscall.ParseNetlinkMessage(buf[:min(align(n), len(buf))])
	if err != nil {
		return nil, fmt.Errorf("netlink datagram of %d bytes: %w", n, err)
	}
	return messages, nil
}

// align rounds up to the alignment of netlink messages and attributes.
func align(n int) int { return (n + 3) &^ 3 }
