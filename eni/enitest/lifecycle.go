// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"net/netip"
	"slices"
	"time"
)

type stopIn struct {
	IDs            []string `ec2:"InstanceId"`
	Force          ignored  `ec2:"Force"`
	Hibernate      ignored  `ec2:"Hibernate"`
	SkipOSShutdown ignored  `ec2:"SkipOsShutdown"`
}

type startIn struct {
	IDs        []string `ec2:"InstanceId"`
	Additional ignored  `ec2:"AdditionalInfo"`
}

type rebootIn struct {
	IDs []string `ec2:"InstanceId"`
}

type stateChangesOut struct {
	Instances list[wireStateChange] `xml:"instancesSet"`
}

// named returns the instances that a call names, or EC2's error if the call does not find
// one of them or if one is in a state from which it cannot be done.
func (t *tx) named(ids []string, done string, states ...string) ([]*Instance, error) {
	if len(ids) == 0 {
		return nil, missing("InstanceId")
	}
	var all []*Instance
	var unknown []string
	for _, id := range ids {
		if i := t.c.state.instances.found(t, id); i != nil {
			all = append(all, i)
		} else {
			unknown = append(unknown, id)
		}
	}
	if len(unknown) > 0 {
		return nil, kindInstance.unknown(unknown...)
	}
	for _, i := range all {
		if !slices.Contains(states, i.State(t.now)) {
			return nil, errorf("IncorrectInstanceState", "The instance '%s' is not in a state from which it can be %s.", i.ID, done)
		}
	}
	return all, nil
}

// change replaces each instance with the result of f.
func (t *tx) change(all []*Instance, f func(*Instance)) stateChangesOut {
	var out stateChangesOut
	for _, before := range all {
		after := before.clone()
		f(after)
		t.putInstance(after)
		out.Instances.Items = append(out.Instances.Items,
			wireStateChange{before.ID, stateOf(after.State(t.now)), stateOf(before.State(t.now))})
	}
	return out
}

// stopInstances stops instances. Their ENIs stay attached and keep their addresses, but
// the public addresses go, except for Elastic IP addresses.
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Stop_Start.html
func (t *tx) stopInstances(in stopIn) (stateChangesOut, error) {
	all, err := t.named(in.IDs, "stopped", "running", "stopping", "stopped")
	if err != nil {
		return stateChangesOut{}, err
	}
	return t.change(all, func(i *Instance) {
		if i.State(t.now) != "running" {
			return
		}
		i.StoppingAt, i.StoppedAt = t.now, t.now.Add(t.c.delays.Stop)
		for _, e := range t.attached(i.ID, t.now) {
			if t.hasAutoPublic(e) {
				i.AutoPublic = i.AutoPublic || e.primary()
				e = e.clone()
				e.Public = netip.Addr{}
				t.put(e)
			}
			if e.Attachment.DetachedAt.IsZero() {
				t.emit(Detached, e, i.ID, nil)
			}
		}
	}), nil
}

// hasAutoPublic reports whether the ENI has a public address that is not an Elastic IP
// address.
func (t *tx) hasAutoPublic(e *ENI) bool {
	a := t.association(e, e.Addr)
	return a != nil && a.AllocationID == ""
}

// startInstances starts stopped instances. The primary ENI gets a new public address in
// place of the one that it lost, unless the instance has several ENIs.
func (t *tx) startInstances(in startIn) (stateChangesOut, error) {
	all, err := t.named(in.IDs, "started", "pending", "running", "stopped")
	if err != nil {
		return stateChangesOut{}, err
	}
	return t.change(all, func(i *Instance) {
		if i.State(t.now) != "stopped" {
			return
		}
		again := i.AutoPublic
		i.StoppingAt, i.StoppedAt, i.AutoPublic = time.Time{}, time.Time{}, false
		i.StartedAt, i.RunningAt = t.now, t.now.Add(t.c.delays.Start)
		enis := t.attached(i.ID, t.now)
		if again && len(enis) == 1 && !enis[0].Public.IsValid() {
			e := enis[0].clone()
			e.Public = t.newPublic()
			t.put(e)
			enis[0] = e
		}
		for _, e := range enis {
			if e.Attachment.DetachedAt.IsZero() {
				t.emit(Attached, e, i.ID, nil)
			}
		}
	}), nil
}

// rebootInstances reboots running instances, which changes nothing here.
func (t *tx) rebootInstances(in rebootIn) (wireReturn, error) {
	_, err := t.named(in.IDs, "rebooted", "running")
	return wireReturn{err == nil}, err
}
