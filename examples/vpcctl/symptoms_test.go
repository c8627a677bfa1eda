// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/datapath/trace"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/ipam/ipamd/introspect"
)

var update = flag.Bool("update", false, "rewrite docs/troubleshooting.md")

// symptom is what users of pod networks in a VPC ask support about.
type symptom struct {
	text string
	// command is the command that shows the cause, and shows is the text by which it does. The
	// command runs on a bundle of a node with the fault that plant makes. If plant is nil, the node
	// of the pod does not show it: command is then a command for another place, or empty.
	command string
	plant   func(*facts)
	shows   string
	cause   string
}

// symptoms are the support questions of other plugins' users, most severe first.
var symptoms = []symptom{
	{"a pod runs, but nothing reaches it, after a restart of the agent or the node", "doctor", func(f *facts) { f.Cloud.Inventory.ENIs[1].Prefixes = nil },
		"journal-ec2-apart", "the address is not on the ENI any more"},
	{"packets of a pod leave by the wrong interface", "trace default/web-0 10.0.3.4", func(f *facts) { f.State.Node.Filter.Sources = nil },
		"FAULT wrong-eni", "another program changed rules, routes or marks; `doctor` names networkd, NetworkManager and cloud-init"},
	{"`failed to assign an IP address to container`", "explain failure", func(f *facts) { f.status().Reason = ipam.ReasonSubnetFull },
		"subnet-full: the subnet has no free address", "the reason, its evidence and what EC2 said"},
	{"the subnet runs out although most addresses are idle", "status", func(f *facts) { f.status().Decisions = []string{"card 0: want 15 spare"} },
		"16 addresses: 1 used, 0 cooling, 15 free", "the pool, and the decision of the warm pool policy; `pool sim` and `pool tune` compare policies"},
	{"new pods wait for minutes while nodes scale out", "doctor", func(f *facts) { f.fails("AttachNetworkInterface", "RequestLimitExceeded") },
		"throttled", "EC2 throttles the account"},
	{"node ports or load balancers reach some pods only", "doctor", func(f *facts) { f.file("proc/sys/net/ipv4/conf/ens5/rp_filter", "1\n") },
		"rp-filter", "a strict reverse path filter"},
	{"no prefixes although the subnet has free addresses", "doctor", func(f *facts) { f.fails("AssignPrivateIpAddresses", "InsufficientCidrBlocks") },
		"no-free-prefix", "the subnet is fragmented"},
	{"the agent does not become ready", "status", func(f *facts) {
		f.status().Ready, f.status().Reason, f.status().Evidence = false, ipam.ReasonAgentStarting, "EC2 does not answer"
	}, "blocker    agent-starting: EC2 does not answer", "what the agent waits for; it never waits for Kubernetes"},
	{"the agent restarts again and again", "doctor", func(f *facts) {
		f.Agent.Answers, f.Agent.Error, f.Agent.Stored = nil, "connection refused", &ipamd.Stored{}
	},
		"agent-down", "the agent does not answer; the end of its log says why"},
	{"ENIs without an instance fill the subnet, or block the deletion of a security group", "sweep -dry-run -vpc ID", nil, "", "ENIs that dead nodes left behind"},
	{"the node is ready, but its first pods fail", "doctor", func(f *facts) { f.file("etc/cni/net.d/05-other.conflist", "{}") },
		"conflist-order", "runtimes use the configuration of another program"},
	{"pods fail when many start at once", "explain failure", func(f *facts) {
		f.status().Reason, f.status().InFlight = ipam.ReasonRefilling, []string{"assign eni-b 2 slots"}
	}, "The agent does this now: assign eni-b 2 slots", "the refill that is under way"},
	{"the scheduler puts more pods on a node than it has addresses", "max-pods -instance-type m5.large", func(*facts) {}, "max-pods              29", "how many pods the type can run"},
	{"connections out of the VPC time out now and then", "doctor", func(f *facts) { f.file("proc/sys/net/netfilter/nf_conntrack_count", "990\n") },
		"conntrack-full", "the kernel's table of connections is nearly full"},
	{"pods stay in the state Terminating", "doctor", func(f *facts) { delete(f.files.(fileSet), "opt/cni/bin/vpc-cni") },
		"plugin-missing", "the runtime cannot run the plugin; DEL does not need the agent"},
	{"a new pod with an old address is not reachable", "doctor", func(f *facts) {
		for i, r := range f.State.Node.Routes {
			if strings.HasPrefix(r.Link, "eni") {
				f.State.Node.Routes[i].Link = "eni0"
			}
		}
	}, "journal-kernel-apart", "the route leads to another link"},
	{"a pod does not reach its gateway on a newer distribution", "doctor", func(f *facts) {
		f.file("usr/lib/systemd/network/99-default.link", "[Match]\nOriginalName=*\n[Link]\nMACAddressPolicy=persistent\n")
	}, "udev-mac", "udev changes MAC addresses of links"},
	{"a new pod receives packets of an old one", "explain pod 10.0.0.9", func(f *facts) {
		f.status().ENIs[1].Blocks = append(f.status().ENIs[1].Blocks, ipamd.BlockStatus{Prefix: netip.MustParsePrefix("10.0.0.9/32"), Cooling: 1})
	}, "0 used, 1 cooling, 0 free", "whether the address rests, and since when pods have it"},
	{"the pool is full with few pods", "events", func(f *facts) {
		f.status().Events = []agent.Event{{At: noon, Kind: agent.EventReclaimed, Text: "10.0.0.114 released: the sandbox has ended without a DEL"}}
	}, "sandbox-reclaimed", "addresses of sandboxes that ended without a DEL, and quarantined ones"},
	{"pods on second ENIs do not reach services with kube-proxy in nftables mode", "doctor", func(f *facts) {
		f.Host.Iptables = true
		f.file("usr/sbin/iptables-nft", "")
	}, "iptables-backend", "the agent translates with iptables"},
	{"rules have no effect, or packets are dropped by rules that are not shown", "doctor", func(f *facts) {
		f.Host.Nft, f.Host.Legacy = iptablesForward, "*filter\n-A FORWARD -j DROP\nCOMMIT\n"
	}, "packet-filters-mixed", "both backends of iptables have rules"},
	{"services come late, or the start takes minutes", "doctor", func(f *facts) { f.Host.XtablesLock = true }, "xtables-lock", "a program holds the lock of iptables"},
	{"pods get addresses of an ENI that does not work", "explain eni eni-b", func(f *facts) { f.status().ENIs[1].Ready = false },
		"are not verified", "no pod gets an address before the link of its ENI is verified"},
	{"pods fail during an upgrade of the agent", "doctor", func(f *facts) { f.Host.Versions["vpc-cni"] = introspect.Version{Version: "v1.0.0"} },
		"plugin-version", "plugins are of another version than the agent"},
	{"ENIs are created and deleted again and again", "explain failure", func(f *facts) {
		f.status().Reason = ipam.ReasonENILimit
		f.Agent.Answers.Failed = []introspect.Call{{At: noon, Action: "AttachNetworkInterface", Code: "AttachmentLimitExceeded"}}
	}, "EC2 answered AttachmentLimitExceeded to AttachNetworkInterface", "the limit of the instance, as EC2 has it"},
	{"an ENI of another program is not used, or must not be", "explain failure", func(f *facts) {
		f.status().Reason = ipam.ReasonNotManaged
	}, "the ENI is not the agent's", "which ENIs the agent may change"},
	{"the cleaner must not delete ENIs of another cluster", "sweep -dry-run -vpc ID -cluster NAME", nil, "", "what would be deleted, and why the others are kept"},
	{"idle prefixes and ENIs are not given back", "explain eni eni-b", func(*facts) {}, "kept because of its pods: default/web-0", "the pods that keep the ENI"},
	{"a new instance type is not known", "max-pods -instance-type TYPE", nil, "", "its limits from the table, from EC2, or safe defaults"},
	{"the agent stays with a subnet that is full", "doctor", func(f *facts) { f.Cloud.FreeAddrs["subnet-1"] = 1 }, "subnet-nearly-full", "the free addresses of each subnet"},
	{"there is no reason in the events of the pod", "doctor", func(f *facts) { f.fails("CreateNetworkInterface", "UnauthorizedOperation") },
		"ec2:CreateNetworkInterface answered UnauthorizedOperation", "the action that the IAM role lacks"},
	{"nothing warned before the addresses ran out", "status", func(f *facts) { f.status().ENIs[1].Blocks[0].Free = 1 },
		"1 free", "the pool now; the metrics `vpcnet_*` warn earlier"},
	{"traffic to a peered network has the address of the node", "trace default/web-0 172.16.0.1", func(*facts) {},
		"translates the source to 10.0.0.10", "whether and where the source is translated"},
	{"ENIs have the wrong security groups", "", nil, "", "`aws ec2 describe-network-interfaces`; the agent corrects the groups when it starts and after a change of settings"},
	{"pods lack an address of one family", "explain failure", func(f *facts) { f.status().Reason = ipam.ReasonNoBlocks },
		"no addresses of that family", "the pool has none of that family"},
	{"large packets are lost", "doctor", func(f *facts) {
		for i, l := range f.State.Node.Links {
			if l.MAC == "06:00:00:00:00:06" {
				f.State.Node.Links[i].MTU = 1500
			}
		}
	}, "mtu", "an ENI has a smaller MTU than pods"},
	{"pods with security groups of their own wait", "explain pod default/web-1", func(f *facts) {
		f.Agent.Answers.Waiting = []introspect.Waiting{{Namespace: "default", Pod: "web-1", Since: noon.Add(-time.Minute)}}
		f.Agent.Answers.Intents = []eni.Intent{{Op: eni.OpProvision, ENI: "eni-c", Start: noon.Add(-time.Minute)}}
	}, "An operation is not finished: provision eni-c, since 1m", "what the pod waits for, and since when"},
	{"a network policy drops packets, or comes late", "explain pod default/web-0", func(f *facts) { f.status().Allocations[0].Class = "web" },
		"class web", "the class of the pod; `policy` shows what it allows"},
	{"host ports or bandwidth limits do not work", "doctor", func(f *facts) {
		f.file("etc/cni/net.d/10-vpcnet.conflist", `{"plugins":[{"type":"vpc-cni"},{"type":"portmap"}]}`)
	}, "portmap does not exist", "a plugin of the chain is missing"},
	{"the memory of the agent grows", "", nil, "", "the metric `process_resident_memory_bytes`; the agent watches only its own node"},
	{"a port of the node is taken", "", nil, "", "the agent logs `another process listens on the address` and serves pods without that port"},
	{"packets to some nodes are lost in a large VPC", "doctor", func(f *facts) { f.file("proc/net/arp", "title\n"+strings.Repeat("a\n", 9)) },
		"neighbours-full", "the kernel's table of neighbours is nearly full"},
	// Further ones.
	{"pods reach neither each other nor the internet after Docker or ufw was installed", "doctor", func(f *facts) {
		f.Host.Nft, f.State.Filters = iptablesForward, dropping
	}, "forward-policy-drop", "a chain FORWARD with policy drop, in either backend of iptables"},
	{"calls to EC2 fail although the role is right", "doctor", func(f *facts) { f.Cloud.Skew = 10 * time.Minute }, "clock", "the clock of the node is wrong"},
	{"no pods start, and the log says that the journal cannot be written", "doctor", func(f *facts) { f.Host.Disk.Free = 0 }, "state-dir-full", "the disk of the state directory is full"},
}

