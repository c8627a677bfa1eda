// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/ipam/ipamd/adopt"
	"github.com/vpcnet/vpcnet/ipam/ipamd/settings"
)

// runAdopt runs ipamd adopt, the change-over from and to another agent. It returns the exit
// status: 2 for an error in flags or variables, 1 if the change-over fails.
func runAdopt(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	var o adopt.Options
	var sandboxes string
	set := flag.NewFlagSet("ipamd adopt", flag.ContinueOnError)
	set.SetOutput(stderr)
	from := set.String("from", "", "Take the pods, ENIs and rules of `AGENT` over: "+adopt.AmazonVPCCNI+".")
	to := set.String("to", "", "Give them back to `AGENT`: "+adopt.AmazonVPCCNI+".")
	set.BoolVar(&o.DryRun, "dry-run", false, "Print the plan and change nothing but files in the state directory.")
	set.StringVar(&o.Checkpoint, "checkpoint", "/var/run/aws-node/ipam.json", "`PATH` of the checkpoint of network card 0.")
	set.StringVar(&o.Socket, "other-socket", "/var/run/aws-node/ipamd.sock", "`PATH` of the socket of the other agent, which must not answer.")
	set.StringVar(&o.Conflist, "other-conflist", "/etc/cni/net.d/10-aws.conflist", "`PATH` of the CNI configuration of the other agent.")
	set.StringVar(&o.PluginDir, "plugin-dir", "/opt/cni/bin", "`DIR` with the CNI plugins; vpc-cni gets the name aws-cni too.")
	set.StringVar(&o.Results, "results", "/var/lib/cni/results", "`DIR` in which the runtime caches results of plugins.")
	set.StringVar(&sandboxes, "sandboxes", "/var/run/netns,/var/run/docker/netns", "`DIRS` in which runtimes mount network namespaces, with commas.")
	set.Usage = func() {
		fmt.Fprintf(stderr, "Usage: ipamd adopt -from|-to %s [-dry-run] [flags] [-- flags of ipamd]\n\n", adopt.AmazonVPCCNI)
		set.PrintDefaults()
	}
	err := set.Parse(args)
	o.Sandboxes = strings.Split(sandboxes, ",")
	if err == nil && (*from == "") == (*to == "") {
		err = errors.New("want either -from or -to")
	}
	if name := *from + *to; err == nil && name != adopt.AmazonVPCCNI {
		err = fmt.Errorf("%q is not a known agent, want %s", name, adopt.AmazonVPCCNI)
	}
	var cfg ipamd.Config
	if err == nil {
		var s settings.Settings
		if s, err = settings.Parse(set.Args(), getenv, stderr); err == nil {
			cfg, err = s.Agent()
		}
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "ipamd adopt: %v\n", err)
		return 2
	}
	change := adopt.From
	if *to != "" {
		change = adopt.To
	}
	if err := change(ctx, cfg, o, stdout); err != nil {
		fmt.Fprintf(stderr, "ipamd adopt: %v\n", err)
		return 1
	}
	return 0
}
