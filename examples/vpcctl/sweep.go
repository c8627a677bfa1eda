// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/vpcnet/vpcnet/eni"
)

// sweep runs "vpcctl sweep".
func sweep(ctx context.Context, std stdio, args []string) error {
	fs := flag.NewFlagSet("sweep", flag.ContinueOnError)
	var in eni.SweepInput
	fs.StringVar(&in.VPCID, "vpc", "", "`ID` of the VPC")
	fs.StringVar(&in.Cluster, "cluster", "", "`name` of the cluster; sweep keeps ENIs of other clusters")
	fs.StringVar(&in.Owner, "owner", "vpcnet", "`value` of the tag "+eni.TagOwner)
	fs.StringVar(&in.Instance, "instance", "", "only ENIs created for this instance `ID`")
	fs.DurationVar(&in.MinAge, "min-age", 10*time.Minute, "least age of an ENI")
	fs.BoolVar(&in.DryRun, "dry-run", false, "print the ENIs that would be deleted, and delete nothing")
	about := "Deletes unused ENIs that this library created, such as those of nodes that died. It\nneeds the EC2 permissions to describe and delete network interfaces."
	if err := parse(fs, std, args, about); err != nil {
		return err
	}
	if in.VPCID == "" {
		return wrong(fs, std, "-vpc is required")
	}
	if in.MinAge <= 0 {
		return wrong(fs, std, fmt.Sprintf("-min-age %s: want more than 0, and longer than an attachment takes", in.MinAge))
	}
	cfg, err := awsConfig(ctx)
	if err != nil {
		return err
	}
	swept, err := eni.Sweep(ctx, eni.NewClient(cfg, eni.ClientConfig{}), in)
	w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ENI\tINSTANCE\tCREATED\tWHAT")
	for _, s := range swept {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.ENI.ID, s.ENI.Tags[eni.TagInstance], s.ENI.Tags[eni.TagCreated], result(s, in.DryRun))
	}
	if ferr := w.Flush(); err == nil {
		err = ferr
	}
	return err
}

// result describes the result for an ENI.
func result(s eni.Swept, dryRun bool) string {
	switch {
	case s.Err != nil:
		return "failed: " + s.Err.Error()
	case s.Kept != "":
		return "kept: " + s.Kept
	case dryRun:
		return "would be deleted"
	}
	return "deleted"
}
