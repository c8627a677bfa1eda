// SPDX-License-Identifier: Apache-2.0

// Command standalone is a CNI plugin without an agent.
package main

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath"
)

// directory has a symbolic link from each address in use to its attachment.
type directory struct {
	path   string
	prefix netip.Prefix
}

func (d directory) link(a netip.Addr) string { return filepath.Join(d.path, a.String()) }

// Add returns the address of the attachment, or takes a free one: of several plugins,
// one can make the link.
func (d directory) Add(_ context.Context, req cniplugin.AddRequest) (cniplugin.AddResponse, error) {
	own, found := d.find(req.Attachment)
	for a := d.prefix.Addr(); !found && d.prefix.Contains(a); a = a.Next() {
		own, found = a, os.Symlink(req.Attachment.String(), d.link(a)) == nil
	}
	if !found {
		return cniplugin.AddResponse{}, &cniplugin.AgentError{Code: cniplugin.CodeTryAgainLater, Reason: "all-in-use", Message: "no free address"}
	}
	return cniplugin.AddResponse{Addresses: []cniplugin.Address{{Addr: own}}, Layout: string(datapath.PerPod)}, nil
}

func (d directory) Del(_ context.Context, req cniplugin.DelRequest) (resp cniplugin.DelResponse, err error) {
	if own, found := d.find(req.Attachment); found {
		err = os.Remove(d.link(own))
	}
	return resp, err
}

func (d directory) find(at cniplugin.Attachment) (netip.Addr, bool) {
	for a := d.prefix.Addr(); d.prefix.Contains(a); a = a.Next() {
		if owner, err := os.Readlink(d.link(a)); err == nil && owner == at.String() {
			return a, true
		}
	}
	return netip.Addr{}, false
}

func main() {
	pods := directory{"/run/standalone", netip.MustParsePrefix("10.88.0.2/24")}
	_ = os.Mkdir(pods.path, 0o700) // it may exist; without it there is no free address
	inv := cniplugin.Invocation{Getenv: os.Getenv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	os.Exit(cniplugin.Plugin{Allocator: pods}.Main(context.Background(), inv))
}
