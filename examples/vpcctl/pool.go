// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/eni/instancetype"
	"github.com/vpcnet/vpcnet/warmpool"
	"github.com/vpcnet/vpcnet/warmpool/sim"
)

var poolCommands = []command{
	{"sim", "simulate policies on a fleet and compare them", poolSim},
	{"plan", "read a pool as JSON and print what a policy would do, and why", poolPlan},
	{"tune", "search the settings of a policy for an objective", poolTune},
}

// pool runs "vpcctl pool".
func pool(ctx context.Context, std stdio, args []string) error {
	return dispatch(ctx, std, "vpcctl pool", poolCommands, args)
}

// choice is a policy with its label in reports.
type choice struct {
	label  string
	name   string
	set    map[string]string
	policy warmpool.Policy
}

// presets is the list of -policy presets: policies of other CNI plugins with common
// settings.
var presets = []string{
	"aws:WARM_ENI_TARGET=1",
	"aws:WARM_IP_TARGET=2",
	"aws:WARM_IP_TARGET=5,MINIMUM_IP_TARGET=10",
	"cilium",
	"cilium:release=true",
	"azure-v1",
	"azure-v2",
	"terway:max-idle=5",
	"terway:min-idle=5,max-idle=10",
	"resource-controller",
}

// prefixPresets are the presets for prefixes, which have another ENI target.
var prefixPresets = append([]string{"aws:WARM_PREFIX_TARGET=1"}, presets[1:]...)

// choices holds the policies given by flags. A -set flag applies to the policy of the
// -policy flag before it.
type choices struct{ list []choice }

func (c *choices) register(fs *flag.FlagSet, help string) {
	fs.Func("policy", help+", as `NAME[:key=value,...]`; see the names above", func(v string) error {
		name, set, err := warmpool.ParsePolicy(v)
		if err != nil {
			return err
		}
		c.list = append(c.list, choice{label: v, name: name, set: set})
		return nil
	})
	fs.Func("set", "`key=value` for the preceding -policy, or for the default policy; can be repeated", func(v string) error {
		if len(c.list) == 0 {
			c.list = append(c.list, choice{label: "band", name: "band", set: map[string]string{}})
		}
		last := &c.list[len(c.list)-1]
		separator := ","
		if !strings.Contains(last.label, ":") {
			separator = ":"
		}
		last.label += separator + v
		return last.add(v)
	})
}

func (c *choice) add(pair string) error {
	key, value, ok := strings.Cut(pair, "=")
	if !ok {
		return fmt.Errorf("%q is not of the form key=value", pair)
	}
	c.set[key] = value
	return nil
}

// build returns the policies, or the default policy if there are none.
func (c *choices) build(prefixes bool) ([]choice, error) {
	if len(c.list) == 0 {
		c.list = []choice{{label: "band", name: "band"}}
	}
	var out []choice
	for _, ch := range c.list {
		if ch.name == "presets" {
			all, err := presetChoices(prefixes)
			if err != nil {
				return nil, err
			}
			out = append(out, all...)
			continue
		}
		p, err := warmpool.PolicyByName(ch.name, ch.set)
		if err != nil {
			return nil, err
		}
		ch.policy = p
		out = append(out, ch)
	}
	return out, nil
}

func presetChoices(prefixes bool) ([]choice, error) {
	list := presets
	if prefixes {
		list = prefixPresets
	}
	var c choices
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	c.register(fs, "")
	for _, v := range list {
		if err := fs.Set("policy", v); err != nil {
			return nil, err
		}
	}
	return c.build(prefixes)
}

// policyHelp lists the policies and their settings.
func policyHelp() string {
	var b strings.Builder
	b.WriteString("Policies and their settings:\n")
	for name, doc := range warmpool.PolicyNames() {
		fmt.Fprintf(&b, "  %s: %s\n", name, doc)
		own := slices.DeleteFunc(warmpool.PolicySettings(name), func(s string) bool { return strings.HasPrefix(s, "with-") })
		fmt.Fprintf(&b, "      %s\n", strings.Join(own, " "))
	}
	b.WriteString("  all policies: with-hold-down with-exhaustion-below with-headroom-max with-floor with-ceiling\n")
	return b.String()
}

// world holds the flags of the simulation.
type world struct {
	cfg          sim.Config
	instanceType string
	prefixes     bool
	shapes       string
	trace        string
	workload     sim.Workload
}