// TestSymptoms plants each symptom, writes a bundle, and checks that the command shows it.
func TestSymptoms(t *testing.T) {
	const least = 42 // the support questions that the table began with
	onNode := 0
	for _, s := range symptoms {
		if s.plant == nil {
			continue
		}
		onNode++
		f := healthy(t)
		s.plant(f)
		f.files = recorder{f.files, fileSet{}}
		file, _ := bundleOf(t, f)
		args := strings.Fields(s.command)
		if args[0] != "max-pods" {
			args = append(args, "-bundle", file)
		}
		_, out, stderr := vpcctl(t, args...)
		if !strings.Contains(out, s.shows) {
			t.Errorf("%s: %v does not show %q:\n%s%s", s.text, args, s.shows, out, stderr)
		}
	}
	if len(symptoms) < least || onNode < 36 {
		t.Errorf("%d symptoms, %d of them on a node", len(symptoms), onNode)
	}
}

// dropping is a chain FORWARD of iptables-nft with policy drop.
var dropping = []trace.OtherChain{{Family: "ip", Table: "filter", Chain: "FORWARD", Drops: true}}

const troubleshootingDoc = `# Troubleshooting by symptom

` + "`go test ./examples/vpcctl -run TestTroubleshooting -update`" + ` writes this page from the table of a test, which plants each of these faults
and runs the command. The commands are those of ` + "`vpcctl`" + `; run them on the node, or with ` + "`-bundle FILE`" + ` on the archive that
` + "`vpcctl bundle`" + ` wrote there. Start with the first two:

    vpcctl status    # the agent, its pool, and what it waits for
    vpcctl doctor    # what is wrong, each with evidence and remedy

| symptom | vpcctl … | what it shows |
|---|---|---|
`

// TestTroubleshooting compares docs/troubleshooting.md with the table.
func TestTroubleshooting(t *testing.T) {
	var b strings.Builder
	b.WriteString(troubleshootingDoc)
	for _, s := range symptoms {
		command := "none"
		if s.command != "" {
			command = "`" + strings.NewReplacer("default/web-0", "NAMESPACE/NAME", "default/web-1", "NAMESPACE/NAME", "10.0.0.9", "ADDRESS", "10.0.3.4", "ADDRESS",
				"172.16.0.1", "ADDRESS", "eni-b", "ID", "m5.large", "TYPE").Replace(s.command) + "`"
		}
		what := s.cause
		if s.plant != nil && s.command == "doctor" && !strings.Contains(s.shows, " ") {
			what = "`" + s.shows + "`: " + what
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", s.text, command, what)
	}
	b.WriteString("\n## What doctor finds\n\nBeside these, `doctor` reports what `vpcctl preflight` finds, except for mere information.\n\n")
	for _, c := range checks {
		fmt.Fprintf(&b, "- `%s`\n", c.id)
	}
	golden := filepath.Join("..", "..", "docs", "troubleshooting.md")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("%s (-want +got), rewrite with -update:\n%s", golden, diff)
	}
}
