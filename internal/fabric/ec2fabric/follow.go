// SPDX-License-Identifier: Apache-2.0

// Package ec2fabric connects the control plane of eni/enitest with the data plane of
// internal/fabric: calls of the EC2 API change links, routes and filters. It is a package
// of its own so that tests that need only packets do not compile the control plane.
package ec2fabric

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/fabric/vpcrules"
)

// Follower applies the changes of a cloud to a fabric.
type Follower struct {
	fabric *fabric.Fabric
	cloud  *enitest.Cloud

	mu    sync.Mutex
	err   error
	rules vpcrules.Rules // the rules that the fabric has
	// routed holds the default routes of main tables that a call has set.
	routed map[routed]bool
}

// Follow applies the state of the cloud and all later changes to the fabric. An
// instance gets a namespace when its first ENI is attached; ENIs are attached and
// detached, and their addresses and attributes change. A call of the API takes effect
// before it returns. Inside the VPC the EC2 API of the cloud answers at [fabric.EC2Addr]
// and its metadata service at [fabric.MetadataAddr].
//
// The fabric follows the blocks of the VPCs, the route tables, the network ACLs and the
// security groups. There is one exception: as long as no call has set the default route of
// a family in a main route table, packets without a route go to the internet gateway or to
// the peer network, because VPCs of enitest begin without the route to a gateway that the
// default VPC of AWS has.
//
// A branch ENI is attached as long as it is associated with a trunk ENI. It is not
// attached if the kernel has no VLAN links.
//
// The name of a namespace is the Name tag of the instance when its first ENI is
// attached, or the instance ID if it has no such tag. A hook of a cloud cannot
// return an error, so [Follower.Err] returns the first one.
func Follow(f *fabric.Fabric, cloud *enitest.Cloud) (*Follower, error) {
	w := &Follower{fabric: f, cloud: cloud, routed: map[routed]bool{}}
	cloud.OnChange(w.follow)
	for _, e := range cloud.ENIs() {
		if e.Attachment != nil {
			w.follow(enitest.Event{Op: enitest.Attached, Instance: e.Attachment.Instance, ENI: e})
		}
	}
	_, err := f.ServeEC2(cloud.EC2Handler())
	return w, errors.Join(w.Err(), err, f.ServeMetadata(w.metadata))
}

// Err returns the error of the first change that failed.
func (w *Follower) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// metadata returns the metadata service of the instance with the given name, nil if
// there is none.
func (w *Follower) metadata(name string) http.Handler {
	for _, i := range w.cloud.Instances() {
		if nameOf(i) == name {
			return w.cloud.IMDSHandler(i.ID)
		}
	}
	return nil
}

// nameOf returns the name of the namespace of the instance.
func nameOf(i enitest.Instance) string {
	if name := i.Tags["Name"]; name != "" {
		return name
	}
	return i.ID
}

func (w *Follower) follow(e enitest.Event) {
	err := w.setRules()
	if e.Op != enitest.NetworkChanged {
		err = errors.Join(err, w.change(e))
	}
	if err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = fmt.Errorf("ec2fabric: %s %s: %w", e.ENI.ID, e.Op, err)
	}
}

// change applies a change of an ENI.
func (w *Follower) change(e enitest.Event) error {
	_, attached := w.fabric.ENI(e.ENI.ID)
	switch {
	case e.ENI.Trunk != nil && !attached:
		return w.attachBranch(e.ENI)
	case e.Op == enitest.Attached && e.Instance != "" && !attached:
		// Both the hook and the first listing of ENIs may report the same ENI.
		return w.attach(e.Instance, e.ENI)
	case !attached:
		return nil // there is no link to change
	case e.Op == enitest.Detached, e.ENI.Trunk == nil && e.ENI.Attachment == nil:
		return w.fabric.Detach(e.ENI.ID)
	case e.Op == enitest.Assigned, e.Op == enitest.Unassigned:
		return w.fabric.SetAddrs(e.ENI.ID, addrs(e.ENI), prefixes(e.ENI))
	case e.Op == enitest.Modified:
		return w.fabric.SetAttributes(e.ENI.ID, attributes(e.ENI))
	}
	return nil
}

func (w *Follower) attach(instance string, e enitest.ENI) error {
	i, ok := w.cloud.Instance(instance)
	if !ok {
		return fmt.Errorf("instance %s: %w", instance, os.ErrNotExist)
	}
	if w.fabric.Instance(nameOf(i)) == nil {
		if _, err := w.fabric.AddInstance(nameOf(i)); err != nil {
			return err
		}
	}
	at := fabric.ENI{Instance: nameOf(i), Card: e.Attachment.Card, Device: e.Attachment.Device}
	if err := w.attachAt(at, e); err != nil || e.Type != "trunk" {
		return err
	}
	for _, branch := range w.cloud.ENIs() {
		if branch.Trunk != nil && branch.Trunk.Trunk == e.ID {
			if err := w.attachBranch(branch); err != nil {
				return err
			}
		}
	}
	return nil
}

// attachBranch attaches a branch ENI if its trunk ENI is attached and the kernel has VLAN
// links.
func (w *Follower) attachBranch(e enitest.ENI) error {
	if _, ok := w.fabric.ENI(e.Trunk.Trunk); !ok {
		return nil // attach of the trunk ENI attaches the branch ENI
	}
	err := w.attachAt(fabric.ENI{Trunk: e.Trunk.Trunk, VLAN: e.Trunk.VLANID}, e)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

// attachAt attaches the ENI at the position that at has.
func (w *Follower) attachAt(at fabric.ENI, e enitest.ENI) error {
	mac, err := net.ParseMAC(e.MAC)
	if err != nil {
		return err
	}
	if err := w.fabric.AddSubnet(subnetOf(e)); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	a := attributes(e)
	at.ID, at.MAC, at.Subnet, at.Addr, at.Addrs, at.Prefixes = e.ID, mac, e.Subnet, e.Addr, addrs(e), prefixes(e)
	at.Unchecked, at.Public, at.Groups = a.Unchecked, a.Public, a.Groups
	return w.fabric.Attach(at)
}

func attributes(e enitest.ENI) fabric.Attributes {
	return fabric.Attributes{Unchecked: !e.SourceDestCheck, Public: e.Public.IsValid(), Groups: e.Groups}
}

func addrs(e enitest.ENI) []netip.Addr { return slices.Concat(e.Addrs, e.IPv6Addrs) }

func prefixes(e enitest.ENI) []netip.Prefix { return slices.Concat(e.Prefixes, e.IPv6Prefixes) }

func subnetOf(e enitest.ENI) fabric.Subnet {
	s := fabric.Subnet{ID: e.Subnet, Zone: e.Zone}
	for _, p := range []netip.Prefix{e.SubnetPrefix, e.SubnetIPv6} {
		if p.IsValid() {
			s.Prefixes = append(s.Prefixes, p)
		}
	}
	return s
}
