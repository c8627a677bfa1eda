// SPDX-License-Identifier: Apache-2.0

package adopt

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/snat"
)

// AmazonVPCCNI is the name of the other agent, for flags and for the owner tag of ENIs.
const AmazonVPCCNI = "amazon-vpc-cni-k8s"

// Priorities of the rules of amazon-vpc-cni-k8s.
const (
	priorityLocal   = 20
	priorityToPod   = 512
	priorityMark    = 1024
	priorityService = 1535
	priorityFromPod = 1536
	priorityFromENI = 32765
)

// protocolBoot is the protocol of its routes, RTPROT_BOOT. Its rules have none.
const protocolBoot = 3

// protocolKernel is the protocol of the kernel's own rules, RTPROT_KERNEL.
const protocolKernel = 2

// router6 is the VPC router.
var router6 = netip.MustParseAddr("fe80:ec2::1")

// linkDigest returns what the names of the host links of a pod end with. Index counts the
// interfaces of the pod.
func linkDigest(namespace, pod string, index int) string {
	if index > 0 {
		pod += "." + strconv.Itoa(index)
	}
	sum := sha1.Sum([]byte(namespace + "." + pod))
	return hex.EncodeToString(sum[:])[:11]
}

// podRoute returns the route to a pod.
func podRoute(a netip.Addr, link string) netstate.Route {
	return netstate.Route{Dst: netstate.HostPrefix(a), Link: link, Table: netstate.TableMain, Protocol: protocolBoot}
}

// podRules returns the rules of a pod.
func podRules(a datapath.PodAddr) []netstate.Rule {
	dst := netstate.HostPrefix(a.Addr)
	rules := []netstate.Rule{{IPv6: a.Addr.Is6(), Priority: priorityToPod, To: dst, Table: netstate.TableMain}}
	if a.Table != 0 && a.Table != netstate.TableMain {
		rules = append(rules, netstate.Rule{IPv6: a.Addr.Is6(), Priority: priorityFromPod, From: dst, Table: a.Table})
	}
	return rules
}

// amazonRules returns the rules of a pod with a host link of that name.
func amazonRules(p datapath.Pod, link string) (rules []netstate.Rule) {
	m := p.Mode.Branch
	for _, a := range p.Addrs {
		switch {
		case m == nil:
			rules = append(rules, podRules(a)...)
		case m.Enforcement == datapath.Strict:
			for _, iif := range []string{m.Link(), link} {
				rules = append(rules, netstate.Rule{IPv6: a.Addr.Is6(), Priority: priorityBranch, IIF: iif, Table: m.Table()})
			}
		default:
			rules = append(rules, podRules(datapath.PodAddr{Addr: a.Addr, Table: m.Table()})...)
		}
	}
	return rules
}

// amazonRoutes returns the routes of a pod with a host link of that name.
func amazonRoutes(p datapath.Pod, link string) (routes []netstate.Route) {
	if p.Mode.Branch == nil {
		for _, a := range p.Addrs {
			routes = append(routes, podRoute(a.Addr, link))
		}
		return routes
	}
	for _, r := range p.HostState().Routes { // they are ours but for protocol and name
		r.Protocol = protocolBoot
		if r.Link == p.HostLink() {
			r.Link = link
		}
		routes = append(routes, r)
	}
	return routes
}

// localRules returns the rules for table local on a node with pods on branch ENIs: under strict
// its own, in the families of pods, and otherwise those of the kernel.
func (n *observed) localRules() (rules []netstate.Rule) {
	for f := range netstate.Families() {
		local := netstate.Rule{IPv6: f.Is6(), Table: netstate.TableLocal}
		served := slices.ContainsFunc(n.Families, func(o ipam.Family) bool { return (o == ipam.IPv6) == f.Is6() })
		exists := slices.ContainsFunc(n.State.Rules, func(r netstate.Rule) bool { return r.IPv6 == f.Is6() })
		switch {
		case n.Desired.Node.Enforcement == "" || !exists:
		case n.Desired.Node.Enforcement == datapath.Standard || !served:
			local.Protocol = protocolKernel
			rules = append(rules, local)
		default:
			if local.IPv6 {
				router := local
				router.From, router.IPProto = netstate.HostPrefix(router6), netstate.ICMPv6
				rules = append(rules, router)
			}
			local.Priority = priorityLocal
			rules = append(rules, local)
		}
	}
	return rules
}

// nodeState returns the routes and rules of a node with the names of its links, in the
// families of its pods. It has none in another family, and no rule for the trunk ENI.
func (n *observed) nodeState(node datapath.Node) (s netstate.State) {
	served := func(a netip.Addr) bool { return slices.Contains(n.Families, ipam.FamilyOf(a)) }
	trunk := func(id string) bool {
		return slices.ContainsFunc(n.ENIs, func(e eni.ENI) bool { return e.ID == id && e.Kind == eni.KindTrunk })
	}
	s.Rules = n.localRules()
	for _, e := range node.ENIs {
		for _, a := range e.Addrs {
			ipv6 := a.Addr().Is6()
			if !served(a.Addr()) || trunk(e.ID) {
				continue
			}
			if e.Primary() {
				s.Rules = append(s.Rules, netstate.Rule{IPv6: ipv6, Priority: priorityMark, Mark: datapath.MarkPrimary, Mask: datapath.MarkPrimary, Table: netstate.TableMain})
				continue
			}
			s.Rules = append(s.Rules, netstate.Rule{IPv6: ipv6, Priority: priorityFromENI, From: netstate.HostPrefix(a.Addr()), Table: e.Table()})
		}
	}
	for _, p := range node.ServicePrefixes {
		s.Rules = append(s.Rules, netstate.Rule{IPv6: p.Addr().Is6(), Priority: priorityService, To: p.Masked(), Table: netstate.TableMain})
	}
	// The routes are ours but for the protocol.
	for _, r := range node.State().Routes {
		if served(r.Dst.Addr()) && slices.ContainsFunc(node.ENIs, func(e datapath.ENI) bool { return !e.Primary() && e.Table() == r.Table }) {
			r.Protocol = protocolBoot
			s.Routes = append(s.Routes, r)
		}
	}
	return s
}

