// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"
	"errors"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// datagram returns a netlink message of a kind and body.
func datagram(kind, flags uint16, seq uint32, body []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	return append(binary.NativeEndian.AppendUint32(b, 0), body...)
}

// parse returns the messages of a datagram, which must be right.
func parse(b []byte) []syscall.NetlinkMessage {
	m, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		panic(err)
	}
	return m
}

// dumpBodies dumps links from c.
func dumpBodies(c *Conn) ([]string, error) {
	var b Batch
	b.addLink(unix.RTM_GETLINK, unix.NLM_F_DUMP, 0)
	return list(c, &b, func(body []byte) (string, bool, error) { return string(body), true, nil })
}

// TestInterruptedDump starts a dump again that is interrupted, and returns nothing of
// the interrupted one.
func TestInterruptedDump(t *testing.T) {
	var tries atomic.Int64
	c := fakeKernel(t, func(seq uint32) [][]byte {
		if tries.Add(1) < 3 {
			return [][]byte{
				datagram(unix.RTM_NEWLINK, unix.NLM_F_MULTI|unix.NLM_F_DUMP_INTR, seq, []byte("old.")),
				datagram(unix.NLMSG_DONE, unix.NLM_F_MULTI, seq, make([]byte, 4)),
			}
		}
		return [][]byte{
			datagram(unix.RTM_NEWLINK, unix.NLM_F_MULTI, seq-1, []byte("late")), // an answer to the last request
			append(datagram(unix.RTM_NEWLINK, unix.NLM_F_MULTI, seq, []byte("one.")), datagram(unix.RTM_NEWLINK, unix.NLM_F_MULTI, seq, []byte("two."))...),
			datagram(unix.RTM_NEWLINK, unix.NLM_F_MULTI, seq, []byte("last")),
			datagram(unix.NLMSG_DONE, unix.NLM_F_MULTI, seq, make([]byte, 4)),
		}
	})
	bodies, err := dumpBodies(c)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"one.", "two.", "last"}, bodies); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if n := tries.Load(); n != 3 {
		t.Errorf("%d dumps, want 3", n)
	}
}

// TestNeverConsistent gives up on a dump that is interrupted each time.
func TestNeverConsistent(t *testing.T) {
	var tries atomic.Int64
	c := fakeKernel(t, func(seq uint32) [][]byte {
		tries.Add(1)
		return [][]byte{datagram(unix.NLMSG_DONE, unix.NLM_F_DUMP_INTR, seq, make([]byte, 4))}
	})
	if _, err := dumpBodies(c); !errors.Is(err, ErrInterrupted) || tries.Load() != dumpTries {
		t.Errorf("%v after %d dumps, want %v after %d", err, tries.Load(), ErrInterrupted, dumpTries)
	}
}

// TestRefusedDump returns the kernel's error.
func TestRefusedDump(t *testing.T) {
	c := fakeKernel(t, func(seq uint32) [][]byte {
		code := -int32(unix.EPERM)
		return [][]byte{datagram(unix.NLMSG_ERROR, 0, seq, binary.NativeEndian.AppendUint32(nil, uint32(code)))}
	})
	if _, err := dumpBodies(c); !errors.Is(err, unix.EPERM) {
		t.Errorf("%v, want %v", err, unix.EPERM)
	}
}

// TestBrokenDatagram returns an error for a message that is longer than its datagram.
func TestBrokenDatagram(t *testing.T) {
	c := fakeKernel(t, func(seq uint32) [][]byte {
		return [][]byte{datagram(unix.RTM_NEWLINK, 0, seq, make([]byte, 8))[:20]}
	})
	if _, err := dumpBodies(c); err == nil {
		t.Error("no error")
	}
}
