// SPDX-License-Identifier: Apache-2.0

// Package ec2fabric connects the control plane of eni/enitest with the data plane of
// internal/fabric: calls of the EC2 API change links and routes. It is a package of
// its own so that tests that need only packets do not compile the AWS SDK.
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
)

// Follower applies the changes of a cloud to a fabric.
type Follower struct {
	fabric *fabric.Fabric
	cloud  *enitest.Cloud

	mu  sync.Mutex
	err error
}

// Follow applies the state of the cloud and all later changes to the fabric. An
// instance gets a namespace when its first ENI is attached; ENIs are attached and
// detached, and their addresses change. Inside the VPC the EC2 API of the cloud
// answers at [fabric.EC2Addr] and its metadata service at [fabric.MetadataAddr].
//
// The name of a namespace is the Name tag of the instance when its first ENI is
// attached, or the instance ID if it has no such tag. A hook of a cloud cannot
// return an error, so [Follower.Err] returns the first one.
func Follow(f *fabric.Fabric, cloud *enitest.Cloud) (*Follower, error) {
	w := &Follower{fabric: f, cloud: cloud}
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
	if e.Instance == "" || e.ENI.Type == "branch" {
		return // there is no link to change
	}
	var err error
	switch e.Op {
	case enitest.Attached:
		// Both the hook and the first listing of ENIs may report the same ENI.
		if _, ok := w.fabric.ENI(e.ENI.ID); !ok {
			err = w.attach(e.Instance, e.ENI)
		}
	case enitest.Detached:
		err = w.fabric.Detach(e.ENI.ID)
	case enitest.Assigned, enitest.Unassigned:
		err = w.fabric.SetAddrs(e.ENI.ID, addrs(e.ENI), prefixes(e.ENI))
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

func (w *Follower) attach(instance string, e enitest.ENI) error {
	i, ok := w.cloud.Instance(instance)
	if !ok {
		return fmt.Errorf("instance %s: %w", instance, os.ErrNotExist)
	}
	mac, err := net.ParseMAC(e.MAC)
	if err != nil {
		return err
	}
	if w.fabric.Instance(nameOf(i)) == nil {
		if _, err := w.fabric.AddInstance(nameOf(i)); err != nil {
			return err
		}
	}
	if err := w.fabric.AddSubnet(subnetOf(e)); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return w.fabric.Attach(fabric.ENI{
		ID: e.ID, MAC: mac, Instance: nameOf(i), Subnet: e.Subnet,
		Card: e.Attachment.Card, Device: e.Attachment.Device,
		Addr: e.Addr, Addrs: addrs(e), Prefixes: prefixes(e),
		Unchecked: !e.SourceDestCheck, Public: e.Public.IsValid(),
	})
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
