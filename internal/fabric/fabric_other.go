// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"time"
)

// Fabric is a VPC of namespaces. It is safe for concurrent use.
type Fabric struct{}

// New builds the router, the internet host and the peer host of a VPC. The
// caller closes it.
func New(ctx context.Context, cfg Config) (*Fabric, error) { return nil, ErrNotSupported }

// Close removes everything the fabric made.
func (f *Fabric) Close() error { return nil }

// Router returns the namespace of the VPC's router.
func (f *Fabric) Router() *Netns { return nil }

// Internet returns the namespace of the host in the internet. It answers at [EchoPort].
func (f *Fabric) Internet() *Netns { return nil }

// Peer returns the namespace of the host in the peer network. It answers at [EchoPort].
func (f *Fabric) Peer() *Netns { return nil }

// Instance returns the namespace of an instance, nil if there is none of that name.
func (f *Fabric) Instance(name string) *Netns { return nil }

// AddSubnet adds a subnet.
func (f *Fabric) AddSubnet(s Subnet) error { return ErrNotSupported }

// AddInstance makes the namespace of an instance; its name is also that of the
// namespace. Its lo is up and it has no other link.
func (f *Fabric) AddInstance(ctx context.Context, name string) (*Netns, error) {
	return nil, ErrNotSupported
}

// RemoveInstance detaches the ENIs of an instance and removes its namespace.
func (f *Fabric) RemoveInstance(name string) error { return ErrNotSupported }

// Attach gives the ENI to its instance: a link with its MAC appears there, down
// and without addresses, and the router delivers the ENI's addresses to it.
func (f *Fabric) Attach(e ENI) error { return ErrNotSupported }

// Detach takes the ENI away; its link disappears. An ENI that is not attached
// is no error.
func (f *Fabric) Detach(id string) error { return ErrNotSupported }

// SetAddrs replaces the further addresses and the delegated prefixes of the ENI.
func (f *Fabric) SetAddrs(id string, addrs []netip.Addr, prefixes []netip.Prefix) error {
	return ErrNotSupported
}

// ENI returns the attached ENI of that ID.
func (f *Fabric) ENI(id string) (ENI, bool) { return ENI{}, false }

// ENIs returns the attached ENIs of the instance by card and device, of all
// instances if the name is empty.
func (f *Fabric) ENIs(instance string) []ENI { return nil }

// Boot configures the primary ENI of the instance as an EC2 image does over
// DHCP: link up, primary address, connected and default route.
func (f *Fabric) Boot(ctx context.Context, instance string) error { return ErrNotSupported }

// ServeMetadata answers at [MetadataAddr], port 80, with the handler that h
// returns for the instance that owns the source address of the request, until
// Close. A nil handler is answered with 404.
func (f *Fabric) ServeMetadata(h func(instance string) http.Handler) error { return ErrNotSupported }

// ServeEC2 answers at [EC2Addr], port 80, until Close and returns the URL.
func (f *Fabric) ServeEC2(h http.Handler) (string, error) { return "", ErrNotSupported }

// Drops returns what the VPC refused to carry so far.
func (f *Fabric) Drops() (Drops, error) { return Drops{}, ErrNotSupported }

// Netns is a network namespace. It is safe for concurrent use.
type Netns struct{}

// CreateNetns makes a namespace mounted at path, which must not exist, with lo
// up. The caller deletes it.
func CreateNetns(path string) (*Netns, error) { return nil, ErrNotSupported }

// OpenNetns opens the namespace at path. The caller closes it.
func OpenNetns(path string) (*Netns, error) { return nil, ErrNotSupported }

// Name returns the last element of the path.
func (n *Netns) Name() string { return "" }

// Path returns where the namespace is mounted.
func (n *Netns) Path() string { return "" }

// Close lets go of the namespace and leaves it as it is.
func (n *Netns) Close() error { return nil }

// Delete unmounts the namespace and removes its path. What runs in it keeps it alive.
func (n *Netns) Delete() error { return nil }

// Do runs fn on a thread in the namespace. Goroutines that fn starts are not in it;
// sockets and processes that fn makes itself are, and stay there.
func (n *Netns) Do(fn func() error) error { return ErrNotSupported }

// Start starts cmd in the namespace.
func (n *Netns) Start(cmd *exec.Cmd) error { return n.Do(cmd.Start) }

// Sysctl writes a value below /proc/sys/net, the name as in "ipv4/ip_forward".
func (n *Netns) Sysctl(name, value string) error { return ErrNotSupported }

// Listen opens a TCP listener in the namespace.
func (n *Netns) Listen(ctx context.Context, local netip.AddrPort) (net.Listener, error) {
	return nil, ErrNotSupported
}

// ListenPacket opens a UDP socket in the namespace.
func (n *Netns) ListenPacket(ctx context.Context, local netip.AddrPort) (net.PacketConn, error) {
	return nil, ErrNotSupported
}

// Dial connects over "tcp" or "udp" from the namespace. A zero local lets the
// kernel choose; a local with port 0 fixes only the address.
func (n *Netns) Dial(ctx context.Context, network string, local, remote netip.AddrPort) (net.Conn, error) {
	return nil, ErrNotSupported
}

// Echo answers over TCP and UDP at local until the returned function is called:
// each line or datagram gets back the source address and port it came from, a
// space, and itself.
func (n *Netns) Echo(ctx context.Context, local netip.AddrPort) (stop func(), err error) {
	return nil, ErrNotSupported
}

// Ask sends one line to an [Netns.Echo] over "tcp" or "udp" and returns the
// source the server saw. It tries until ctx ends for UDP, once for TCP.
func (n *Netns) Ask(ctx context.Context, network string, local, remote netip.AddrPort) (netip.AddrPort, error) {
	return netip.AddrPort{}, ErrNotSupported
}

// Ping sends one ICMP echo request from the address from (zero: the kernel's
// choice) and waits until ctx ends for the answer. It returns the round trip time.
func (n *Netns) Ping(ctx context.Context, from, to netip.Addr) (time.Duration, error) {
	return 0, ErrNotSupported
}

// Send sends a UDP datagram with any source address, owned or not, to show what
// the network makes of it.
func (n *Netns) Send(from, to netip.AddrPort, payload []byte) error { return ErrNotSupported }

// Capture starts to record what passes a link of the namespace, as tcpdump
// would see it. The caller closes it.
func (n *Netns) Capture(link string) (*Capture, error) { return nil, ErrNotSupported }

// Capture is a running record of a link.
type Capture struct{}

// Packets returns what was seen so far, in order.
func (c *Capture) Packets() ([]Packet, error) { return nil, ErrNotSupported }

// Close ends the record.
func (c *Capture) Close() error { return nil }

// String describes the packet in one line, as tcpdump would:
//
//	IP 10.0.1.20.40000 > 203.0.113.10.7: UDP, length 5
func (p Packet) String() string { return "" }
