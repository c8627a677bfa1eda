// SPDX-License-Identifier: Apache-2.0

package vpctest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// Node is an instance of the VPC. It is safe for concurrent use.
type Node struct {
	*Host
	// Instance is the instance as it was after its start.
	Instance enitest.Instance
	// Addr is the primary private IPv4 address, and Addr6 the first IPv6 address of the
	// primary ENI. They are the zero Addr if there is none.
	Addr, Addr6 netip.Addr

	vpc  *VPC
	pods int // guarded by vpc.mu, with the next field
	live []*Pod
}

// Node starts an instance of the given type, as [VPC.AddNode] does, with an IPv6 address if
// its subnet has IPv6. The nodes take the subnets of the VPC in turn.
func (v *VPC) Node(t TB, instanceType string) *Node {
	t.Helper()
	if len(v.Subnets) == 0 {
		t.Fatalf("node: the VPC has no subnet")
	}
	v.mu.Lock()
	subnet := v.Subnets[len(v.nodes)%len(v.Subnets)]
	v.mu.Unlock()
	in := enitest.InstanceInput{Subnet: subnet.ID, Type: instanceType}
	if subnet.IPv6.IsValid() {
		in.IPv6Addrs = 1
	}
	return v.NodeIn(t, in)
}

// NodeIn starts an instance as [VPC.AddNode] does.
func (v *VPC) NodeIn(t TB, in enitest.InstanceInput) *Node {
	t.Helper()
	n, err := v.AddNode(t.Context(), in)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return n
}

// AddNode starts an instance and boots it. The name of the node is the Name tag; without one
// it is node-1, node-2 and so on. An empty Subnet means the first one.
func (v *VPC) AddNode(ctx context.Context, in enitest.InstanceInput) (*Node, error) {
	v.mu.Lock()
	name := cmp.Or(in.Tags["Name"], fmt.Sprintf("node-%d", len(v.nodes)+1))
	n := &Node{vpc: v}
	v.nodes = append(v.nodes, n)
	v.mu.Unlock()
	in.Tags = maps.Clone(in.Tags)
	if in.Tags == nil {
		in.Tags = map[string]string{}
	}
	in.Tags["Name"] = name
	if in.Subnet == "" && len(v.Subnets) > 0 {
		in.Subnet = v.Subnets[0].ID
	}
	if err := n.start(ctx, in); err != nil {
		return nil, fmt.Errorf("vpctest: %s: %w", name, err)
	}
	return n, nil
}

func (n *Node) start(ctx context.Context, in enitest.InstanceInput) (err error) {
	name, v := in.Tags["Name"], n.vpc
	if v.fabric.Instance(name) != nil {
		return errors.New("a node has this name already")
	}
	if n.Instance, err = v.Cloud.RunInstance(in); err != nil {
		return err
	}
	if err := v.Err(); err != nil {
		return err
	}
	n.Host = &Host{ns: v.fabric.Instance(name)}
	if err := v.fabric.Boot(ctx, name); err != nil {
		return err
	}
	primary := n.ENIs()[0]
	n.Addr = primary.Addr
	if len(primary.IPv6Addrs) > 0 {
		n.Addr6 = primary.IPv6Addrs[0]
	}
	if v.resolver == nil {
		return nil
	}
	var addrs []netip.Addr
	for _, a := range []netip.Addr{n.Addr, n.Addr6} {
		if a.IsValid() {
			addrs = append(addrs, a)
		}
	}
	return v.resolver.Set(n.Instance.ID+"."+fabric.PrivateDomain(v.Cloud.Region()), addrs...)
}

// ID returns the instance ID.
func (n *Node) ID() string { return n.Instance.ID }

// ENIs returns the ENIs of the node as EC2 knows them now, by network card and device index.
// The first is the primary ENI.
func (n *Node) ENIs() []enitest.ENI {
	var enis []enitest.ENI
	for _, e := range n.vpc.Cloud.ENIs() {
		if e.Attachment != nil && e.Attachment.Instance == n.Instance.ID {
			enis = append(enis, e)
		}
	}
	slices.SortFunc(enis, func(a, b enitest.ENI) int {
		return cmp.Or(cmp.Compare(a.Attachment.Card, b.Attachment.Card), cmp.Compare(a.Attachment.Device, b.Attachment.Device))
	})
	return enis
}

// Link returns the name that the link of an attached ENI has when it appears in its node.
func Link(e enitest.ENI) string {
	if e.Attachment == nil {
		return ""
	}
	return fabric.ENI{Card: e.Attachment.Card, Device: e.Attachment.Device}.Link()
}

// Env returns the environment variables that direct an AWS SDK in the node to the EC2 API and
// the metadata service of the VPC. Credentials come from the metadata service, so the caller
// should remove the variables of other credentials from the environment.
func (n *Node) Env() []string {
	region := n.vpc.Cloud.Region()
	return []string{
		"AWS_ENDPOINT_URL_EC2=" + EC2URL,
		"AWS_EC2_METADATA_SERVICE_ENDPOINT=" + MetadataURL,
		"AWS_REGION=" + region,
		"AWS_DEFAULT_REGION=" + region,
	}
}

// Pod creates an empty sandbox for a pod of the node. It is deleted when the test ends.
func (n *Node) Pod(t TB) *Pod {
	t.Helper()
	p, err := n.AddPod()
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() { p.Delete(t) })
	return p
}

// AddPod creates an empty sandbox for a pod of the node. Close of the VPC deletes it.
func (n *Node) AddPod() (*Pod, error) {
	n.vpc.mu.Lock()
	n.pods++
	name := fmt.Sprintf("pod-%s-%d", strings.TrimPrefix(n.Name(), "node-"), n.pods)
	n.vpc.mu.Unlock()
	ns, err := fabric.CreateNetns(filepath.Join(n.vpc.cfg.Dir, name))
	if err != nil {
		return nil, fmt.Errorf("vpctest: %s: %w", name, err)
	}
	p := &Pod{Host: &Host{ns: ns}, Node: n}
	n.vpc.mu.Lock()
	n.live = append(n.live, p)
	n.vpc.mu.Unlock()
	return p, nil
}

// close deletes the pods.
func (n *Node) close() error {
	n.vpc.mu.Lock()
	live := n.live
	n.live = nil
	n.vpc.mu.Unlock()
	var err error
	for _, p := range live {
		err = errors.Join(err, p.Close())
	}
	return err
}

// Pod is the sandbox of a pod: a network namespace in which only lo is up until the agent
// under test connects it. It is safe for concurrent use.
type Pod struct {
	*Host
	Node *Node

	deleted bool // guarded by Node.vpc.mu
}

// Delete removes the sandbox, as a container runtime does after it has called the CNI plugin.
// A second call does nothing.
func (p *Pod) Delete(t TB) {
	t.Helper()
	fatal(t, p.Close(), "delete %s", p.Name())
}

// Close is [Pod.Delete] for programs.
func (p *Pod) Close() error {
	p.Node.vpc.mu.Lock()
	deleted := p.deleted
	p.deleted = true
	p.Node.vpc.mu.Unlock()
	if deleted {
		return nil
	}
	return p.ns.Delete()
}
