// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"time"
)

// SweepInput says which ENIs a sweep may delete. All conditions must hold.
type SweepInput struct {
	// VPCID limits the sweep to one VPC. Required.
	VPCID string
	// Owner is the value of the owner tag. Optional; default "vpcnet".
	Owner string
	// Cluster is the cluster's name. An ENI that is tagged for another cluster,
	// or for one although this is empty, is not touched.
	Cluster string
	// Instance limits the sweep to ENIs made for one instance. Optional; empty
	// means ENIs of all instances.
	Instance string
	// MinAge is the least age of an ENI by its creation tag. It must be longer
	// than an attachment can take, since "available and ours" is also the state
	// between the two. Optional; default 10 minutes.
	MinAge time.Duration
	// DryRun reports and deletes nothing.
	DryRun bool
}

// Swept is one ENI that a sweep looked at.
type Swept struct {
	ENI ENI
	// Deleted says that the ENI is gone, or would be in a dry run; Kept says
	// why not.
	Deleted bool
	Kept    string
	// Err is why the deletion failed.
	Err error
}

// Sweep deletes ENIs that this library created and that nobody uses: those a
// node left behind when it died between creating and attaching, or between
// detaching and deleting. It works on a node, in a controller or from a command.
// Each ENI is described a second time right before it is deleted. The error
// joins those of single ENIs; the report is complete in any case.
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

func sweepOne(ctx context.Context, c *Client, in SweepInput, e ENI) Swept {
	s := Swept{ENI: e, Kept: in.keep(e, time.Now())}
	if s.Kept != "" {
		return s
	}
	if in.DryRun {
		s.Deleted = true
		return s
	}
	again, there, err := c.describeENI(ctx, e.ID)
	if err != nil {
		s.Err = err
		return s
	}
	if !there {
		s.Kept = "gone meanwhile"
		return s
	}
	if s.Kept = in.keep(again, time.Now()); s.Kept != "" {
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

// keep says why an ENI must not be swept; empty if it may. It is a pure
// function.
func (in SweepInput) keep(e ENI, now time.Time) string {
	switch {
	case e.Tags[TagOwner] != in.Owner:
		return "not ours"
	case e.VPCID != in.VPCID:
		return "in another VPC"
	case e.Tags[TagCluster] != in.Cluster:
		return "of another cluster"
	case in.Instance != "" && e.Tags[TagInstance] != in.Instance:
		return "of another instance"
	case e.Tags[TagNoManage] == "true":
		return "tagged " + TagNoManage
	case e.Attachment != "" || e.Status != "available":
		return "in use"
	}
	created, err := time.Parse(time.RFC3339, e.Tags[TagCreated])
	if err != nil {
		return "creation time not readable"
	}
	if age := now.Sub(created); age < in.MinAge {
		return "too young"
	}
	return ""
}
