// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxFrame is the size of the largest frame on a link, before segmentation.
const maxFrame = 1<<16 + 14

// captureBuffer is the size of the receive buffer, for bursts of packets.
const captureBuffer = 8 << 20

// Capture records the packets on a link until it is closed.
type Capture struct {
	link string
	file *os.File
	raw  syscall.RawConn
	done chan struct{}

	mu      sync.Mutex
	packets []Packet
	buf     []byte
}

// Capture starts to record the packets on a link of the namespace, as tcpdump
// would. The caller must close the Capture.
func (n *Netns) Capture(link string) (*Capture, error) {
	var fd int
	err := n.Do(func() error {
		dev, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		fd, err = packetSocket(unix.ETH_P_ALL, dev.Index)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("capture %s in %s: %w", link, n.path, err)
	}
	c := &Capture{link: link, file: os.NewFile(uintptr(fd), "capture "+link), done: make(chan struct{}), buf: make([]byte, maxFrame)}
	if c.raw, err = c.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, c.file.Close())
	}
	go c.run()
	return c, nil
}

// packetSocket opens a packet socket in the namespace of the calling thread. An
// index of 0 means all links.
func packetSocket(protocol uint16, index int) (int, error) {
	// A socket without a protocol receives nothing until it is bound to its link.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	// Only a process with CAP_NET_ADMIN can exceed the kernel's maximum. Otherwise
	// the maximum must do.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, captureBuffer)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: hostToNet(protocol), Ifindex: index})
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func hostToNet(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// run receives packets until the file is closed.
func (c *Capture) run() {
	defer close(c.done)
	// Read returns when the file is closed.
	_ = c.raw.Read(func(fd uintptr) bool {
		c.drain(int(fd))
		return false
	})
}

// drain receives all packets in the buffer of the kernel.
func (c *Capture) drain(fd int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	control := make([]byte, 128)
	for {
		n, k, _, _, err := unix.Recvmsg(fd, c.buf, control, 0)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN) {
			continue
		}
		if err != nil {
			return
		}
		p := Packet{Time: time.Now(), Link: c.link, Data: slices.Clone(c.buf[:n])}
		p.describe(control[:k])
		c.packets = append(c.packets, p)
	}
}

// describe sets the time and the VLAN ID of the packet from the control messages
// of the kernel: a timespec and a tpacket_auxdata.
func (p *Packet) describe(control []byte) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return
	}
	const status, tag, idBits = 0, 16, 1<<12 - 1
	for _, m := range messages {
		switch d := m.Data; {
		case m.Header.Level == unix.SOL_SOCKET && len(d) >= 16:
			p.Time = time.Unix(int64(binary.NativeEndian.Uint64(d)), int64(binary.NativeEndian.Uint64(d[8:])))
		case m.Header.Level == unix.SOL_PACKET && len(d) >= 20 && binary.NativeEndian.Uint32(d[status:])&unix.TP_STATUS_VLAN_VALID != 0:
			p.VLAN = int(binary.NativeEndian.Uint16(d[tag:])) & idBits
		}
	}
}

// Packets returns the packets recorded so far, in order.
func (c *Capture) Packets() ([]Packet, error) {
	if err := c.raw.Control(func(fd uintptr) { c.drain(int(fd)) }); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.packets), nil
}

// Close stops the recording.
func (c *Capture) Close() error {
	err := c.file.Close()
	<-c.done
	return err
}
