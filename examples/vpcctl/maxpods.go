// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/instancetype"
)

// capacity is the result of max-pods.
type capacity struct {
	InstanceType string `json:"instanceType"`
	MaxPods      int    `json:"maxPods"`
	// Addresses is the number of pods that can have their own address.
	Addresses   int    `json:"addresses"`
	ENIs        []int  `json:"enis"` // by network card
	SlotsPerENI int    `json:"slotsPerENI"`
	BranchENIs  int    `json:"branchENIs"` // 0 also if it is not known
	Prefixes    bool   `json:"prefixes"`   // whether slots hold prefixes
	Source      string `json:"source"`     // table, ec2 or default
}

// maxPods runs "vpcctl max-pods".
func maxPods(ctx context.Context, std stdio, args []string) error {
	fs := flag.NewFlagSet("max-pods", flag.ContinueOnError)
	kind := fs.String("instance-type", "", "EC2 instance `type`, such as m5.large")
	out := outputFlag(fs, formatText, formatJSON, formatYAML)
	var mode instancetype.PodMode
	fs.BoolVar(&mode.Prefixes, "prefix", false, "slots hold /28 prefixes")
	fs.BoolVar(&mode.CustomNetworking, "custom-networking", false, "pods do not use the primary ENI")
	fs.BoolVar(&mode.Trunk, "trunk", false, "reserve one ENI for a trunk ENI, if the type can have one")
	fs.BoolVar(&mode.AllCards, "all-cards", false, "use the ENIs of every network card")
	fs.IntVar(&mode.MaxENIs, "max-enis", 0, "most ENIs of each network card; 0 means the limit of the type")
	fs.IntVar(&mode.Cap, "cap", 0, "most pods, even if there are more addresses; 0 means no cap")
	about := "Prints how many pods an instance type can run: the --max-pods of the kubelet.\nIf the built-in table does not have the type, it asks EC2."
	if err := parse(fs, std, args, about); err != nil {
		return err
	}
	if *kind == "" {
		return wrong(fs, std, "-instance-type is required")
	}
	if mode.MaxENIs < 0 || mode.Cap < 0 {
		return wrong(fs, std, "-max-enis and -cap: want 0 or more")
	}
	l, err := limitsOf(ctx, *kind)
	if err != nil {
		return err
	}
	if l.Source == "default" {
		fmt.Fprintf(std.err, "vpcctl: neither the table nor EC2 has %s; these are safe defaults\n", *kind)
	}
	c := capacity{
		InstanceType: l.Type, MaxPods: l.MaxPods(mode), Addresses: l.MaxAddresses(mode), ENIs: l.Cards,
		SlotsPerENI: l.SlotsPerENI(), BranchENIs: l.Branches, Prefixes: mode.Prefixes && l.Nitro, Source: l.Source,
	}
	return out.print(std.out, c, func() {
		w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
		fmt.Fprintf(w, "instance type\t%s (limits from: %s)\n", c.InstanceType, c.Source)
		branches := "unknown"
		if l.TrunkKnown {
			branches = strconv.Itoa(c.BranchENIs)
		}
		fmt.Fprintf(w, "ENIs by card\t%d\nslots an ENI\t%d\nbranch ENIs\t%s\n", c.ENIs, c.SlotsPerENI, branches)
		fmt.Fprintf(w, "pods with an address\t%d\nmax-pods\t%d\n", c.Addresses, c.MaxPods)
		w.Flush()
	})
}

// describeTimeout limits the time of the request to EC2, because the machine may have
// no credentials.
const describeTimeout = 10 * time.Second

// limitsOf returns the limits of an instance type from the table or else from EC2.
// Types in the table need no credentials.
func limitsOf(ctx context.Context, kind string) (instancetype.Limits, error) {
	if l, ok := instancetype.Lookup(kind); ok {
		return l, nil
	}
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	cfg, err := awsConfig(ctx)
	if err != nil {
		return instancetype.Limits{}, err
	}
	return eni.NewClient(cfg, eni.ClientConfig{Attempts: 2}).LimitsOf(ctx, kind), nil
}
