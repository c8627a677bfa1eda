// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/preflight"
	"github.com/vpcnet/vpcnet/ipam/ipamd/settings"
)

const doctorAbout = `doctor checks a node and prints what is wrong, each finding with its evidence and a
remedy. It looks at the agent, its state directory, the kernel, packet filters, the CNI
configuration, other programs that configure interfaces, the instance metadata service
and EC2. It changes nothing, and makes only calls to EC2 that describe. Exit status 3
means that it found something.`

// finding is something that is wrong on a node.
type finding struct {
	// ID is a stable name for programs: one of those of checks, or of package preflight.
	ID       string             `json:"id"`
	Severity preflight.Severity `json:"severity"`
	// The texts say what happens, what shows it, and what prevents it.
	What     string   `json:"what"`
	Evidence []string `json:"evidence"`
	Do       string   `json:"do"`
}

// facts are what is known of a node at one moment. A bundle has them, so that doctor answers
// from it as on the node.
type facts struct {
	Agent agentFacts
	// State is the network of the node; if it is nil, StateError says why.
	State      *saved `json:"-"`
	StateError string `json:",omitempty"`
	Host       hostFacts
	Cloud      cloudFacts
	// files are the files of the system.
	files fs.FS
}

// examination looks for one kind of finding. It is a function of the facts alone.
type examination struct {
	id  string
	run func(*facts) []finding
}

// checks lists the checks in the order of the report. Those of package preflight follow.
var checks = []examination{
	{"agent-down", agentDown},
	{"agent-not-ready", agentNotReady},
	{"no-addresses", noAddresses},
	{"addresses-quarantined", quarantined},
	{"journal", journalProblems},
	{"operation-stuck", stuckOperations},
	{"state-dir-full", stateDirFull},
	{"state-dir-read-only", stateDirReadOnly},
	{"metadata", metadataDown},
	{"metadata-proxy", metadataProxy},
	{"ec2", ec2Down},
	{"iam-action", iamAction},
	{"throttled", throttled},
	{"clock", clock},
	{"subnet-nearly-full", subnetNearlyFull},
	{"no-free-prefix", noFreePrefix},
	{"journal-ec2-apart", journalAndEC2},
	{"journal-kernel-apart", journalAndKernel},
	{"network-drift", drift},
	{"forwarding-off", forwardingOff},
	{"forward-policy-drop", forwardPolicy},
	{"packet-filters-mixed", mixedFilters},
	{"other-cni-rules", otherCNIs},
	{"xtables-lock", xtablesLock},
	{"conntrack-full", conntrackFull},
	{"neighbours-full", neighboursFull},
	{"mtu", mtu},
	{"conflist-missing", conflistMissing},
	{"conflist-order", conflistOrder},
	{"plugin-missing", pluginMissing},
	{"plugin-version", pluginVersion},
}

// diagnose returns what is wrong according to the facts.
func diagnose(f *facts) []finding {
	all := []finding{}
	for _, c := range checks {
		for _, x := range c.run(f) {
			x.ID = c.id
			all = append(all, x)
		}
	}
	cfg := preflight.Config{HostLinkPrefix: f.Host.HostLinkPrefix, Keep: preflight.DefaultRouteLinks(f.files), Iptables: f.Host.Iptables}
	for _, p := range preflight.Check(f.files, cfg) {
		if p.Severity != preflight.Info { // vpcctl preflight prints information
			all = append(all, finding{p.ID, p.Severity, p.What, append([]string{p.Why}, prefixed("/", p.Paths)...), p.Do})
		}
	}
	return all
}

func prefixed(prefix string, list []string) (out []string) {
	for _, s := range list {
		out = append(out, prefix+s)
	}
	return out
}

// found returns a finding as the result of a check.
func found(s preflight.Severity, what, do string, evidence ...string) []finding {
	return []finding{{Severity: s, What: what, Evidence: evidence, Do: do}}
}

// node holds the flags that select a node and what of it is read.
type node struct {
	source
	netns, root string
	ec2         bool
}

func (n *node) register(fs *flag.FlagSet) {
	n.registerLive(fs)
	fs.StringVar(&n.netns, "netns", "", "`path` of the node's network namespace; empty means the current one")
	fs.StringVar(&n.root, "root", "/", "root `directory` of the system, such as the node's as mounted in a container")
	fs.BoolVar(&n.ec2, "ec2", true, "ask EC2 and the instance metadata service; -ec2=false asks neither")
}

// facts reads the facts of this node or of a bundle.
func (n *node) facts(ctx context.Context) (*facts, error) {
	if n.bundle != "" {
		return loadBundle(n.bundle)
	}
	return n.gather(ctx)
}

// gather reads the facts of this node. What cannot be read is a fact, too.
func (n *node) gather(ctx context.Context) (*facts, error) {
	a, err := n.source.live(ctx)
	if err != nil {
		return nil, err
	}
	getenv := os.Getenv
	if a.Answers != nil {
		getenv = func(name string) string { return a.Answers.Settings[name] }
	}
	set, err := settings.Parse(nil, getenv, io.Discard)
	if err != nil {
		return nil, err
	}
	set.StateDir = a.StateDir
	f := &facts{Agent: a, Host: hostOf(ctx, set, n.root, n.netns), files: recorder{os.DirFS(n.root), fileSet{}}}
	if n.ec2 {
		f.Cloud = cloudOf(ctx)
	}
	w := where{netns: n.netns}
	if a.Answers != nil {
		w.agent = a.Where
	}
	s, err := w.observe(ctx)
	if err != nil {
		w.agent = "" // before the first observation of the ENIs the agent does not know its network
		s, err = w.observe(ctx)
	}
	if err == nil {
		f.State = &s
	} else {
		f.StateError = err.Error()
	}
	return f, nil
}

// runDoctor runs "vpcctl doctor".
func runDoctor(ctx context.Context, std stdio, args []string) error {
	fs := flag.NewFlagSet("doctor", flag.ContinueOnError)
	var n node
	n.register(fs)
	fs.StringVar(&n.bundle, "bundle", "", bundleHelp)
	out := outputFlag(fs, formatText, formatJSON, formatYAML)
	if err := parse(fs, std, args, doctorAbout); err != nil {
		return err
	}
	f, err := n.facts(ctx)
	if err != nil {
		return err
	}
	list := diagnose(f)
	if err := out.print(std.out, list, func() { printFindings(std, f, list) }); err != nil {
		return err
	}
	if len(list) > 0 {
		return errFault
	}
	return nil
}

// printFindings prints the findings for people, and which parts were not checked.
func printFindings(std stdio, f *facts, list []finding) {
	for _, x := range list {
		colour := yellow
		if x.Severity == preflight.Harm {
			colour = red
		}
		fmt.Fprintf(std.out, "%s (%s): %s\n", std.paint(colour, x.ID), x.Severity, x.What)
		if len(x.Evidence) > 0 {
			fmt.Fprintf(std.out, "  evidence: %s\n", strings.Join(x.Evidence, "\n            "))
		}
		fmt.Fprintf(std.out, "  do:       %s\n\n", x.Do)
	}
	if !f.Cloud.Asked {
		fmt.Fprintln(std.out, "Not checked: EC2 and the metadata service, because of -ec2=false.")
	}
	if f.State == nil {
		fmt.Fprintln(std.out, "Not checked: the network of the node: "+f.StateError)
	}
	if len(list) == 0 {
		fmt.Fprintln(std.out, std.paint(green, "Nothing found."))
	}
}
