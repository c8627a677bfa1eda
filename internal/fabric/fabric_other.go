// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package fabric

import (
	"context"
	"net/http"
	"net/netip"

	"github.com/vpcnet/vpcnet/internal/fabric/vpcrules"
)

// Fabric is a VPC of namespaces, which only Linux has: New returns
// [ErrNotSupported].
type Fabric struct{}

// New returns [ErrNotSupported].
func New(context.Context, Config) (*Fabric, error) { return nil, ErrNotSupported }

// Close does nothing.
func (f *Fabric) Close() error { return nil }

// Router returns nil.
func (f *Fabric) Router() *Netns { return nil }

// Internet returns nil.
func (f *Fabric) Internet() *Netns { return nil }

// Peer returns nil.
func (f *Fabric) Peer() *Netns { return nil }

// PeerAddrs returns nil.
func (f *Fabric) PeerAddrs() []netip.Addr { return nil }

// Instance returns nil.
func (f *Fabric) Instance(string) *Netns { return nil }

// AddSubnet returns [ErrNotSupported].
func (f *Fabric) AddSubnet(Subnet) error { return ErrNotSupported }

// AddInstance returns [ErrNotSupported].
func (f *Fabric) AddInstance(string) (*Netns, error) { return nil, ErrNotSupported }

// RemoveInstance returns [ErrNotSupported].
func (f *Fabric) RemoveInstance(string) error { return ErrNotSupported }

// Attach returns [ErrNotSupported].
func (f *Fabric) Attach(ENI) error { return ErrNotSupported }

// Detach returns [ErrNotSupported].
func (f *Fabric) Detach(string) error { return ErrNotSupported }

// SetAddrs returns [ErrNotSupported].
func (f *Fabric) SetAddrs(string, []netip.Addr, []netip.Prefix) error { return ErrNotSupported }

// SetAttributes returns [ErrNotSupported].
func (f *Fabric) SetAttributes(string, Attributes) error { return ErrNotSupported }

// SetRules returns [ErrNotSupported].
func (f *Fabric) SetRules(vpcrules.Rules) error { return ErrNotSupported }

// FlowLog returns [ErrNotSupported].
func (f *Fabric) FlowLog(FlowLogInput) (*FlowLog, error) { return nil, ErrNotSupported }

// FlowLog records the flows of the ENIs.
type FlowLog struct{}

// Records returns [ErrNotSupported].
func (l *FlowLog) Records() ([]vpcrules.Record, error) { return nil, ErrNotSupported }

// Close does nothing.
func (l *FlowLog) Close() error { return nil }

// ENI returns false.
func (f *Fabric) ENI(string) (ENI, bool) { return ENI{}, false }

// ENIs returns nil.
func (f *Fabric) ENIs(string) []ENI { return nil }

// RouterLink returns false.
func (f *Fabric) RouterLink(string) (string, bool) { return "", false }

// Capture returns [ErrNotSupported].
func (f *Fabric) Capture(string) (*Capture, error) { return nil, ErrNotSupported }

// Boot returns [ErrNotSupported].
func (f *Fabric) Boot(context.Context, string) error { return ErrNotSupported }

// WaitUp returns [ErrNotSupported].
func (f *Fabric) WaitUp(context.Context, string) error { return ErrNotSupported }

// ServeMetadata returns [ErrNotSupported].
func (f *Fabric) ServeMetadata(func(instance string) http.Handler) error { return ErrNotSupported }

// ServeEC2 returns [ErrNotSupported].
func (f *Fabric) ServeEC2(http.Handler) (string, error) { return "", ErrNotSupported }

// Drops returns [ErrNotSupported].
func (f *Fabric) Drops() (Drops, error) { return Drops{}, ErrNotSupported }

// Netns is a network namespace.
type Netns struct{}

// CreateNetns returns [ErrNotSupported].
func CreateNetns(string) (*Netns, error) { return nil, ErrNotSupported }

// OpenNetns returns [ErrNotSupported].
func OpenNetns(string) (*Netns, error) { return nil, ErrNotSupported }

// Name returns "".
func (n *Netns) Name() string { return "" }

// Path returns "".
func (n *Netns) Path() string { return "" }

// Close does nothing.
func (n *Netns) Close() error { return nil }

// Delete does nothing.
func (n *Netns) Delete() error { return nil }

// Do returns [ErrNotSupported].
func (n *Netns) Do(func() error) error { return ErrNotSupported }

// Sysctl returns [ErrNotSupported].
func (n *Netns) Sysctl(name, value string) error { return ErrNotSupported }

// Send returns [ErrNotSupported].
func (n *Netns) Send(from, to netip.AddrPort, payload []byte) error { return ErrNotSupported }

// Capture returns [ErrNotSupported].
func (n *Netns) Capture(string) (*Capture, error) { return nil, ErrNotSupported }

// Capture records the packets on a link.
type Capture struct{}

// Packets returns [ErrNotSupported].
func (c *Capture) Packets() ([]Packet, error) { return nil, ErrNotSupported }

// Close does nothing.
func (c *Capture) Close() error { return nil }
