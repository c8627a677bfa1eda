// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
)

// TB is the part of testing.TB that NewNode uses.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Cleanup(f func())
	Context() context.Context
}

// Node is an instance in a Cloud of its own, as a test of a node's agent needs it.
type Node struct {
	*Cloud
	VPC      VPC
	Subnet   Subnet
	Instance Instance
	// HTTPClient answers requests to EC2 and to the metadata service of the instance
	// without a socket. It suits the HTTPClient field of aws.Config and works in a
	// synctest bubble.
	HTTPClient *http.Client
	// AccessKeyID, SecretAccessKey and SessionToken are credentials of the role of the
	// instance.
	AccessKeyID, SecretAccessKey, SessionToken string

	tb TB
}

// NewNode returns a running instance of the given type, with the VPC 10.0.0.0/16 and
// 2001:db8::/56 and the subnet 10.0.0.0/20 and 2001:db8::/64. It fails the test if
// the type is unknown.
func NewNode(tb TB, instanceType string) *Node {
	tb.Helper()
	return NewNodeIn(tb, New(Config{}), instanceType)
}

// NewNodeIn is like NewNode with a Cloud that the caller has made.
func NewNodeIn(tb TB, c *Cloud, instanceType string) *Node {
	tb.Helper()
	n := &Node{Cloud: c, tb: tb, SecretAccessKey: "secret", SessionToken: "token"}
	v6 := netip.MustParsePrefix("2001:db8::/56")
	var err error
	check := func() {
		tb.Helper()
		if err != nil {
			tb.Fatalf("new node: %v", err)
		}
	}
	n.VPC, err = c.AddVPC(VPCInput{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), v6}})
	check()
	n.Subnet, err = c.AddSubnet(SubnetInput{
		VPC: n.VPC.ID, Prefix: netip.MustParsePrefix("10.0.0.0/20"), IPv6: netip.PrefixFrom(v6.Addr(), 64),
	})
	check()
	n.Instance, err = c.RunInstance(InstanceInput{Subnet: n.Subnet.ID, Type: instanceType})
	check()
	n.HTTPClient = &http.Client{Transport: c.Transport(n.Instance.ID)}
	n.AccessKeyID = keyPrefix + strings.ToUpper(strings.TrimPrefix(n.Instance.ID, kindInstance.prefix))
	return n
}

// Primary returns the primary ENI of the instance as it is now.
func (n *Node) Primary() ENI {
	for _, e := range n.ENIs() {
		if e.primary() && e.Attachment.Instance == n.Instance.ID {
			return e
		}
	}
	return ENI{}
}

// Listen serves EC2 and the metadata of the instance on loopback ports until the
// test ends, for programs that need sockets. It fails the test if that is not
// possible.
func (n *Node) Listen() (ec2URL, metadataURL string) {
	n.tb.Helper()
	s, err := n.Cloud.Listen(n.tb.Context(), "")
	if err != nil {
		n.tb.Fatalf("listen: %v", err)
	}
	n.tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			n.tb.Errorf("close the server of the node: %v", err)
		}
	})
	if metadataURL, err = s.IMDSURL(n.tb.Context(), n.Instance.ID); err != nil {
		n.tb.Fatalf("listen: %v", err)
	}
	return s.EC2URL, metadataURL
}