// comments are those of its rules in iptables.
var comments = []string{
	`"AWS SNAT CHAIN"`, `"AWS SNAT CHAIN EXCLUSION"`, `"AWS, SNAT"`, `"AWS, primary ENI"`,
	`"AWS, outbound connections"`, `"AWS, CONNMARK"`, `"AWS CONNMARK CHAIN"`,
}

// chains begin the names of its chains.
var chains = []string{"AWS-SNAT-CHAIN-", "AWS-CONNMARK-CHAIN-"}

func isAmazonChain(name string) bool {
	return slices.ContainsFunc(chains, func(c string) bool { return strings.HasPrefix(name, c) })
}

// removal returns, for iptables-restore, the removal of all its rules and chains from the
// tables that iptables-save has printed, by table. It has no entry for a table without any.
func removal(saved string) map[string]string {
	out := map[string]string{}
	for block := range strings.SplitSeq(saved, "COMMIT\n") {
		var table string
		var rules, flush, drop strings.Builder
		for line := range strings.Lines(block) {
			line = strings.TrimSuffix(line, "\n")
			if name, ok := strings.CutPrefix(line, "*"); ok {
				table = name
			}
			if name, _, _ := strings.Cut(strings.TrimPrefix(line, ":"), " "); strings.HasPrefix(line, ":") && isAmazonChain(name) {
				fmt.Fprintf(&flush, "-F %s\n", name)
				fmt.Fprintf(&drop, "-X %s\n", name)
			}
			rule, ok := strings.CutPrefix(line, "-A ")
			if chain, _, _ := strings.Cut(rule, " "); !ok || isAmazonChain(chain) {
				continue
			}
			if slices.ContainsFunc(comments, func(c string) bool { return strings.Contains(rule, "--comment "+c+" ") }) {
				fmt.Fprintf(&rules, "-D %s\n", rule)
			}
		}
		if text := rules.String() + flush.String() + drop.String(); text != "" {
			out[table] = text
		}
	}
	return out
}

// translation returns, for iptables-restore, its rules for the translation of cfg, by table:
// those of its release 1.22 and of later ones with iptables-legacy.
func translation(cfg snat.Config) map[string]string {
	var node netip.Addr
	for _, a := range cfg.NodeAddrs {
		if a.Is4() {
			node = a
		}
	}
	if !node.IsValid() {
		return nil // it translates IPv4 only
	}
	prefix := cfg.HostLinkPrefix
	var nat, mangle strings.Builder
	if !cfg.External {
		nat.WriteString(":AWS-SNAT-CHAIN-0 - [0:0]\n:AWS-CONNMARK-CHAIN-0 - [0:0]\n")
		nat.WriteString("-A POSTROUTING -m comment --comment \"AWS SNAT CHAIN\" -j AWS-SNAT-CHAIN-0\n")
		fmt.Fprintf(&nat, "-A PREROUTING -i %s+ -m comment --comment \"AWS, outbound connections\" -j AWS-CONNMARK-CHAIN-0\n", prefix)
		nat.WriteString("-A PREROUTING -m comment --comment \"AWS, CONNMARK\" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80\n")
		for i, p := range append(slices.Clone(cfg.VPC), cfg.Excluded...) {
			if !p.Addr().Is4() {
				continue
			}
			comment := "AWS SNAT CHAIN"
			if i >= len(cfg.VPC) {
				comment = "AWS SNAT CHAIN EXCLUSION"
			}
			to := "-d " + p.String() + " "
			if p.Bits() == 0 {
				to = ""
			}
			fmt.Fprintf(&nat, "-A AWS-SNAT-CHAIN-0 %s-m comment --comment %q -j RETURN\n", to, comment)
			fmt.Fprintf(&nat, "-A AWS-CONNMARK-CHAIN-0 %s-m comment --comment \"AWS CONNMARK CHAIN\" -j RETURN\n", to)
		}
		random := map[snat.Random]string{snat.RandomPRNG: " --random-fully", snat.RandomHash: " --random"}[cfg.Random]
		fmt.Fprintf(&nat, "-A AWS-SNAT-CHAIN-0 ! -o vlan+ -m comment --comment \"AWS, SNAT\" -m addrtype ! --dst-type LOCAL -j SNAT --to-source %s%s\n", node, random)
		nat.WriteString("-A AWS-CONNMARK-CHAIN-0 -m comment --comment \"AWS, CONNMARK\" -j CONNMARK --set-xmark 0x80/0x80\n")
	}
	restore := func(links string) {
		fmt.Fprintf(&mangle, "-A PREROUTING -i %s+ -m comment --comment \"AWS, primary ENI\" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80\n", links)
	}
	if cfg.NodePort {
		fmt.Fprintf(&mangle, "-A PREROUTING -i %s -m comment --comment \"AWS, primary ENI\" -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-xmark 0x80/0x80\n", cfg.PrimaryLink)
	}
	if cfg.NodePort || !cfg.External {
		restore(prefix)
	}
	if cfg.NodePort {
		restore("vlan")
	}
	out := map[string]string{}
	for table, b := range map[string]*strings.Builder{"nat": &nat, "mangle": &mangle} {
		if b.Len() > 0 {
			out[table] = b.String()
		}
	}
	return out
}
