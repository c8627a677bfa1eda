// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// kernelError is the kernel's answer to one request: an error number and, if the
// kernel gave one, its reason in words.
type kernelError struct {
	errno  unix.Errno
	reason string
}

func (e *kernelError) Error() string {
	if e.reason == "" {
		return e.errno.Error()
	}
	return fmt.Sprintf("%v (%s)", e.errno, e.reason)
}

func (e *kernelError) Unwrap() error { return e.errno }

// cappedError is the size of the error number and of the header of the request, which
// begin an error message that does not echo the whole request.
const cappedError = 4 + unix.SizeofNlMsghdr

// messageError decodes an NLMSG_ERROR or NLMSG_DONE message. It returns nil for success.
//
// Package nl decodes reasons too, but only within its own round trip, and it takes
// each message for one that echoes the request.
func messageError(m syscall.NetlinkMessage) error {
	if len(m.Data) < 4 {
		return nil
	}
	code := int32(binary.NativeEndian.Uint32(m.Data))
	if code == 0 {
		return nil
	}
	e := &kernelError{errno: unix.Errno(-code)}
	const hasReason = unix.NLM_F_ACK_TLVS | unix.NLM_F_CAPPED
	if m.Header.Type != unix.NLMSG_ERROR || m.Header.Flags&hasReason != hasReason || len(m.Data) < cappedError {
		return e
	}
	for kind, v := range attributes(m.Data[cappedError:]) {
		if kind == unix.NLMSGERR_ATTR_MSG {
			e.reason = unix.ByteSliceToString(v)
		}
	}
	return e
}

// IsGone reports whether err is the kernel's answer to a request to delete an object
// that does not exist, or that is of a family that the kernel lacks.
func IsGone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) ||
		errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EAFNOSUPPORT)
}

// LacksFamily reports whether err is the kernel's answer to a request about addresses,
// neighbours, routes or rules of a family that it lacks: most kernels can be built or booted
// without IPv6, or without rules. The kernel has no common answer.
func LacksFamily(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}

// ofFamily returns nil for the error of a list of objects of a family that the kernel lacks:
// there are none.
func ofFamily(err error) error {
	if LacksFamily(err) {
		return nil
	}
	return err
}
