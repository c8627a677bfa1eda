// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"time"
)

// SweepInput selects the ENIs that a sweep may delete. An ENI must meet all
// conditions.
type SweepInput struct {
	// VPCID limits the sweep to one VPC. Required.
	VPCID string
	// Owner is the value of the owner tag. Optional; default "vpcnet".
	Owner string
	// Cluster is the cluster's name. The sweep ignores ENIs that are tagged for
	// another cluster. If Cluster is empty, it ignores ENIs tagged for any cluster.
	Cluster string
	// Instance limits the sweep to ENIs that were created for one instance.
	// Optional; empty means all instances.
	Instance string
	// MinAge is the minimum age of an ENI by its creation tag. It must be longer
	// than an attachment can take, because an ENI is also available between its
	// creation and its attachment. Optional; default 10 minutes.
	MinAge time.Duration
	// DryRun reports the ENIs without deleting them.
	DryRun bool
}

// Swept is the result of a sweep for one ENI.
type Swept struct {
	ENI ENI
	// Deleted says that the sweep deleted the ENI, or would delete it without
	// DryRun. Kept is the reason for not deleting it.
	Deleted bool
	Kept    string
	// Err is the error of a failed deletion.
	Err error
}

// Sweep deletes unused ENIs that this library created: those that a node left
// behind when it died between creating and attaching, or between detaching and
// deleting. It works on a node, in a controller or in a command. Sweep asks EC2
// about each ENI again right before it deletes it. The result contains every ENI
// found, even if there is an error. The error joins those of single ENIs.
func Sweep(ctx context.Context, c *Client, in SweepInput) ([]Swept, error) {
	if in.VPCID == "" {
		return nil, errors.New("sweep: SweepInput.VPCID is required")
	}
	if in.Owner == "" {
		in.Owner = "vpcnet"
	}
	if in.MinAge == 0 {
		in.MinAge = 10 * time.Minute
	}
	filters := []filter{
		{"tag:" + TagOwner, []string{in.Owner}},
		{"vpc-id", []string{in.VPCID}},
		{"status", []string{"available"}},
	}
	if in.Cluster != "" {
		filters = append(filters, filter{"tag:" + TagCluster, []string{in.Cluster}})
	}
	enis, err := c.describeENIs(ctx, filters...)
	if err != nil {
		return nil, err
	}
	var out []Swept
	var errs []error
	for _, e := range enis {
		s := sweepOne(ctx, c, in, e)
		out = append(out, s)
		errs = append(errs, s.Err)
	}
	return out, errors.Join(errs...)
}

// sweepOne deletes one ENI unless there is a reason to keep it.
func sweepOne(ctx context.Context, c *Client, in SweepInput, e ENI) Swept {
	s := Swept{ENI: e, Kept: in.keepReason(e, time.Now())}
	if s.Kept != "" {
		return s
	}
	if in.DryRun {
		s.Deleted = true
		return s
	}
	again, found, err := c.describeENI(ctx, e.ID)
	if err != nil {
		s.Err = err
		return s
	}
	if !found {
		s.Kept = "gone meanwhile"
		return s
	}
	if s.Kept = in.keepReason(again, time.Now()); s.Kept != "" {
		return s
	}
	err = c.deleteENI(ctx, e.ID, nil)
	switch reasonOf(err) {
	case ReasonNotFound:
		err = nil
	case ReasonInUse:
		s.Kept = "taken into use meanwhile"
		return s
	}
	s.Deleted, s.Err = err == nil, err
	return s
}

// keepReason returns the reason for not deleting an ENI, or an empty string. It is
// a pure function.
func (in SweepInput) keepReason(e ENI, now time.Time) string {
	switch {
	case e.Tags[TagOwner] != in.Owner:
		return "of another owner"
	case e.VPCID != in.VPCID:
		return "in another VPC"
	case e.Tags[TagCluster] != in.Cluster:
		return "of another cluster"
	case in.Instance != "" && e.Tags[TagInstance] != in.Instance:
		return "of another instance"
	case e.ManagedBy != "":
		return "managed by " + e.ManagedBy
	case e.Tags[TagNoManage] == "true":
		return "tagged " + TagNoManage
	case e.Attachment != "" || e.Status != "available":
		return "in use"
	}
	created, err := time.Parse(time.RFC3339, e.Tags[TagCreated])
	if err != nil {
		return "creation time is invalid"
	}
	if age := now.Sub(created); age < in.MinAge {
		return "too young"
	}
	return ""
}
