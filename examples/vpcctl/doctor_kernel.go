// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/datapath/preflight"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// journalAndKernel compares the pods of the agent with the routes to them. Addresses of pods
// on links that other programs have made, or on a bridge, have no such route.
func journalAndKernel(f *facts) []finding {
	if f.State == nil || f.Agent.Answers == nil {
		return nil
	}
	var evidence []string
	for _, p := range byName(f.Agent.status().Allocations) {
		link, ok := f.State.Node.Link(p.Link)
		if !ok || link.Kind != "veth" || link.Master != "" {
			continue // an ADD or DEL may be under way
		}
		if !slices.ContainsFunc(f.State.Node.Routes, func(r netstate.Route) bool { return r.Dst == netstate.HostPrefix(p.Addr) && r.Link == p.Link }) {
			evidence = append(evidence, fmt.Sprintf("no route to %s of %s by %s", p.Addr, podName(p), p.Link))
		}
	}
	if len(evidence) == 0 {
		return nil
	}
	return found(preflight.Harm, "pods have no route: they are cut off", "the agent repairs it within a second; if it stays, another program deletes routes: run vpcctl trace for one of the pods", evidence...)
}

// drift finds rules and routes of the agent that are missing.
func drift(f *facts) []finding {
	if f.State == nil || f.State.Desired == nil {
		return nil
	}
	var evidence []string
	for _, c := range f.State.Desired.Drift(f.State.Node) {
		switch c.Item.(type) {
		case netstate.Rule, netstate.Route:
			if c.Op == netstate.OpAdd {
				evidence = append(evidence, "missing: "+c.String())
			}
		}
	}
	if len(evidence) == 0 {
		return nil
	}
	return found(preflight.Harm, "rules or routes of the agent are missing: pods send by the wrong ENI, or not at all",
		"the agent repairs it within a second; if it stays, another program deletes them: look for networkd, NetworkManager and scripts", evidence...)
}

func forwardingOff(f *facts) []finding {
	if f.State == nil || len(f.Agent.status().Allocations) == 0 {
		return nil
	}
	var evidence []string
	for _, family := range []struct {
		key string
		is6 bool
	}{{"net.ipv4.ip_forward", false}, {"net.ipv6.conf.all.forwarding", true}} {
		used := slices.ContainsFunc(byName(f.Agent.status().Allocations), func(p ipamd.PodStatus) bool { return p.Addr.Is6() == family.is6 })
		if used && f.State.Node.Sysctl(family.key) == "0" {
			evidence = append(evidence, family.key+" is 0")
		}
	}
	if len(evidence) == 0 {
		return nil
	}
	return found(preflight.Harm, "the node does not forward packets of pods", "set it to 1, and find the program or file of /etc/sysctl.d that sets it to 0", evidence...)
}

// forwardPolicy finds chains FORWARD with policy drop in either backend of iptables, and chains
// of other programs on the hook forward, unless they accept the links of pods.
func forwardPolicy(f *facts) []finding {
	if f.State == nil {
		return nil
	}
	var evidence []string
	for _, c := range f.State.Filters {
		if c.Drops && strings.Contains(strings.ToLower(c.Chain), "forward") && !f.acceptsPods(c.Family, strings.HasPrefix(c.Table, "iptables-legacy")) {
			evidence = append(evidence, "chain "+c.String())
		}
	}
	if len(evidence) == 0 {
		return nil
	}
	return found(preflight.Harm, "a packet filter drops what the node forwards: packets between pods, out of the node and to node ports",
		fmt.Sprintf("accept the links of pods: iptables -I FORWARD -i %[1]s+ -j ACCEPT and iptables -I FORWARD -o %[1]s+ -j ACCEPT, in DOCKER-USER if Docker made the chain; with ufw run ufw route allow in on %[1]s+ and out on %[1]s+", f.prefix()), evidence...)
}

func (f *facts) prefix() string {
	if f.Host.HostLinkPrefix == "" {
		return "eni"
	}
	return f.Host.HostLinkPrefix
}

// acceptsPods reports whether rules of the backend accept packets from and to the links of
// pods in a family.
func (f *facts) acceptsPods(family string, legacy bool) bool {
	text, in, out := tablesOf(f.Host.Nft, "table "+family+" "), `iifname "`+f.prefix()+`*"`, `oifname "`+f.prefix()+`*"`
	if legacy {
		text, in, out = f.Host.Legacy, "-i "+f.prefix()+"+ ", "-o "+f.prefix()+"+ "
	}
	accepts := func(match string) bool {
		for line := range strings.Lines(text) {
			if strings.Contains(line, match) && (strings.Contains(line, "accept") || strings.Contains(line, "-j ACCEPT")) {
				return true
			}
		}
		return false
	}
	return accepts(in) && accepts(out)
}

// tablesOf returns the tables of an nft ruleset that begin with a text.
func tablesOf(ruleset, begin string) string {
	var b strings.Builder
	inside := false
	for line := range strings.Lines(ruleset) {
		if strings.HasPrefix(line, "table ") {
			inside = strings.HasPrefix(line, begin)
		}
		if inside {
			b.WriteString(line)
		}
	}
	return b.String()
}

