// SPDX-License-Identifier: Apache-2.0

package ipamd_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/server"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/snat"
	"github.com/vpcnet/vpcnet/warmpool"
)

// noKernel is a kernel in which everything succeeds.
type noKernel struct{}

func (noKernel) Ensure(context.Context, agent.ENI) error { return nil }
func (noKernel) Remove(context.Context, string) error    { return nil }

// newManager returns the ENI manager of an m5.large in an EC2 of its own.
func newManager() (*eni.Manager, error) {
	cloud := enitest.New(enitest.Config{})
	vpc, err := cloud.AddVPC(enitest.VPCInput{})
	if err != nil {
		return nil, err
	}
	subnet, err := cloud.AddSubnet(enitest.SubnetInput{VPC: vpc.ID, Prefix: netip.MustParsePrefix("10.0.1.0/24")})
	if err != nil {
		return nil, err
	}
	node, err := cloud.RunInstance(enitest.InstanceInput{Subnet: subnet.ID, Type: "m5.large"})
	if err != nil {
		return nil, err
	}
	client := eni.NewClient(aws.Config{
		Region: cloud.Region(), Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
		HTTPClient: &http.Client{Transport: cloud.Transport(node.ID)},
	}, eni.ClientConfig{})
	return eni.New(eni.Config{Client: client})
}

// An agent of adapters, here over an EC2 in process and without a kernel. A real one has
// [ipamd.Links] in the place of noKernel, and a server.Server that asks the backend.
func ExampleProvider() {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	manager, err := newManager()
	if err != nil {
		fmt.Println(err)
		return
	}
	pool, err := ipam.Open(ipam.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	backend := ipamd.NewBackend(ipamd.BackendConfig{Pool: pool})
	a, err := agent.New(agent.Config{
		Pool: pool, Provider: &ipamd.Provider{Manager: manager, Pool: pool}, Links: noKernel{},
		Policy: warmpool.Band{}, Limits: []warmpool.Limits{{MaxENIs: 3, SlotsPerENI: 9}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	go a.Run(ctx)
	backend.Serve(a)

	got, err := backend.Add(ctx, cniplugin.AddRequest{Attachment: cniplugin.Attachment{Network: "pods", ContainerID: "c1", IfName: "eth0"}})
	fmt.Println(got.Addresses[0].Addr, err)
	// Output:
	// 10.0.1.5 <nil>
}

// The adapters over the kernel and the plugin's protocol. The order matters: the pool has
// the kernel as a witness, and the socket answers before the agent is ready.
func ExampleOpenLinks() {
	run := func(ctx context.Context, client *eni.Client, hooks ipamd.Hooks) error {
		var backend *ipamd.Backend
		links, err := ipamd.OpenLinks(ctx, ipamd.LinksConfig{
			Netns:       "/run/netns/node",
			Node:        datapath.Node{Layout: datapath.PerPod, HostLinkPrefix: "own"},
			SNAT:        snat.Config{HostLinkPrefix: "own", NodePort: true},
			SNATBackend: snat.Nftables,
			Pods:        func() []datapath.Pod { return backend.Pods() },
		})
		if err != nil {
			return err
		}
		defer links.Close()
		pool, err := ipam.Open(ipam.Config{Witness: links.Witness})
		if err != nil {
			return err
		}
		manager, err := eni.New(eni.Config{Client: client, InUse: ipamd.InUse(pool, links.Witness)})
		if err != nil {
			return err
		}
		backend = ipamd.NewBackend(ipamd.BackendConfig{
			Pool: pool, MTU: 9001, Layout: datapath.PerPod, HostLinkPrefix: "own",
			EachCard:       true,
			SecurityGroups: hooks.SecurityGroups,
			BeforeReply:    hooks.BeforeReply,
			AfterDel:       hooks.AfterDel,
			Requested:      hooks.Requested,
		})
		listener, err := server.Listen("/run/own/agent.sock")
		if err != nil {
			return err
		}
		served := make(chan error, 1)
		go func() { served <- (&server.Server{Backend: backend, SweepSoon: links.SweepSoon}).Serve(ctx, listener) }()
		provider := &ipamd.Provider{
			Manager: manager, Pool: pool, Links: links, MTU: 9001,
			Prefixes: true, NoPrimary: true, PodENI: true,
			Changed: func(inv eni.Inventory) { slog.Info("ENIs", "of", inv.Instance.ID, "now", len(inv.ENIs)) },
		}
		if _, err := provider.Observe(ctx); err != nil { // registers all ENIs with the links
			backend.SetProblem(err)
			return err
		}
		a, err := agent.New(agent.Config{
			Pool: pool, Provider: provider, Links: links, Kernel: links,
			Policy: warmpool.Band{}, Limits: []warmpool.Limits{{MaxENIs: 3, SlotsPerENI: 9, AddressesPerSlot: 16}},
		})
		if err != nil {
			return err
		}
		backend.Serve(a)
		var all sync.WaitGroup
		var watchErr, translationErr, sweepErr error
		all.Go(func() { watchErr = links.Watch(ctx, nil, slog.Default()) })
		all.Go(func() { translationErr = links.WatchTranslation(ctx, nil, slog.Default()) })
		all.Go(func() { sweepErr = links.Sweep(ctx, slog.Default()) })
		err = a.Run(ctx)
		all.Wait()
		return errors.Join(err, <-served, watchErr, translationErr, sweepErr)
	}
	_ = run
}

// An agent follows the prefixes of the VPC that the source translation leaves alone, and
// shows the network of the node. Before EC2 has answered, it uses the ENIs of an earlier
// process.
func ExampleLinks() {
	run := func(ctx context.Context, provider *ipamd.Provider, vpc []netip.Prefix) error {
		links := provider.Links
		inv := provider.Manager.Inventory()
		if _, err := provider.Register(inv, false); err != nil {
			return err
		}
		if !slices.Equal(links.VPC(), vpc) {
			if err := links.SetVPC(ctx, vpc); err != nil {
				return err
			}
		}
		fmt.Println(links.Node().State())
		return nil
	}
	_ = run
}

// A pod asks by its annotation for an interface on each network card, and a subscriber
// learns of changes of the pool.
func ExampleAgent_Subscribe() {
	run := func(ctx context.Context, a *ipamd.Agent, client cniplugin.Client) error {
		changed, stop := a.Subscribe()
		defer stop()
		go func() {
			for range changed {
				slog.Info("pool changed", "allocations", len(a.Status().Allocations))
			}
		}()
		_, err := client.Add(ctx, cniplugin.AddRequest{
			Attachment:  cniplugin.Attachment{Network: "pods", ContainerID: "c1", IfName: "eth0"},
			Annotations: map[string]string{ipamd.NICAnnotation: ipamd.EachCard},
		})
		return err
	}
	_ = run
}
