// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"syscall"
	"unsafe"

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

// receive reads one datagram into buf and returns it. Method Receive of nl.NetlinkSocket
// allocates 64 KiB for each datagram.
func receive(fd int, buf []byte, flags int) ([]byte, error) {
	n, _, err := unix.Recvfrom(fd, buf, flags)
	if errors.Is(err, unix.EINTR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return buf[:min(align(n), len(buf))], nil
}

// messagesOf iterates over the messages of a datagram, which point into it. It ends with an
// error at one that does not fit. Function ParseNetlinkMessage of package syscall allocates
// a slice of them for each datagram.
func messagesOf(datagram []byte) iter.Seq2[syscall.NetlinkMessage, error] {
	return func(yield func(syscall.NetlinkMessage, error) bool) {
		for b := datagram; len(b) >= unix.SizeofNlMsghdr; {
			m := syscall.NetlinkMessage{Header: syscall.NlMsghdr{
				Len: binary.NativeEndian.Uint32(b), Type: binary.NativeEndian.Uint16(b[4:]), Flags: binary.NativeEndian.Uint16(b[6:]),
				Seq: binary.NativeEndian.Uint32(b[8:]), Pid: binary.NativeEndian.Uint32(b[12:]),
			}}
			size := int(m.Header.Len)
			if size < unix.SizeofNlMsghdr || size > len(b) {
				yield(m, fmt.Errorf("netlink datagram of %d bytes has a message of %d bytes at %d", len(datagram), size, len(datagram)-len(b)))
				return
			}
			m.Data = b[unix.SizeofNlMsghdr:size:size]
			if !yield(m, nil) {
				return
			}
			b = b[min(align(size), len(b)):]
		}
	}
}

// datagramSize bounds the answer to a request for one object. A link has 1 to 2 KiB, and up
// to 128 bytes more for each alternative name.
const datagramSize = 16 << 10

// mmsghdr is struct mmsghdr of socket.h.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// receiveAll reads, in one system call, as many datagrams as are there and fit into buf,
// and at least one. They point into buf.
//
// https://man7.org/linux/man-pages/man2/recvmmsg.2.html
func receiveAll(fd int, buf []byte) ([][]byte, error) {
	var (
		headers [receiveSize / datagramSize]mmsghdr
		vectors [receiveSize / datagramSize]unix.Iovec
	)
	for i := range headers {
		vectors[i].Base = &buf[i*datagramSize]
		vectors[i].SetLen(datagramSize)
		headers[i].hdr.Iov = &vectors[i]
		headers[i].hdr.SetIovlen(1)
	}
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&headers)), uintptr(len(headers)), unix.MSG_WAITFORONE, 0, 0)
	runtime.KeepAlive(buf)
	switch errno {
	case 0:
	case unix.EINTR:
		return nil, nil
	default:
		return nil, errno
	}
	datagrams := make([][]byte, n)
	for i := range datagrams {
		if headers[i].hdr.Flags&unix.MSG_TRUNC != 0 {
			return nil, fmt.Errorf("netlink datagram has more than %d bytes", datagramSize)
		}
		at := i * datagramSize
		datagrams[i] = buf[at:min(at+align(int(headers[i].len)), len(buf)):min(at+datagramSize, len(buf))]
	}
	return datagrams, nil
}

// align rounds up to the alignment of netlink messages and attributes.
func align(n int) int { return (n + 3) &^ 3 }