// iptablesRule matches a rule of iptables-nft in the notation of nft.
var iptablesRule = regexp.MustCompile(`(?m)^\s+.*\bcounter packets \d+ bytes \d+`)

// mixedFilters finds rules of both backends of iptables.
func mixedFilters(f *facts) []finding {
	nftTables := tablesOf(f.Host.Nft, "table ip filter") + tablesOf(f.Host.Nft, "table ip nat") + tablesOf(f.Host.Nft, "table ip mangle")
	legacy := 0
	for line := range strings.Lines(f.Host.Legacy) {
		if strings.HasPrefix(line, "-A ") {
			legacy++
		}
	}
	n := len(iptablesRule.FindAllString(nftTables, -1))
	if n == 0 || legacy == 0 {
		return nil
	}
	return found(preflight.Risk, "both backends of iptables have rules: packets pass both, and rules of one program may be in the wrong one",
		"let all programs use one backend (update-alternatives --set iptables), and flush the other with iptables-legacy -F or iptables-nft -F",
		fmt.Sprintf("iptables-legacy has %d rules, and iptables-nft has %d", legacy, n))
}

// otherChains are beginnings of the names of chains of other CNI plugins.
var otherChains = regexp.MustCompile(`(AWS-SNAT-CHAIN-\d+|AWS-CONNMARK-CHAIN-\d+|cali-[A-Za-z0-9_-]+|CILIUM_[A-Z0-9_]+|FLANNEL-[A-Z]+|WEAVE[A-Z0-9-]*|ANTREA-[A-Z0-9-]+)`)

// otherCNIs finds rules that other CNI plugins left behind.
func otherCNIs(f *facts) []finding {
	chains := map[string]bool{}
	for _, name := range otherChains.FindAllString(f.Host.Nft+f.Host.Legacy, -1) {
		chains[name] = true
	}
	if len(chains) == 0 {
		return nil
	}
	var evidence []string
	for name := range chains {
		evidence = append(evidence, "chain "+name)
	}
	slices.Sort(evidence)
	return found(preflight.Risk, "rules of another CNI plugin are left: they may translate or drop packets of pods",
		"if that plugin does not run any more, delete its chains, or reboot; ipamd adopt takes a node over from amazon-vpc-cni-k8s", evidence...)
}

func xtablesLock(f *facts) []finding {
	if !f.Host.XtablesLock {
		return nil
	}
	return found(preflight.Risk, "a program holds the lock of iptables: kube-proxy and programs with iptables wait for it",
		"find the program with fuser /run/xtables.lock", "the lock /run/xtables.lock was held for more than "+lockPatience.String())
}

// number returns the number in a file.
func (f *facts) number(name string) (int, bool) {
	text, err := fs.ReadFile(f.files, name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	return n, err == nil
}

func conntrackFull(f *facts) []finding {
	const dir = "proc/sys/net/netfilter/"
	n, ok := f.number(dir + "nf_conntrack_count")
	limit, known := f.number(dir + "nf_conntrack_max")
	if !ok || !known || limit == 0 || n*10 < limit*9 {
		return nil
	}
	return found(preflight.Harm, "the table of connections is nearly full: the kernel then drops packets of new connections",
		"raise net.netfilter.nf_conntrack_max, and look for the pod with most connections with conntrack -L", fmt.Sprintf("%d of %d connections", n, limit))
}

func neighboursFull(f *facts) []finding {
	hard, ok := f.number("proc/sys/net/ipv4/neigh/default/gc_thresh3")
	table, err := fs.ReadFile(f.files, "proc/net/arp")
	n := strings.Count(string(table), "\n") - 1 // without the title
	if !ok || err != nil || n*10 < hard*8 {
		return nil
	}
	return found(preflight.Risk, "the table of neighbours is nearly full: the kernel then drops packets to new peers, and its log says table overflow",
		fmt.Sprintf("set net.ipv4.neigh.default.gc_thresh2 to %d and gc_thresh3 to %d", 2*hard, 4*hard), fmt.Sprintf("%d entries, and gc_thresh3 is %d", n, hard))
}

// mtu finds ENIs with a smaller MTU than the links of pods.
func mtu(f *facts) []finding {
	if f.State == nil {
		return nil
	}
	largest, pod := 0, ""
	for _, l := range f.State.Node.Links {
		if strings.HasPrefix(l.Name, f.prefix()) && l.Kind == "veth" && l.MTU > largest {
			largest, pod = l.MTU, l.Name
		}
	}
	var evidence []string
	for _, e := range f.Agent.status().ENIs {
		for _, l := range f.State.Node.Links {
			if e.MAC != "" && l.MAC == e.MAC && !strings.HasPrefix(l.Name, f.prefix()) && l.MTU < largest {
				evidence = append(evidence, fmt.Sprintf("%s (%s) has MTU %d, and %s has %d", l.Name, e.ID, l.MTU, pod, largest))
			}
		}
	}
	if len(evidence) == 0 {
		return nil
	}
	return found(preflight.Risk, "pods send larger packets than an ENI carries: large packets are lost if ICMP is blocked", "set AWS_VPC_ENI_MTU or POD_MTU to what all ENIs carry, and make pods anew", evidence...)
}
