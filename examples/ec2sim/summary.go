// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// summary is the line of JSON that ec2sim prints.
type summary struct {
	EC2       string     `json:"ec2"`
	Region    string     `json:"region"`
	VPCs      []string   `json:"vpcs"`
	Subnets   []string   `json:"subnets"`
	Instances []instance `json:"instances"`
}

type instance struct {
	ID       string   `json:"id"`
	Type     string   `json:"type"`
	Metadata string   `json:"metadata"`
	Subnet   string   `json:"subnet"`
	ENIs     []string `json:"enis"`
}

// summarize returns the URLs of the services and the IDs of the resources.
func summarize(ctx context.Context, cloud *enitest.Cloud, srv *enitest.Server) (summary, error) {
	a := summary{EC2: srv.EC2URL, Region: cloud.Region(), Instances: []instance{}}
	for _, v := range cloud.VPCs() {
		a.VPCs = append(a.VPCs, v.ID)
	}
	for _, s := range cloud.Subnets() {
		a.Subnets = append(a.Subnets, s.ID)
	}
	enis := map[string][]string{}
	for _, e := range cloud.ENIs() {
		if e.Attachment != nil {
			enis[e.Attachment.Instance] = append(enis[e.Attachment.Instance], e.ID)
		}
	}
	for _, i := range cloud.Instances() {
		if !i.TerminatedAt.IsZero() {
			continue
		}
		url, err := srv.IMDSURL(ctx, i.ID)
		if err != nil {
			return summary{}, err
		}
		a.Instances = append(a.Instances, instance{i.ID, i.Type, url, i.Subnet, enis[i.ID]})
	}
	return a, nil
}
