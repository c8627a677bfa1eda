// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/datapath/trace"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/ipam/ipamd/introspect"
)

// healthy returns the facts of a node with a pod on which nothing is wrong.
func healthy(t *testing.T) *facts {
	t.Helper()
	s, err := load(savedNode(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	s.Desired = &datapath.Desired{Node: s.Desired.Node}
	link := ""
	for i, l := range s.Node.Links {
		if l.Kind == "veth" {
			link = l.Name
			s.Node.Links[i].MTU = 9001
		}
		if l.MAC == "06:00:00:00:00:06" {
			s.Node.Links[i].MTU = 9001
		}
	}
	block := netip.MustParsePrefix("10.0.0.112/28")
	answers := introspect.Answers{
		Status: ipamd.Status{
			Ready: true, Free: 15, Network: ipamd.NetworkStatus{Layout: "flat"},
			ENIs: []ipamd.ENIStatus{
				{ID: "eni-a", MAC: "06:00:00:00:00:05", Ready: true},
				{ID: "eni-b", MAC: "06:00:00:00:00:06", Device: 1, Ready: true, Blocks: []ipamd.BlockStatus{{Prefix: block, Used: 1, Free: 15}}},
			},
			Allocations: []ipamd.PodStatus{{Addr: s.Pods[0].Addr, ENI: "eni-b", Namespace: "default", Pod: "web-0", Link: link, At: noon}},
		},
		Calls:   []introspect.Call{{At: noon, Action: "AssignPrivateIpAddresses", Code: "RequestLimitExceeded"}, {At: noon, Action: "AssignPrivateIpAddresses"}},
		Version: introspect.Version{Version: "v1.2.0"},
	}
	return &facts{
		Agent: agentFacts{At: noon, Where: "unix:/run/vpcnet/status.sock", Answers: &answers, StateDir: "/var/lib/vpcnet"},
		State: &s,
		Host: hostFacts{
			StateDir: "/var/lib/vpcnet", Conflist: "/etc/cni/net.d/10-vpcnet.conflist", PluginDir: "/opt/cni/bin", HostLinkPrefix: "eni",
			Disk: disk{Free: 1 << 30, Total: 1 << 33, FreeFiles: 1 << 20, Files: 1 << 21}, Versions: map[string]introspect.Version{"vpc-cni": {Version: "v1.2.0"}},
		},
		Cloud: cloudFacts{
			Asked: true, FreeAddrs: map[string]int{"subnet-1": 200},
			Inventory: eni.Inventory{ENIs: []eni.ENI{{ID: "eni-a"}, {ID: "eni-b", Prefixes: []netip.Prefix{block}}}},
		},
		files: fileSet{
			"etc/cni/net.d/10-vpcnet.conflist": []byte(`{"name":"vpcnet","plugins":[{"type":"vpc-cni"}]}`), "opt/cni/bin/vpc-cni": nil,
			"proc/sys/net/netfilter/nf_conntrack_count": []byte("10\n"), "proc/sys/net/netfilter/nf_conntrack_max": []byte("1000\n"),
			"proc/sys/net/ipv4/neigh/default/gc_thresh3": []byte("10\n"), "proc/net/arp": []byte("title\na\n"),
			"proc/sys/net/ipv4/conf/ens5/rp_filter": []byte("2\n"),
		},
	}
}

// iptablesForward is a ruleset of nftables as iptables-nft makes it.
const iptablesForward = "table ip filter {\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t\tcounter packets 1 bytes 2 jump DOCKER-USER\n\t}\n}\n"

const acceptsPods = "table ip filter {\n\tchain DOCKER-USER {\n\t\tiifname \"eni*\" counter packets 0 bytes 0 accept\n\t\toifname \"eni*\" counter packets 0 bytes 0 accept\n\t}\n}\n"

// planted are faults of a node, and the names of what doctor finds.
var planted = []struct {
	name  string
	plant func(*facts)
	want  string
}{
	{"nothing", func(*facts) {}, ""},
	{"agent down", func(f *facts) {
		f.Agent.Answers, f.Agent.Error, f.Agent.Stored = nil, "connection refused", &ipamd.Stored{}
	}, "agent-down"},
	{"agent down, journal damaged", func(f *facts) {
		f.Agent.Answers, f.Agent.Stored = nil, &ipamd.Stored{Problems: []string{"journal of the pool: damaged"}}
	}, "agent-down journal"},
	{"agent starts", func(f *facts) {
		f.status().Ready, f.status().Reason, f.status().Evidence = false, ipam.ReasonNoMetadata, "timeout"
	}, "agent-not-ready"},
	{"subnet full", func(f *facts) { f.status().Reason = ipam.ReasonSubnetFull }, "no-addresses"},
	{"addresses cool", func(f *facts) { f.status().Reason = ipam.ReasonCooling }, ""},
	{"quarantine", func(f *facts) {
		f.status().Quarantined = []ipamd.QuarantinedStatus{{Addr: netip.MustParseAddr("10.0.0.114"), ENI: "eni-b", By: "route by eni7"}}
	}, "addresses-quarantined"},
	{"journal lost", func(f *facts) { f.status().Events = []agent.Event{{Kind: ipamd.EventJournalLost, Text: "set aside"}} }, "journal"},
	{"attachment hangs", func(f *facts) {
		f.Agent.Answers.Intents = []eni.Intent{{Op: eni.OpProvision, ENI: "eni-c", Start: noon.Add(-time.Hour)}}
	}, "operation-stuck"},
	{"disk full", func(f *facts) { f.Host.Disk.Free = 4096 }, "state-dir-full"},
	{"no more files", func(f *facts) { f.Host.Disk.FreeFiles = 0 }, "state-dir-full"},
	{"disk read-only", func(f *facts) { f.Host.Disk.ReadOnly = true }, "state-dir-read-only"},
	{"no metadata", func(f *facts) {
		f.Cloud.MetadataReason, f.Cloud.MetadataError = "no-metadata", "PUT /latest/api/token: timeout"
	}, "metadata"},
	{"proxy for metadata", func(f *facts) { f.Cloud.MetadataProxy = "http://proxy:3128" }, "metadata-proxy"},
	{"wrong region", func(f *facts) {
		f.Cloud.EC2Reason, f.Cloud.EC2Error, f.Cloud.Region = "ec2-unreachable", "no such host", "us-west-9"
	}, "ec2"},
	{"action denied to the agent", func(f *facts) { f.fails("CreateNetworkInterface", "UnauthorizedOperation") }, "iam-action"},
	{"action denied to vpcctl", func(f *facts) {
		f.Cloud.EC2Reason, f.Cloud.EC2Error = "unauthorized", "DescribeInstances: UnauthorizedOperation"
	}, "iam-action"},
	{"throttled", func(f *facts) { f.fails("AttachNetworkInterface", "RequestLimitExceeded") }, "throttled"},
	{"clock off, seen by the agent", func(f *facts) {
		f.Agent.Answers.Failed = []introspect.Call{{Action: "DescribeSubnets", Code: "RequestExpired", ClockSkew: "10m0s"}}
	}, "clock"},
	{"clock off, seen by vpcctl", func(f *facts) { f.Cloud.Skew = -10 * time.Minute }, "clock"},
	{"subnet nearly full", func(f *facts) { f.Cloud.FreeAddrs["subnet-1"] = 3 }, "subnet-nearly-full"},
	{"fragmented", func(f *facts) { f.fails("AssignPrivateIpAddresses", "InsufficientCidrBlocks") }, "no-free-prefix"},
	{"addresses unassigned", func(f *facts) { f.Cloud.Inventory.ENIs[1].Prefixes = nil }, "journal-ec2-apart"},
	{"ENI detached", func(f *facts) { f.Cloud.Inventory.ENIs = f.Cloud.Inventory.ENIs[:1] }, "journal-ec2-apart"},
	{"ENI being detached", func(f *facts) {
		f.Cloud.Inventory.ENIs = f.Cloud.Inventory.ENIs[:1]
		f.Agent.Answers.Intents = []eni.Intent{{Op: eni.OpRetire, ENI: "eni-b", Start: noon}}
	}, ""},
	{"route of a pod deleted", func(f *facts) {
		f.State.Node.Routes = slices.DeleteFunc(f.State.Node.Routes, func(r netstate.Route) bool { return strings.HasPrefix(r.Link, "eni") })
	}, "journal-kernel-apart"},
	{"rules deleted", func(f *facts) {
		f.State.Node.Rules = slices.DeleteFunc(f.State.Node.Rules, func(r netstate.Rule) bool { return r.Priority == 1536 })
	}, "network-drift"},
	{"forwarding off", func(f *facts) {
		for i, s := range f.State.Node.Sysctls {
			if s.Key == "net.ipv4.ip_forward" {
				f.State.Node.Sysctls[i].Value = "0"
			}
		}
	}, "forwarding-off"},
	{"FORWARD drops, iptables-nft", func(f *facts) {
		f.Host.Nft, f.State.Filters = iptablesForward, []trace.OtherChain{{Family: "ip", Table: "filter", Chain: "FORWARD", Drops: true}}
	}, "forward-policy-drop"},
	{"FORWARD drops, but accepts pods", func(f *facts) {
		f.Host.Nft, f.State.Filters = iptablesForward+acceptsPods, []trace.OtherChain{{Family: "ip", Table: "filter", Chain: "FORWARD", Drops: true}}
	}, ""},
	{"FORWARD drops, iptables-legacy", func(f *facts) {
		f.Host.Nft, f.State.Filters = acceptsPods, []trace.OtherChain{{Family: "ip", Table: "iptables-legacy filter", Chain: "FORWARD", Drops: true}}
	}, "forward-policy-drop"},
	{"FORWARD accepts", func(f *facts) {
		f.State.Filters = []trace.OtherChain{{Family: "ip", Table: "filter", Chain: "FORWARD"}}
	}, ""},
	{"both backends", func(f *facts) { f.Host.Nft, f.Host.Legacy = iptablesForward, "*filter\n-A FORWARD -j ACCEPT\nCOMMIT\n" }, "packet-filters-mixed"},
	{"leftovers", func(f *facts) {
		f.Host.Nft = "table ip nat {\n\tchain AWS-SNAT-CHAIN-0 {\n\t}\n\tchain cali-POSTROUTING {\n\t}\n}\n"
	}, "other-cni-rules"},
	{"kube-proxy alone", func(f *facts) { f.Host.Nft = "table ip nat {\n\tchain KUBE-SERVICES {\n\t}\n}\n" }, ""},
	{"lock held", func(f *facts) { f.Host.XtablesLock = true }, "xtables-lock"},
	{"connections", func(f *facts) { f.file("proc/sys/net/netfilter/nf_conntrack_count", "950\n") }, "conntrack-full"},
	{"neighbours", func(f *facts) { f.file("proc/net/arp", "title\n"+strings.Repeat("a\n", 9)) }, "neighbours-full"},
	{"MTU of an ENI", func(f *facts) {
		for i, l := range f.State.Node.Links {
			if l.MAC == "06:00:00:00:00:06" {
				f.State.Node.Links[i].MTU = 1500
			}
		}
	}, "mtu"},
	{"no conflist", func(f *facts) { delete(f.files.(fileSet), "etc/cni/net.d/10-vpcnet.conflist") }, "conflist-missing"},
	{"foreign conflist first", func(f *facts) { f.file("etc/cni/net.d/05-cilium.conflist", "{}") }, "conflist-order"},
	{"foreign conflist last", func(f *facts) { f.file("etc/cni/net.d/99-loopback.conf", "{}") }, ""},
	{"plugin missing", func(f *facts) {
		f.file("etc/cni/net.d/10-vpcnet.conflist", `{"plugins":[{"type":"vpc-cni"},{"type":"egress-cni","ipam":{"type":"host-local"}}]}`)
	}, "plugin-missing"},
	{"old plugin", func(f *facts) { f.Host.Versions["vpc-cni"] = introspect.Version{Version: "v1.1.0"} }, "plugin-version"},
	{"strict reverse path filter", func(f *facts) { f.file("proc/sys/net/ipv4/conf/ens5/rp_filter", "1\n") }, "rp-filter"},
	{"MAC policy of udev", func(f *facts) {
		f.file("usr/lib/systemd/network/99-default.link", "[Match]\nOriginalName=*\n[Link]\nMACAddressPolicy=persistent\n")
	}, "udev-mac"},
	{"networkd", func(f *facts) { f.file("run/systemd/netif/state", "") }, "networkd-foreign"},
	{"NetworkManager", func(f *facts) { f.file("usr/sbin/NetworkManager", "") }, "networkmanager"},
	{"cloud-init", func(f *facts) { f.file("var/lib/cloud/hotplug.enabled", "") }, "cloud-init-hotplug"},
	{"Docker", func(f *facts) { f.file("usr/bin/dockerd", "") }, "docker"},
}

func (f *facts) status() *ipamd.Status { return &f.Agent.Answers.Status }

func (f *facts) file(name, text string) { f.files.(fileSet)[name] = []byte(text) }

func (f *facts) fails(action, code string) {
	f.Agent.Answers.Calls = append(f.Agent.Answers.Calls, introspect.Call{At: noon, Action: action, Code: code})
}

// TestDoctor plants faults and compares the names of the findings. Each check has a fault.
func TestDoctor(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range planted {
		f := healthy(t)
		p.plant(f)
		var names []string
		for _, x := range diagnose(f) {
			names, seen[x.ID] = append(names, x.ID), true
			if x.What == "" || x.Do == "" || x.Severity == "" || len(x.Evidence) == 0 {
				t.Errorf("%s: %+v lacks a part", p.name, x)
			}
		}
		if diff := cmp.Diff(p.want, strings.Join(names, " ")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", p.name, diff)
		}
	}
	for _, c := range checks {
		if !seen[c.id] {
			t.Errorf("no planted fault has the finding %s", c.id)
		}
	}
}

// TestRecorder reads a system, and then what was recorded of it.
func TestRecorder(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"a.conf": "text", "b.conf": "", "c.other": "secret"} {
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := recorder{os.DirFS(dir), fileSet{}}
	ask := func(fsys fs.FS) (answers []string) {
		names, err := fs.Glob(fsys, "*.con[f]")
		text, readErr := fs.ReadFile(fsys, "a.conf")
		_, noErr := fs.ReadFile(fsys, "none")
		if err != nil || readErr != nil || noErr == nil {
			t.Errorf("%v, %v, %v", err, readErr, noErr)
		}
		return append(names, string(text))
	}
	if diff := cmp.Diff(ask(r), ask(r.read)); diff != "" {
		t.Errorf("(-system +record):\n%s", diff)
	}
	if len(r.read) != 2 {
		t.Errorf("recorded %v, want what was read", r.read)
	}
}
