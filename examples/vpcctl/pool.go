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

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/warmpool"
	"github.com/vpcnet/vpcnet/warmpool/sim"
)

// pool has the commands about warm pools.
func pool(ctx context.Context, std stdio, args []string) error {
	return dispatch(ctx, std, "vpcctl pool", []command{
		{"sim", "try policies on a simulated fleet and compare them", poolSim},
		{"plan", "read a pool as JSON and print what a policy would do, and why", poolPlan},
		{"tune", "search a policy's settings for an objective", poolTune},
	}, args)
}

// choice is a policy with a name for the reports.
type choice struct {
	label  string
	name   string
	set    map[string]string
	policy warmpool.Policy
}

// presets are what -policy presets stands for: each peer as it is commonly
// configured.
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

// prefixPresets are those that mean something else, or are missing, with prefixes.
var prefixPresets = append([]string{"aws:WARM_PREFIX_TARGET=1"}, presets[1:]...)

// choices are the policies given by flags. Settings given with -set belong to
// the policy before them.
type choices struct{ list []choice }

func (c *choices) register(fs *flag.FlagSet, help string) {
	fs.Func("policy", help+", as `NAME[:key=value,...]`; the names stand above", func(v string) error {
		name, set, err := warmpool.Parse(v)
		if err != nil {
			return err
		}
		c.list = append(c.list, choice{label: v, name: name, set: set})
		return nil
	})
	fs.Func("set", "set `key=value` of the policy before it, or of the default policy; can be repeated", func(v string) error {
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
		return fmt.Errorf("%q is not key=value", pair)
	}
	c.set[key] = value
	return nil
}

// build makes the policies, the default one if there is none.
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
		p, err := warmpool.Named(ch.name, ch.set)
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
	for name, doc := range warmpool.Names() {
		fmt.Fprintf(&b, "  %s: %s\n", name, doc)
		own := slices.DeleteFunc(warmpool.Settings(name), func(s string) bool { return strings.HasPrefix(s, "with-") })
		fmt.Fprintf(&b, "      %s\n", strings.Join(own, " "))
	}
	b.WriteString("  any of them: with-hold-down with-exhaustion-below with-headroom-max with-floor with-ceiling\n")
	return b.String()
}

// world is what the simulation is given by flags.
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
	fs.StringVar(&w.trace, "trace", "", "recorded workload instead: a `file` of time,node,add|delete[,pod] lines (.csv)\nor {\"time\",\"node\",\"op\",\"pod\"} lines (.jsonl)")
	fs.IntVar(&w.workload.Nodes, "nodes", 10, "nodes of a generated workload")
	fs.IntVar(&w.workload.Pods, "pods", 25, "usual pods a node of a generated workload")
	fs.DurationVar(&w.workload.Horizon, "for", 24*time.Hour, "length of a generated workload")
	fs.Uint64Var(&w.workload.Seed, "seed", 0, "seed of all that is random")
	fs.StringVar(&w.instanceType, "instance-type", "m5.xlarge", "whose limits each node has")
	fs.BoolVar(&w.prefixes, "prefix", false, "slots hold a /28 prefix instead of one address")
	fs.IntVar(&w.cfg.Limits.MaxPods, "max-pods", 0, "max-pods of each node (default: what AWS publishes for the type, with -prefix at most 110)")
	fs.Func("placement", "`how` a pod's address is chosen: pack or spread (default pack)", func(v string) error {
		w.cfg.Placement = sim.Placement(v)
		if w.cfg.Placement != sim.Pack && w.cfg.Placement != sim.Spread {
			return fmt.Errorf("%q is neither pack nor spread", v)
		}
		return nil
	})
	fs.DurationVar(&w.cfg.Cooldown, "cooldown", 30*time.Second, "how long a released address rests")
	fs.DurationVar(&w.cfg.Lead, "lead", 0, "how long before its ADD a bound pod is known to the agent")
	fs.DurationVar(&w.cfg.Period, "period", 0, "how often an agent looks at its pool (default: at each change)")
	fs.DurationVar(&w.cfg.EC2.Call, "ec2-call", 250*time.Millisecond, "median time of an EC2 call")
	fs.DurationVar(&w.cfg.EC2.Attach, "ec2-attach", 4*time.Second, "median time until an attached ENI is ready")
	fs.Float64Var(&w.cfg.EC2.Burst, "ec2-burst", 50, "calls of one action at once that EC2 lets the fleet make")
	fs.Float64Var(&w.cfg.EC2.Rate, "ec2-rate", 5, "and how many more a second")
	fs.IntVar(&w.cfg.Subnet.Addresses, "subnet", 1<<16, "addresses of the subnet")
	fs.Float64Var(&w.cfg.Subnet.Fragmented, "fragmented", 0, "share of the subnet's /28 blocks that others have an address in")
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
	l, ok := eni.LimitsOf(w.instanceType)
	if !ok {
		return fmt.Errorf("instance type %q is not in the table", w.instanceType)
	}
	w.cfg.Seed = w.workload.Seed
	// A zero means the default in Config, and zero to who types it.
	if w.cfg.Cooldown == 0 {
		w.cfg.Cooldown = -1
	}
	w.cfg.EC2.Call, w.cfg.EC2.Attach = max(w.cfg.EC2.Call, 1), max(w.cfg.EC2.Attach, 1)
	if w.cfg.Subnet.Addresses < eni.PrefixSize {
		return fmt.Errorf("a subnet of %d addresses is none", w.cfg.Subnet.Addresses)
	}
	limits := &w.cfg.Limits
	limits.MaxENIs, limits.SlotsPerENI, limits.AddressesPerSlot = l.Cards[l.DefaultCard], l.AddrsPerENI-1, 1
	mode := eni.PodMode{}
	if w.prefixes {
		if !l.Nitro {
			return fmt.Errorf("instance type %q has no prefixes", w.instanceType)
		}
		limits.AddressesPerSlot, mode.Prefixes, mode.Cap = eni.PrefixSize, true, 110
	}
	if limits.MaxPods == 0 {
		limits.MaxPods = eni.MaxPods(l, mode)
	}
	return nil
}

// traces are the workloads to run.
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
