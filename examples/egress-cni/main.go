// SPDX-License-Identifier: Apache-2.0

// Command egress-cni is a chained CNI plugin that gives pods of an IPv4 cluster access to
// IPv6 hosts, and pods of an IPv6 cluster access to IPv4 hosts, by the node's address of that
// family. It follows vpc-cni, or another plugin, in a network configuration list:
//
//	{
//	    "cniVersion": "1.1.0",
//	    "name": "vpcnet",
//	    "plugins": [
//	        {"type": "vpc-cni"},
//	        {
//	            "type": "egress-cni",
//	            "enabled": "true",
//	            "nodeIP": "2001:db8::10",
//	            "mtu": "9001",
//	            "randomizeSNAT": "prng",
//	            "ipam": {
//	                "type": "host-local",
//	                "ranges": [[{"subnet": "fd00::ac:00/118"}]],
//	                "routes": [{"dst": "::/0"}],
//	                "dataDir": "/run/cni/v4pd/egress-v6-ipam"
//	            }
//	        }
//	    ]
//	}
//
// In an IPv6 cluster the subnet is 169.254.172.0/22, the route 0.0.0.0/0, and nodeIP the
// node's IPv4 address. The entry of amazon-vpc-cni-k8s's 10-aws.conflist works as it is.
// Upstream's host-local must be in the directory of plugins. See package egress for all
// fields and commands.
package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/vpcnet/vpcnet/cniplugin/egress"
)

func main() {
	// The process works sequentially and ends before garbage collection would be worth its
	// cost.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1)
	plugin := egress.Plugin{Stdout: os.Stdout, Stderr: os.Stderr}
	skel.PluginMainFuncs(plugin.Funcs(context.Background()), version.All, "CNI plugin egress-cni")
}
