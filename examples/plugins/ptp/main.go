// SPDX-License-Identifier: Apache-2.0

// Command ptp is a CNI plugin with the agent's addresses and a datapath of its own.
package main

import (
	"context"
	"errors"
	"os"

	"github.com/containernetworking/plugins/pkg/ip"
	"github.com/containernetworking/plugins/pkg/ipam"
	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath"
)

type veth struct{}

func (v veth) Add(ctx context.Context, req cniplugin.WiringRequest) (*cniplugin.Result, error) {
	result, hostLink := req.Result(), datapath.HostLinkName("ptp", req.ContainerID, req.IfName)
	return result, errors.Join(v.Del(ctx, req), ns.WithNetNSPath(req.Netns, func(host ns.NetNS) error {
		_, _, err := ip.SetupVethWithName(req.IfName, hostLink, 1500, "", host)
		return errors.Join(err, ipam.ConfigureIface(req.IfName, result))
	}))
}

func (veth) Del(_ context.Context, req cniplugin.WiringRequest) error {
	if err := ip.DelLinkByName(datapath.HostLinkName("ptp", req.ContainerID, req.IfName)); !errors.Is(err, ip.ErrLinkNotFound) {
		return err
	}
	return nil
}

func main() {
	inv := cniplugin.Invocation{Getenv: os.Getenv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	os.Exit(cniplugin.Plugin{Wiring: veth{}}.Main(context.Background(), inv))
}
