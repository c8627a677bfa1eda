// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// exampleNode returns a cloud with one instance, and a client on that instance. A
// program gets the configuration from config.LoadDefaultConfig.
func exampleNode(kind string) (*enitest.Cloud, *eni.Client) {
	cloud := enitest.New(enitest.Config{})
	vpc, err := cloud.AddVPC(enitest.VPCInput{})
	if err != nil {
		panic(err)
	}
	subnet, err := cloud.AddSubnet(enitest.SubnetInput{VPC: vpc.ID, Prefix: netip.MustParsePrefix("10.0.1.0/24")})
	if err != nil {
		panic(err)
	}
	inst, err := cloud.RunInstance(enitest.InstanceInput{Subnet: subnet.ID, Type: kind})
	if err != nil {
		panic(err)
	}
	return cloud, eni.NewClient(aws.Config{
		Region: cloud.Region(), HTTPClient: &http.Client{Transport: cloud.Transport(inst.ID)},
		Credentials: credentials.NewStaticCredentialsProvider("AKIAEXAMPLE", "secret", ""),
	}, eni.ClientConfig{})
}

// A node discovers its ENIs, attaches another one, and assigns a prefix to it.
func Example() {
	ctx := context.Background()
	_, client := exampleNode("m5.large")
	m, err := eni.New(eni.Config{Client: client, Cluster: "blue"})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := m.Resume(ctx); err != nil { // finishes the operations of an earlier process
		fmt.Println(err)
	}
	inv, err := m.Discover(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s with %d ENI, says %s\n", inv.Instance.Type, len(inv.ENIs), inv.Source)
	e, err := m.Provision(ctx, eni.ProvisionInput{Slots: 3})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("device", e.Device, "gateway", e.Gateway(eni.IPv4), e.Blocks())
	got, err := m.Assign(ctx, eni.AssignInput{ENI: e.ID, Slots: 1, Prefixes: true})
	fmt.Println(got, err)
	// Output:
	// m5.large with 1 ENI, says ec2+metadata
	// device 1 gateway 10.0.1.1 [10.0.1.6/32 10.0.1.7/32 10.0.1.8/32]
	// [10.0.1.16/28] <nil>
}

// Errors carry a reason from a closed set.
func ExampleOpError() {
	ctx := context.Background()
	_, client := exampleNode("t3.medium")
	m, _ := eni.New(eni.Config{Client: client})
	_, err := m.Assign(ctx, eni.AssignInput{ENI: "eni-00000000000000001", Slots: 1})
	var op *eni.OpError
	if errors.As(err, &op) {
		fmt.Println(op.Op, "of", op.ENI, "fails with", op.Reason(), "without a cause from EC2:", op.Code == "", op.Err == nil)
	}
	for {
		_, err := m.Provision(ctx, eni.ProvisionInput{Slots: 1})
		if err == nil {
			continue
		}
		fmt.Println(errors.Is(err, eni.ErrENILimit), errors.As(err, &op) && op.Reason() == "eni-limit")
		fmt.Println(err)
		return
	}
	// Output:
	// assign of eni-00000000000000001 fails with not-found without a cause from EC2: true true
	// true true
	// provision: eni-limit: card 0 takes 3 ENIs
}

// Pods use other subnets than the nodes, and their own security group.
func ExampleByZone() {
	placement := eni.ByZone{
		"us-west-2a": {Subnets: []string{"subnet-pods-a"}, Groups: []string{"sg-pods"}},
		"us-west-2b": {Subnets: []string{"subnet-pods-b"}, Groups: []string{"sg-pods"}},
	}
	_, client := exampleNode("m5.large")
	_, err := eni.New(eni.Config{Client: client, Subnets: placement, Groups: placement})
	inst := eni.Instance{Zone: "us-west-2b", Groups: []string{"sg-node"}}
	fmt.Println(placement.Groups(inst, "subnet-pods-b", eni.KindInterface), err)
	// Output: [sg-pods] <nil>
}

// A dry run of Sweep reports the ENIs that it would delete.
func ExampleSweep() {
	cloud, client := exampleNode("m5.large")
	swept, err := eni.Sweep(context.Background(), client, eni.SweepInput{VPCID: cloud.VPCs()[0].ID, Cluster: "blue", DryRun: true})
	for _, s := range swept {
		fmt.Println(s.ENI.ID, s.Deleted, s.Kept)
	}
	fmt.Println(len(swept), err)
	// Output: 0 <nil>
}

// Pods use the subnets that are tagged for them, the one with the most free addresses
// first. A subnet that is tagged for another cluster is left out.
func ExampleSubnetsByTag() {
	inst := eni.Instance{PrimarySubnet: eni.Subnet{ID: "subnet-node"}}
	candidates := []eni.Subnet{
		{ID: "subnet-node", Free: 200},
		{ID: "subnet-pods", Free: 900, Tags: map[string]string{eni.TagSubnetRole: "1"}},
		{ID: "subnet-green", Free: 999, Tags: map[string]string{eni.TagSubnetRole: "1", eni.TagSubnetCluster + "green": "shared"}},
	}
	for _, s := range (eni.SubnetsByTag{Cluster: "blue"}).Order(inst, candidates) {
		fmt.Println(s.ID, s.Free)
	}
	// Tags replaces the tag of amazon-vpc-cni-k8s.
	candidates[0].Tags = map[string]string{"tier": "pods"}
	for _, s := range (eni.SubnetsByTag{Tags: map[string]string{"tier": "pods"}}).Order(eni.Instance{}, candidates) {
		fmt.Println("by another tag:", s.ID)
	}
	// Output:
	// subnet-pods 900
	// subnet-node 200
	// by another tag: subnet-node
}

// tiers chooses the subnets with an IPv6 block by the value of a tag, best first.
type tiers []string

func (t tiers) Query(inst eni.Instance) (eni.SubnetQuery, bool) {
	return eni.SubnetQuery{VPCID: inst.VPCID, Zone: inst.Zone, Tags: map[string][]string{"tier": t}}, true
}

func (t tiers) Order(_ eni.Instance, candidates []eni.Subnet) (out []eni.Subnet) {
	for _, tier := range t {
		for _, s := range candidates {
			if s.Tags["tier"] == tier && s.Prefix6.IsValid() {
				out = append(out, s)
			}
		}
	}
	return out
}

// A selector is any type with two methods.
func ExampleSubnetSelector() {
	cloud, client := exampleNode("m5.large")
	for tier, prefix := range map[string]string{"pods": "10.0.2.0/24", "spare": "10.0.3.0/24"} {
		_, err := cloud.AddSubnet(enitest.SubnetInput{
			VPC: cloud.VPCs()[0].ID, Prefix: netip.MustParsePrefix(prefix), Tags: map[string]string{"tier": tier},
		})
		if err != nil {
			fmt.Println(err)
			return
		}
	}
	m, err := eni.New(eni.Config{Client: client, Subnets: tiers{"pods", "spare"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = m.Provision(context.Background(), eni.ProvisionInput{Slots: 1})
	fmt.Println(err)
	// Output:
	// provision: not-found: none of 2 subnets in us-west-2a is selected
}

// The nodes of a large fleet share EC2's limits on calls. The client of each makes few calls, and
// joins the describe calls of a second.
func ExampleNewClient() {
	var waited time.Duration
	client := eni.NewClient(aws.Config{Region: "us-west-2"}, eni.ClientConfig{
		ReadRate: 1, ReadBurst: 4, WriteRate: 0.5, WriteBurst: 4,
		Coalesce: time.Second,
		Random:   rand.New(rand.NewPCG(1, 2)).Float64, // a test wants the same jitter each time
		OnCall: func(c eni.Call) {
			waited += c.Waited
			if c.Unknown {
				slog.Warn("EC2 answers with an unknown code", "action", c.Action, "code", c.Code)
			}
		},
	})
	_, err := eni.New(eni.Config{
		Client: client,
		// Another program on the node attaches a trunk ENI.
		ReserveENIs: 1,
		// The Manager only reads until an operator sets another mode.
		Mode: eni.ModeFrozen,
		// The Manager stops giving back as soon as a tenth of the slots is missing from one view.
		TripShare: 0.1,
		// EC2 is slow in this region.
		Lag:           5 * time.Minute,
		AttachTimeout: 10 * time.Minute,
		NewToken:      crand.Text,
	})
	fmt.Println(err, waited)
	// Output: <nil> 0s
}

// The subnets of pods are given by ID, the preferred one first.
func ExampleSubnetsByID() {
	subnets := eni.SubnetsByID{"subnet-pods", "subnet-node"}
	query, _ := subnets.Query(eni.Instance{Zone: "us-west-2a"})
	fmt.Println("EC2 is asked for", query.IDs, "in", query.Zone)
	for _, s := range subnets.Order(eni.Instance{}, []eni.Subnet{{ID: "subnet-node"}, {ID: "subnet-pods"}}) {
		fmt.Println(s.ID)
	}
	// Output:
	// EC2 is asked for [subnet-pods subnet-node] in us-west-2a
	// subnet-pods
	// subnet-node
}

// A pod with security groups of its own gets a branch ENI of the trunk.
func ExampleManager_CreateBranch() {
	ctx := context.Background()
	_, client := exampleNode("m5.large")
	m, err := eni.New(eni.Config{Client: client})
	if err != nil {
		fmt.Println(err)
		return
	}
	trunk, err := m.Provision(ctx, eni.ProvisionInput{Kind: eni.KindTrunk})
	if err != nil {
		fmt.Println(err)
		return
	}
	e, branch, err := m.CreateBranch(ctx, eni.BranchInput{Trunk: trunk.ID, Subnet: m.Inventory().Instance.PrimarySubnet.ID})
	if err != nil {
		fmt.Println(err)
		return
	}
	all, err := m.Branches(ctx, trunk.ID)
	fmt.Println(e.Addr, "VLAN", branch.VLANID, "branches", len(all), err)
	fmt.Println(m.RetireBranch(ctx, branch)) // Resume deletes it after Config.BranchCooldown
	// Output:
	// 10.0.1.6 VLAN 1 branches 1 <nil>
	// <nil>
}

// An operator freezes the ENIs of a node during an outage of EC2.
func ExampleManager_SetMode() {
	_, client := exampleNode("m5.large")
	m, err := eni.New(eni.Config{Client: client})
	if err != nil {
		fmt.Println(err)
		return
	}
	mode, err := eni.ParseMode("frozen")
	if err != nil {
		fmt.Println(err)
		return
	}
	m.SetMode(mode)
	_, err = m.Provision(context.Background(), eni.ProvisionInput{Slots: 1})
	fmt.Println(m.Mode(), errors.Is(err, eni.ErrMode))
	// Output: frozen true
}

// A node takes over the ENI that another program, with an owner tag of its own, has left.
func ExampleManager_Adopt() {
	ctx := context.Background()
	_, client := exampleNode("m5.large")
	before, err := eni.New(eni.Config{Client: client, Owner: "before"})
	if err != nil {
		fmt.Println(err)
		return
	}
	left, err := before.Provision(ctx, eni.ProvisionInput{Slots: 3})
	if err != nil {
		fmt.Println(err)
		return
	}
	m, err := eni.New(eni.Config{Client: client})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := m.Adopt(ctx, left.ID); err != nil {
		fmt.Println(err)
		return
	}
	e, _ := m.Inventory().ENI(left.ID)
	fmt.Println("managed:", e.Managed, "slots:", e.Slots(eni.IPv4))
	// Output: managed: true slots: 3
}
