// SPDX-License-Identifier: Apache-2.0

// Command hostlocal is a CNI plugin that gets addresses from upstream's host-local.
package main

import (
	"bytes"
	"context"
	"io"
	"os"

	"github.com/containernetworking/plugins/pkg/ipam"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath"
)

// hostLocal is the network configuration. Its field ipam configures host-local.
type hostLocal []byte

func (conf hostLocal) Add(context.Context, cniplugin.AddRequest) (cniplugin.AddResponse, error) {
	result, err := ipam.ExecAdd("host-local", conf)
	if err != nil {
		return cniplugin.AddResponse{}, err
	}
	addrs, err := cniplugin.AddressesOf(result)
	return cniplugin.AddResponse{Addresses: addrs, Layout: string(datapath.PerPod)}, err
}

func (conf hostLocal) Del(context.Context, cniplugin.DelRequest) (cniplugin.DelResponse, error) {
	return cniplugin.DelResponse{}, ipam.ExecDel("host-local", conf)
}

func main() {
	conf, _ := io.ReadAll(os.Stdin) // the plugin reports what is wrong with it
	inv := cniplugin.Invocation{Getenv: os.Getenv, Stdin: bytes.NewReader(conf), Stdout: os.Stdout, Stderr: os.Stderr}
	os.Exit(cniplugin.Plugin{Allocator: hostLocal(conf)}.Main(context.Background(), inv))
}