func (w *world) register(fs *flag.FlagSet, shape string) {
	var shapes strings.Builder
	for name, doc := range sim.Shapes() {
		fmt.Fprintf(&shapes, "\n%8s  %s", name, doc)
	}
	fs.StringVar(&w.shapes, "shape", shape, "generated `workloads`, comma-separated, or all:"+shapes.String()+"\n")
	fs.StringVar(&w.trace, "trace", "", "use a recorded workload: a `file` of time,node,add|delete[,pod] lines (.csv)\nor {\"time\",\"node\",\"op\",\"pod\"} lines (.jsonl)")
	fs.IntVar(&w.workload.Nodes, "nodes", 10, "nodes of a generated workload")
	fs.IntVar(&w.workload.Pods, "pods", 25, "usual pods per node of a generated workload")
	fs.DurationVar(&w.workload.Horizon, "for", 24*time.Hour, "length of a generated workload")
	fs.Uint64Var(&w.workload.Seed, "seed", 0, "seed of the random numbers")
	fs.StringVar(&w.instanceType, "instance-type", "m5.xlarge", "instance type of each node, for its limits")
	fs.BoolVar(&w.prefixes, "prefix", false, "slots hold a /28 prefix instead of one address")
	fs.IntVar(&w.cfg.Limits.MaxPods, "max-pods", 0, "max-pods of each node (default: the number that AWS publishes for the type, with -prefix at most 110)")
	fs.Func("placement", "`choice` of the address of a pod: pack or spread (default pack)", func(v string) error {
		w.cfg.AddressChoice = sim.AddressChoice(v)
		if w.cfg.AddressChoice != sim.Pack && w.cfg.AddressChoice != sim.Spread {
			return fmt.Errorf("%q, want pack or spread", v)
		}
		return nil
	})
	fs.DurationVar(&w.cfg.Cooldown, "cooldown", 30*time.Second, "time until a released address is allocated again")
	fs.DurationVar(&w.cfg.Lead, "lead", 0, "time between the binding of a pod, when the agent learns of it, and its ADD")
	fs.DurationVar(&w.cfg.Period, "period", 0, "time between two decisions of an agent (default: decide at each change)")
	fs.DurationVar(&w.cfg.EC2.Call, "ec2-call", 250*time.Millisecond, "median time of an EC2 call")
	fs.DurationVar(&w.cfg.EC2.Attach, "ec2-attach", 4*time.Second, "median time until an attached ENI is ready")
	fs.Float64Var(&w.cfg.EC2.Burst, "ec2-burst", 50, "calls of one action that EC2 accepts from the fleet at once")
	fs.Float64Var(&w.cfg.EC2.Rate, "ec2-rate", 5, "calls of one action that EC2 accepts from the fleet per second")
	fs.IntVar(&w.cfg.Subnet.Addresses, "subnet", 1<<16, "addresses of the subnet")
	fs.Float64Var(&w.cfg.Subnet.Fragmented, "fragmented", 0, "share of the /28 blocks of the subnet in which its other users have an address")
}

// ready checks the flags and fills in the limits.
func (w *world) ready() error {
	for _, f := range []struct {
		name string
		ok   bool
		want string
	}{
		{"nodes", w.workload.Nodes > 0, "1 or more"},
		{"pods", w.workload.Pods > 0, "1 or more"},
		{"for", w.workload.Horizon > 0, "more than 0"},
		{"max-pods", w.cfg.Limits.MaxPods >= 0, "0 or more"},
		{"cooldown", w.cfg.Cooldown >= 0, "0 or more"},
		{"ec2-burst", w.cfg.EC2.Burst > 0, "more than 0"},
		{"ec2-rate", w.cfg.EC2.Rate > 0, "more than 0"},
		{"fragmented", w.cfg.Subnet.Fragmented >= 0 && w.cfg.Subnet.Fragmented <= 1, "a share from 0 to 1"},
	} {
		if !f.ok {
			return fmt.Errorf("-%s: want %s", f.name, f.want)
		}
	}
	l, ok := instancetype.Lookup(w.instanceType)
	if !ok {
		return fmt.Errorf("instance type %q is not in the built-in table", w.instanceType)
	}
	w.cfg.Seed = w.workload.Seed
	// A zero in Config means the default, but a zero in a flag means zero.
	if w.cfg.Cooldown == 0 {
		w.cfg.Cooldown = -1
	}
	w.cfg.EC2.Call, w.cfg.EC2.Attach = max(w.cfg.EC2.Call, 1), max(w.cfg.EC2.Attach, 1)
	if w.cfg.Subnet.Addresses < instancetype.PrefixSize {
		return fmt.Errorf("-subnet %d: want %d or more", w.cfg.Subnet.Addresses, instancetype.PrefixSize)
	}
	limits := &w.cfg.Limits
	limits.MaxENIs, limits.SlotsPerENI, limits.AddressesPerSlot = l.Cards[l.DefaultCard], l.AddrsPerENI-1, 1
	mode := instancetype.PodMode{}
	if w.prefixes {
		if !l.Nitro {
			return fmt.Errorf("instance type %q does not support prefixes", w.instanceType)
		}
		limits.AddressesPerSlot, mode.Prefixes, mode.Cap = instancetype.PrefixSize, true, 110
	}
	if limits.MaxPods == 0 {
		limits.MaxPods = l.MaxPods(mode)
	}
	return nil
}

// traces returns the workloads to run.
func (w *world) traces() ([]sim.Trace, error) {
	if w.trace != "" {
		t, err := readTrace(w.trace)
		return []sim.Trace{t}, err
	}
	names := strings.Split(w.shapes, ",")
	if w.shapes == "all" {
		names = nil
		for name := range sim.Shapes() {
			names = append(names, name)
		}
	}
	var out []sim.Trace
	for _, name := range names {
		load := w.workload
		load.Shape = name
		t, err := load.Trace()
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

func readTrace(path string) (sim.Trace, error) {
	f, err := os.Open(path)
	if err != nil {
		return sim.Trace{}, err
	}
	defer f.Close()
	read := sim.ReadCSV
	switch filepath.Ext(path) {
	case ".jsonl", ".ndjson", ".json":
		read = sim.ReadJSONLines
	}
	t, err := read(f)
	if err != nil {
		return sim.Trace{}, fmt.Errorf("%s: %w", path, err)
	}
	t.Name = strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	return t, nil
}
