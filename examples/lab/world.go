// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/eni/instancetype"
	"github.com/vpcnet/vpcnet/eni/vpctest"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// world is the VPC with everything in it.
type world struct {
	o      options
	limits instancetype.Limits
	vpc    *vpctest.VPC
	cloud  *enitest.Cloud
	// internet is the namespace of the host in the internet.
	internet *fabric.Netns
	nodes    []*node
	// programs is the directory of the binaries, and dir the directory of the nodes'
	// files.
	programs, dir string
	// agentEnv is the agents' environment.
	agentEnv []string
}

const region = "us-east-1"

// The address plan: one VPC with a public subnet in each of two availability
// zones.
var (
	vpcPrefix = netip.MustParsePrefix("192.168.0.0/16")
	zones     = []struct {
		name   string
		prefix netip.Prefix
	}{
		{region + "a", netip.MustParsePrefix("192.168.0.0/22")},
		{region + "b", netip.MustParsePrefix("192.168.4.0/22")},
	}
)

// delays are much shorter than those of EC2, but long enough that a program that does
// not wait for a change fails.
var delays = enitest.Delays{Attach: 200 * time.Millisecond, Detach: 200 * time.Millisecond, Call: 10 * time.Millisecond}

// newWorld builds the VPC and boots its nodes, without agents. The caller must close
// the world.
func newWorld(ctx context.Context, o options, programs string) (*world, error) {
	limits, ok := instancetype.Lookup(o.InstanceType)
	if !ok {
		return nil, fmt.Errorf("instance type %s is unknown", o.InstanceType)
	}
	dir, err := os.MkdirTemp("/run", "lab-")
	if err != nil {
		return nil, err
	}
	w := &world{o: o, limits: limits, programs: programs, dir: dir}
	if err := w.build(ctx); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *world) build(ctx context.Context) error {
	cfg := vpctest.Config{
		Cloud:    enitest.Config{Region: region, Delays: delays},
		Prefixes: []netip.Prefix{vpcPrefix},
		Tags:     map[string]string{"Name": "lab"},
		NoDNS:    true,
		Dir:      netnsDir,
	}
	for _, z := range zones {
		cfg.Subnets = append(cfg.Subnets, enitest.SubnetInput{Zone: z.name, Prefix: z.prefix, MapPublic: true})
	}
	var err error
	if w.vpc, err = vpctest.Start(ctx, cfg); err != nil {
		return err
	}
	w.cloud = w.vpc.Cloud
	if w.internet, err = fabric.OpenNetns(w.vpc.Internet().Path()); err != nil {
		return err
	}
	w.agentEnv = agentEnv(os.Environ())
	for i := range w.o.Nodes {
		n, err := w.addNode(ctx, fmt.Sprintf("node-%d", i+1), w.vpc.Subnets[i%len(w.vpc.Subnets)].ID)
		if err != nil {
			return err
		}
		w.nodes = append(w.nodes, n)
	}
	return w.vpc.Err()
}

// netnsDir is the directory in which ip(8) finds namespaces.
const netnsDir = "/run/netns"

// addNode creates an instance and boots it.
func (w *world) addNode(ctx context.Context, name, subnet string) (*node, error) {
	instance, err := w.vpc.AddNode(ctx, enitest.InstanceInput{Subnet: subnet, Type: w.o.InstanceType, Tags: map[string]string{"Name": name}})
	if err != nil {
		return nil, err
	}
	ns, err := fabric.OpenNetns(instance.Path())
	if err != nil {
		return nil, err
	}
	n := &node{
		Node: instance, name: name, zone: instance.Instance.Zone, instance: instance.ID(), addr: instance.Addr,
		world: w, ns: ns, dir: filepath.Join(w.dir, name),
	}
	return n, os.MkdirAll(n.stateDir(), 0o755)
}

// close ends every process and removes every namespace and file.
func (w *world) close() error {
	var err error
	for _, n := range w.nodes {
		err = errors.Join(err, n.close())
	}
	w.nodes = nil
	if w.internet != nil {
		err = errors.Join(err, w.internet.Close())
		w.internet = nil
	}
	if w.vpc != nil {
		err = errors.Join(err, w.vpc.Close())
	}
	return errors.Join(err, os.RemoveAll(w.dir))
}

// pods lists the pods of all nodes.
func (w *world) pods() []*pod {
	var all []*pod
	for _, n := range w.nodes {
		all = append(all, n.pods...)
	}
	return all
}

// agentEnv returns the agents' environment: that of the lab, without the variables
// for the user's own AWS account, and with the settings of the lab.
func agentEnv(environ []string) []string {
	var env []string
	given := map[string]bool{}
	for _, v := range environ {
		name, _, _ := strings.Cut(v, "=")
		foreign := strings.HasPrefix(name, "AWS_") && !strings.HasPrefix(name, "AWS_VPC_") && name != "AWS_EXTERNAL_SERVICE_CIDRS"
		if !foreign {
			env, given[name] = append(env, v), true
		}
	}
	targets := []string{"VPCNET_WARM_POLICY", "WARM_ENI_TARGET", "WARM_IP_TARGET", "MINIMUM_IP_TARGET", "WARM_PREFIX_TARGET"}
	if !slices.ContainsFunc(targets, func(name string) bool { return given[name] }) {
		env = append(env, "WARM_ENI_TARGET=1") // as EKS sets it
	}
	if !given["IP_COOLDOWN_PERIOD"] {
		env = append(env, "IP_COOLDOWN_PERIOD="+fmt.Sprint(cooldown.Seconds())) // the default of 30 s would make the lab slow
	}
	return append(env,
		"CLUSTER_NAME=lab",
		"AWS_ENDPOINT_URL_EC2="+vpctest.EC2URL,
		"AWS_ACCESS_KEY_ID=lab", "AWS_SECRET_ACCESS_KEY=lab",
	)
}

// cooldown is the cooldown of released addresses, unless the environment sets it.
const cooldown = 2 * time.Second
