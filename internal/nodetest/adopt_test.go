// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/eni/vpctest"
	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/ipam/ipamd/adopt"
)

// amazon is a node as amazon-vpc-cni-k8s leaves it: this file makes what that agent and its
// plugin make in EC2, in the kernel and on disk.
type amazon struct {
	*Node
	shape   shape
	vpc     *vpctest.VPC
	pods    []*amazonPod
	entries []adopt.Entry
	trunk   string
}

// shape is one of the forms in which amazon-vpc-cni-k8s leaves a node.
type shape struct {
	name, layout string
	// programs is the variant of iptables that has its chains.
	programs string
	// table says that connections are marked by its nftables table instead of chains.
	table bool
	// ipv6 is a cluster with IPv6 only, and prefixes are addresses of delegated prefixes.
	ipv6, prefixes bool
	// cards says that pods have an interface on each of two network cards.
	cards bool
	// branch is the enforcing mode of pods on branch ENIs, "" if the node has none. Such a node
	// has no chains of iptables.
	branch string
	// busy is the number of pods with connections. One more pod has none.
	busy int
	// killed says that the program is also killed all the time.
	killed bool
}

var shapes = []shape{
	{name: "flat", layout: "flat", programs: "legacy", busy: 20, killed: true},
	{name: "per-pod", layout: "per-pod", programs: "legacy", busy: 20, killed: true},
	{name: "iptables-nft", layout: "per-pod", programs: "nft", busy: 4},
	{name: "nftables", layout: "flat", programs: "nft", table: true, busy: 4},
	{name: "prefixes", layout: "flat", programs: "legacy", prefixes: true, busy: 4},
	{name: "IPv6 flat", layout: "flat", programs: "legacy", ipv6: true, prefixes: true, busy: 4},
	{name: "IPv6 per-pod", layout: "per-pod", programs: "nft", ipv6: true, prefixes: true, busy: 4},
	{name: "cards flat", layout: "flat", programs: "legacy", cards: true, busy: 4},
	{name: "cards per-pod", layout: "per-pod", programs: "nft", table: true, cards: true, busy: 4},
}

// amazonPod is a pod that the other plugin has wired. entry, link and table are those of its
// first interface.
type amazonPod struct {
	*Pod
	entry adopt.Entry
	link  string
	table int
	nics  []nic
	// vlan is the VLAN ID of its branch ENI, 0 if it has none.
	vlan int
}

// nic is an interface of a pod.
type nic struct {
	addr        netip.Addr
	card, table int
}

const (
	amazonConflist = `{"cniVersion":"0.4.0","name":"aws-cni","disableCheck":true,"plugins":[{"name":"aws-cni","type":"aws-cni","vethPrefix":"eni",` +
		`"mtu":"9001","podSGEnforcingMode":"strict","pluginLogFile":"","pluginLogLevel":"DEBUG","capabilities":{"io.kubernetes.cri.pod-annotations":true}}]}`
	vpcPrefix = "10.0.0.0/16"
)

// newAmazon makes a node with three ENIs, of 9 addresses or one prefix each; with one ENI if
// the node has IPv6 only; or with one on each of two network cards.
func newAmazon(t *testing.T, vpc *vpctest.VPC, s shape) *amazon {
	t.Helper()
	kind := "m5.large"
	if s.cards {
		kind = "c6in.32xlarge" // with two network cards: for a further one, our agent would create an ENI
	}
	machine := vpc.Node(t, kind)
	a := &amazon{shape: s, vpc: vpc, Node: &Node{Node: machine, dir: t.TempDir()}}
	for _, dir := range []string{"/run/vpcnet", "/run/aws-node", a.File("bin"), a.File("net.d")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	a.cfg = Config{Env: map[string]string{
		"VPCNET_SOCKET": cniplugin.DefaultSocket, "VPCNET_LAYOUT": s.layout, "VPCNET_CONFLIST": a.File("net.d/10-vpcnet.conflist"),
		"WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "1", "HTTP_TIMEOUT": "60", "ENABLE_PREFIX_DELEGATION": fmt.Sprint(s.prefixes), "ENABLE_MULTI_NIC": fmt.Sprint(s.cards),
		"ENABLE_IPv4": fmt.Sprint(!s.ipv6), "ENABLE_IPv6": fmt.Sprint(s.ipv6),
	}}
	if s.branch != "" {
		maps.Copy(a.cfg.Env, map[string]string{
			"ENABLE_POD_ENI": "true", "POD_SECURITY_GROUP_ENFORCING_MODE": s.branch, "VPCNET_BRANCH_ENI_COOLDOWN": "1",
			"WARM_IP_TARGET": "17", // those of two ENIs without the pod's, so that our agent gives none back
		})
	}
	a.write(t, a.File("net.d/10-aws.conflist"), amazonConflist)
	a.write(t, a.File("bin/vpc-cni"), read(t, Program("vpc-cni")))
	a.write(t, a.File("bin/aws-cni"), "#!/bin/sh\nexit 1\n")
	for from, to := range map[string]string{cniplugin.DefaultSocket: "agent.sock", a.File("net.d/10-vpcnet.conflist"): "10-vpcnet.conflist"} {
		if err := os.Symlink(from, a.File(to)); err != nil {
			t.Fatal(err)
		}
	}
	blocks, assign, last := []string{"SecondaryPrivateIpAddressCount", "9"}, "AssignPrivateIpAddresses", 2
	switch {
	case s.ipv6:
		blocks, assign, last = []string{"Ipv6PrefixCount", "1"}, "AssignIpv6Addresses", 0
	case s.prefixes:
		blocks = []string{"Ipv4PrefixCount", "1"}
	case s.cards, s.branch != "":
		last = 1
	}
	vpc.EC2(t, assign, append([]string{"NetworkInterfaceId", machine.ENIs()[0].ID}, blocks...)...)
	for device := 1; device <= last; device++ {
		id := a.createENI(t, blocks...)
		attach := []string{"InstanceId", machine.ID(), "NetworkInterfaceId", id, "DeviceIndex", fmt.Sprint(device)}
		if s.cards {
			attach = append(attach, "NetworkCardIndex", "1")
		}
		vpc.EC2(t, "AttachNetworkInterface", attach...)
	}
	if s.branch != "" {
		a.trunk = a.createENI(t, append([]string{"InterfaceType", "trunk"}, s.address()...)...)
		vpc.EC2(t, "AttachNetworkInterface", "InstanceId", machine.ID(), "NetworkInterfaceId", a.trunk, "DeviceIndex", "2")
	}
	a.wireNode(t)
	return a
}

// address returns the parameters by which an ENI that is created has an address of the cluster's
// family.
func (s shape) address() []string {
	if s.ipv6 {
		return []string{"Ipv6AddressCount", "1"}
	}
	return nil
}

// createENI creates an ENI with the tags of the other agent, and returns its ID.
func (a *amazon) createENI(t *testing.T, params ...string) string {
	t.Helper()
	text := a.vpc.EC2(t, "CreateNetworkInterface", append([]string{
		"SubnetId", a.vpc.Subnets[0].ID, "Description", "aws-K8S-" + a.ID(),
		"TagSpecification.1.ResourceType", "network-interface", "TagSpecification.1.Tag.1.Key", eni.TagInstance, "TagSpecification.1.Tag.1.Value", a.ID(),
		"TagSpecification.1.Tag.2.Key", eni.TagCreated, "TagSpecification.1.Tag.2.Value", "2026-11-30T10:00:00Z",
	}, params...)...)
	return "eni-" + strings.SplitN(strings.SplitN(text, "eni-", 2)[1], "<", 2)[0]
}

func (a *amazon) write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// in runs f in a namespace, with a handle of package netlink.
func in(t *testing.T, h *vpctest.Host, f func(*netlink.Handle) error) {
	t.Helper()
	h.Do(t, func() error {
		n, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer n.Close()
		return f(n)
	})
}

func single(a netip.Addr) *net.IPNet { return netlink.NewIPNet(a.AsSlice()) }

// everywhere returns the destination of the default route.
func (s shape) everywhere() *net.IPNet {
	if s.ipv6 {
		return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
}

func (s shape) rule(priority, table int) *netlink.Rule {
	r := netlink.NewRule()
	r.Priority, r.Table, r.Family = priority, table, netlink.FAMILY_V4
	if s.ipv6 {
		r.Family = netlink.FAMILY_V6
	}
	return r
}

// iptables returns the program that changes the chains of the cluster's family.
func (s shape) iptables() string {
	if s.ipv6 {
		return "ip6tables-" + s.programs
	}
	return "iptables-" + s.programs
}

// of returns the address of the cluster's family.
func (s shape) of(v4, v6 netip.Addr) netip.Addr {
	if s.ipv6 {
		return v6
	}
	return v4
}

// blocksOf returns the first addresses for pods on an ENI.
func (s shape) blocksOf(e enitest.ENI) []netip.Addr {
	if !s.prefixes {
		return e.Addrs
	}
	var first netip.Addr
	if s.ipv6 {
		first = e.IPv6Prefixes[0].Addr()
	} else {
		first = e.Prefixes[0].Addr()
	}
	all := []netip.Addr{first}
	for range 9 {
		all = append(all, all[len(all)-1].Next())
	}
	return all
}

// tableOf returns the number of an ENI's table.
func tableOf(e enitest.ENI) int { return datapath.Table(e.Attachment.Card, e.Attachment.Device) }

// wireNode makes what the other agent makes for the node: rules, tables, settings, and
// chains of iptables, beside those of a kube-proxy.
func (a *amazon) wireNode(t *testing.T) {
	t.Helper()
	host := a.Host
	for _, e := range a.ENIs()[1:] {
		link := vpctest.Link(e)
		eventually(t, func() error {
			_, err := net.InterfaceByName(link)
			host.Do(t, func() error { _, err = net.InterfaceByName(link); return nil })
			return err
		})
	}
	in(t, host, func(h *netlink.Handle) error {
		mark := a.shape.rule(1024, 254)
		value := uint32(0x80)
		mark.Mark, mark.Mask = value, &value
		errs := []error{h.RuleAdd(mark)}
		for _, e := range a.ENIs()[1:] {
			errs = append(errs, a.wireENI(h, e))
		}
		primary := vpctest.Link(a.ENIs()[0])
		settings := map[string]string{"ipv4/ip_forward": "1", "ipv4/conf/" + primary + "/rp_filter": "2"}
		if a.shape.ipv6 {
			settings["ipv6/conf/all/forwarding"], settings["ipv6/conf/"+primary+"/accept_ra"] = "1", "2"
		}
		for key, value := range settings {
			errs = append(errs, os.WriteFile("/proc/sys/net/"+key, []byte(value), 0o644))
		}
		return errors.Join(errs...)
	})
	if a.shape.branch != "" {
		a.wireTrunk(t)
		return
	}
	a.chains(t)
}

// chains makes the chains of kube-proxy and of the other agent.
func (a *amazon) chains(t *testing.T) {
	t.Helper()
	lines := []string{"-t mangle -N KUBE-KUBELET-CANARY", "-t nat -N KUBE-SERVICES", "-t nat -A PREROUTING -j KUBE-SERVICES"}
	marks := []string{
		"-t nat -N AWS-CONNMARK-CHAIN-0", "-t nat -A PREROUTING -i eni+ -m comment --comment AWS,~outbound~connections -j AWS-CONNMARK-CHAIN-0",
		"-t nat -A PREROUTING -m comment --comment AWS,~CONNMARK -j CONNMARK --restore-mark --mask 0x80",
		"-t nat -A AWS-CONNMARK-CHAIN-0 -d " + vpcPrefix + " -m comment --comment AWS~CONNMARK~CHAIN -j RETURN",
		"-t nat -A AWS-CONNMARK-CHAIN-0 -m comment --comment AWS,~CONNMARK -j CONNMARK --set-xmark 0x80/0x80",
	}
	if a.shape.table {
		marks = nil
		file := a.File("aws-cni.nft")
		a.write(t, file, amazonTable)
		a.Node.Node.Run(t, "nft", "-f", file)
	}
	if a.shape.ipv6 {
		a.Node.Node.Run(t, "iptables-"+a.shape.programs, "-I", "FORWARD", "1", "-d", "169.254.172.0/22", "-m", "conntrack", "--ctstate", "NEW",
			"-m", "comment", "--comment", "Block Node Local Pod access via IPv4", "-j", "REJECT")
	} else {
		lines = slices.Concat(lines, []string{
			"-t nat -N AWS-SNAT-CHAIN-0", "-t nat -A POSTROUTING -m comment --comment AWS~SNAT~CHAIN -j AWS-SNAT-CHAIN-0",
			"-t nat -A AWS-SNAT-CHAIN-0 -d " + vpcPrefix + " -m comment --comment AWS~SNAT~CHAIN -j RETURN",
			"-t nat -A AWS-SNAT-CHAIN-0 ! -o vlan+ -m comment --comment AWS,~SNAT -m addrtype ! --dst-type LOCAL -j SNAT --to-source " + a.Addr.String() + " --random-fully",
		}, marks, []string{
			"-t mangle -A PREROUTING -i " + vpctest.Link(a.ENIs()[0]) + " -m comment --comment AWS,~primary~ENI -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-mark 0x80/0x80",
			"-t mangle -A PREROUTING -i eni+ -m comment --comment AWS,~primary~ENI -j CONNMARK --restore-mark --mask 0x80",
			"-t mangle -A PREROUTING -i vlan+ -m comment --comment AWS,~primary~ENI -j CONNMARK --restore-mark --mask 0x80",
		})
	}
	for _, line := range lines {
		args := strings.Fields(line)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "~", " ")
		}
		a.Node.Node.Run(t, a.shape.iptables(), args...)
	}
}

// amazonTable is the nftables table of the other agent.
const amazonTable = `table ip aws-cni {
	chain snat-mark {
		counter ip daddr ` + vpcPrefix + ` return
		counter ct mark set ct mark or 0x80
	}
	chain nat-prerouting {
		type nat hook prerouting priority -90; policy accept;
		fib daddr type local return
		iifname "eni*" counter jump snat-mark
		counter meta mark set ct mark and 0x80
	}
}
`

// subnet returns the prefix of the node's subnet in the cluster's family.
func (a *amazon) subnet() netip.Prefix {
	if a.shape.ipv6 {
		return a.vpc.Subnets[0].IPv6
	}
	return a.vpc.Subnets[0].Prefix
}

// gateway returns the address of the VPC router on an ENI.
func (a *amazon) gateway() netip.Addr {
	return a.shape.of(a.subnet().Masked().Addr().Next(), netip.MustParseAddr("fe80:ec2::1"))
}

// addrOf returns the address of an ENI in the cluster's family.
func (s shape) addrOf(e enitest.ENI) netip.Addr {
	if s.ipv6 {
		return e.IPv6Addrs[0]
	}
	return e.Addr
}

// wireENI makes the tables and rules of a secondary ENI.
func (a *amazon) wireENI(h *netlink.Handle, e enitest.ENI) error {
	subnet := a.subnet()
	link, err := h.LinkByName(vpctest.Link(e))
	if err != nil {
		return err
	}
	own := a.shape.addrOf(e)
	addr := &net.IPNet{IP: own.AsSlice(), Mask: net.CIDRMask(subnet.Bits(), own.BitLen())}
	index, table := link.Attrs().Index, tableOf(e)
	gw := a.gateway()
	from := a.shape.rule(32765, table)
	from.Src = single(own)
	return errors.Join(
		h.LinkSetUp(link),
		h.AddrAdd(link, &netlink.Addr{IPNet: addr, Flags: unix.IFA_F_NODAD}),
		h.RouteReplace(&netlink.Route{LinkIndex: index, Dst: single(gw), Scope: netlink.SCOPE_LINK, Table: table}),
		h.RouteReplace(&netlink.Route{LinkIndex: index, Dst: a.shape.everywhere(), Gw: gw.AsSlice(), Table: table}),
		h.RouteDel(&netlink.Route{LinkIndex: index, Dst: &net.IPNet{IP: subnet.Masked().Addr().AsSlice(), Mask: addr.Mask}, Scope: netlink.SCOPE_LINK}),
		a.addUnless(e.ID == a.trunk, h, from),
	)
}

// addUnless adds a rule, if not skip: the other agent makes no rule for the trunk ENI.
func (a *amazon) addUnless(skip bool, h *netlink.Handle, r *netlink.Rule) error {
	if skip {
		return nil
	}
	return h.RuleAdd(r)
}

// randomMAC returns a MAC as the other plugin makes one.
func randomMAC() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	for i := range mac {
		mac[i] = byte(rand.IntN(256))
	}
	mac[0] = mac[0]&^1 | 2
	return mac
}

// podLinkName returns the name of the host link of a pod.
func podLinkName(pod string, index int) string {
	if index > 0 {
		pod = fmt.Sprintf("%s.%d", pod, index)
	}
	name := sha1.Sum([]byte("default." + pod))
	return "eni" + hex.EncodeToString(name[:])[:11]
}

// addPod adds a pod as the other plugin does, with an echo server, and the cached result of a
// runtime.
func (a *amazon) addPod(t *testing.T, nics ...nic) {
	t.Helper()
	p := &amazonPod{Pod: &Pod{Pod: a.Pod(t), node: a.Node}, table: nics[0].table, nics: nics}
	id := sha1.Sum([]byte(p.Name() + "/container"))
	p.link = podLinkName(p.Name(), 0)
	for i, n := range nics {
		e := adopt.Entry{
			NetworkName: "aws-cni", ContainerID: hex.EncodeToString(id[:]), IfName: "eth0", Card: n.card,
			Timestamp: 1700000000000000000 + int64(len(a.entries)), Metadata: adopt.Metadata{Namespace: "default", Name: p.Name(), Interfaces: len(nics)},
		}
		if a.shape.ipv6 {
			e.IPv6 = n.addr
		} else {
			e.IPv4 = n.addr
		}
		if i == 0 {
			p.entry = e
		}
		a.entries, p.Addrs = append(a.entries, e), append(p.Addrs, n.addr)
		a.wirePod(t, p, i)
		p.Echo(t, netip.AddrPortFrom(n.addr, vpctest.EchoPort))
	}
	a.cache(t, p)
	a.pods = append(a.pods, p)
}

// wirePod makes the veth pair of an interface of a pod, with its routes and rules.
func (a *amazon) wirePod(t *testing.T, p *amazonPod, i int) {
	t.Helper()
	n, hostLink, name, mac := p.nics[i], p.link, "eth0", randomMAC()
	if i > 0 {
		hostLink = podLinkName(p.Name(), i)
		name = fmt.Sprintf("mNicIf%d", i)
	}
	in(t, a.Host, func(h *netlink.Handle) error {
		ns, err := netns.GetFromPath(p.Path())
		if err != nil {
			return err
		}
		defer ns.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr, attrs.MTU = hostLink, mac, 9001
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsFd(int(ns)), PeerMTU: 9001}); err != nil {
			return err
		}
		link, err := h.LinkByName(hostLink)
		if err != nil {
			return err
		}
		var errs []error
		for key, value := range map[string]string{"accept_ra": "0", "accept_redirects": "1", "forwarding": "0"} {
			errs = append(errs, os.WriteFile("/proc/sys/net/ipv6/conf/"+hostLink+"/"+key, []byte(value), 0o644))
		}
		to, from := a.shape.rule(512, 254), a.shape.rule(1536, n.table)
		to.Dst, from.Src = single(n.addr), single(n.addr)
		errs = append(errs,
			h.LinkSetUp(link),
			h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: single(n.addr), Scope: netlink.SCOPE_LINK}),
			h.RuleAdd(to),
		)
		if n.table != 254 {
			errs = append(errs, h.RuleAdd(from))
		}
		return errors.Join(errs...)
	})
	in(t, p.Host, func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		gw, index, table := net.IPv4(169, 254, 1, byte(i+1)), link.Attrs().Index, 254
		if a.shape.ipv6 {
			gw = net.ParseIP(fmt.Sprintf("fe80::%d", i+1))
		}
		errs := []error{h.LinkSetUp(link)}
		if i > 0 {
			table = i
			from := a.shape.rule(1, table)
			from.Src = single(n.addr)
			errs = append(errs, h.RuleAdd(from))
		}
		return errors.Join(append(errs,
			h.RouteReplace(&netlink.Route{LinkIndex: index, Dst: netlink.NewIPNet(gw), Scope: netlink.SCOPE_LINK, Table: table}),
			h.RouteAdd(&netlink.Route{LinkIndex: index, Dst: a.shape.everywhere(), Gw: gw, Scope: netlink.SCOPE_UNIVERSE, Table: table}),
			h.AddrAdd(link, &netlink.Addr{IPNet: single(n.addr), Flags: unix.IFA_F_NODAD}),
			// A packet for an earlier pod of the address may have made an entry by its answer.
			h.NeighSet(&netlink.Neigh{LinkIndex: index, IP: gw, HardwareAddr: mac, State: netlink.NUD_PERMANENT}),
		)...)
	})
}

// cache writes the result of the other plugin to the cache of the runtime.
func (a *amazon) cache(t *testing.T, p *amazonPod) {
	t.Helper()
	var err error
	if p.list, err = libcni.ConfListFromBytes([]byte(amazonConflist)); err != nil {
		t.Fatal(err)
	}
	p.rt = &libcni.RuntimeConf{
		ContainerID: p.entry.ContainerID, NetNS: p.Path(), IfName: "eth0",
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", p.Name()}},
	}
	dummy := "dummy" + p.link[len(p.link)-11:]
	var links, ips []map[string]any
	for i, n := range p.nics {
		name, bits, version := "eth0", 32, "4"
		if i > 0 {
			name = fmt.Sprintf("mNicIf%d", i)
		}
		if a.shape.ipv6 {
			bits, version = 128, "6"
		}
		link := podLinkName(p.Name(), i)
		if i == 0 {
			link = p.link
		}
		links = append(links, map[string]any{"name": link}, map[string]any{"name": name, "mac": fmt.Sprint(n.table), "sandbox": p.Path()})
		ips = append(ips, map[string]any{"version": version, "interface": 2*i + 1, "address": fmt.Sprintf("%v/%d", n.addr, bits)})
	}
	links = append(links, map[string]any{"name": dummy, "mac": fmt.Sprint(p.vlan), "sandbox": "0"})
	result := map[string]any{"cniVersion": "0.4.0", "dns": map[string]any{}, "interfaces": links, "ips": ips}
	text, err := json.Marshal(map[string]any{
		"kind": "cniCacheV1", "containerId": p.entry.ContainerID, "ifName": "eth0", "networkName": "aws-cni", "config": []byte(amazonConflist), "result": result, "cniArgs": p.rt.Args,
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := a.File("cache/results")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	a.write(t, filepath.Join(dir, "aws-cni-"+p.entry.ContainerID+"-eth0"), string(text))
}

// runtime returns a runtime that looks for plugins where a change-over installs them.
func (a *amazon) runtime() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir([]string{a.File("bin")}, a.File("cache"), nil)
}

// del deletes a pod of the other plugin by DEL, with what its ADD had.
func (a *amazon) del(t *testing.T, p *amazonPod) {
	t.Helper()
	a.Do(t, func() error { return a.runtime().DelNetworkList(t.Context(), p.list, p.rt) })
	p.Pod.Pod.Delete(t)
}

// delAmazon deletes a pod as the other plugin does.
func (a *amazon) delAmazon(t *testing.T, p *amazonPod) {
	t.Helper()
	in(t, a.Host, func(h *netlink.Handle) error {
		to, from := a.shape.rule(512, 254), a.shape.rule(1536, p.table)
		to.Dst, from.Src = single(p.Addrs[0]), single(p.Addrs[0])
		link, err := h.LinkByName(p.link)
		if err != nil {
			return err
		}
		errs := []error{h.RuleDel(to), h.RouteDel(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: single(p.Addrs[0]), Scope: netlink.SCOPE_LINK})}
		if p.table != 254 {
			errs = append(errs, h.RuleDel(from))
		}
		return errors.Join(errs...)
	})
	p.Pod.Pod.Delete(t)
}

// checkpoints are the names of the checkpoints by network card.
func (a *amazon) checkpoints() []string {
	if a.shape.cards {
		return []string{"ipam.json", "ipam-nic-1.json"}
	}
	return []string{"ipam.json"}
}

// checkpoint writes the checkpoints.
func (a *amazon) checkpoint(t *testing.T) {
	t.Helper()
	for card, name := range a.checkpoints() {
		of := slices.DeleteFunc(slices.Clone(a.entries), func(e adopt.Entry) bool { return e.Card != card })
		a.write(t, a.File(name), string(adopt.FormatCheckpoint(of)))
	}
}

// adoptArgs are the arguments of ipamd for a change-over.
func (a *amazon) adoptArgs(args ...string) []string {
	return append(append([]string{"adopt"}, args...), "-checkpoint", a.File("ipam.json"), "-other-socket", "/run/aws-node/ipamd.sock",
		"-other-conflist", a.File("net.d/10-aws.conflist"), "-plugin-dir", a.File("bin"), "-results", a.File("cache/results"), "-sandboxes", filepath.Dir(a.pods[0].Path()))
}

// adopt runs a change-over and returns the plan.
func (a *amazon) adopt(t *testing.T, args ...string) string {
	t.Helper()
	plan, err := a.tryAdopt(t, args...)
	if err != nil {
		t.Fatalf("ipamd adopt %v: %v\n%s", args, err, plan)
	}
	return plan
}

func (a *amazon) tryAdopt(t *testing.T, args ...string) (string, error) {
	t.Helper()
	p := a.Node.Node.Start(t, a.Command(a.adoptArgs(args...)...))
	select {
	case <-p.Done():
	case <-time.After(2 * patience):
		t.Fatalf("ipamd adopt does not end:\n%s", p.Output())
	}
	return p.Output(), p.Err()
}

// adoptKilled runs a change-over again and again, and kills it each time a little later after
// it has printed its plan, until it ends by itself. It calls check each time.
func (a *amazon) adoptKilled(t *testing.T, check func(), args ...string) {
	t.Helper()
	for after := time.Duration(0); ; after += 100 * time.Millisecond {
		p := a.Node.Node.Start(t, a.Command(a.adoptArgs(args...)...))
		eventually(t, func() error {
			if p.Output() == "" {
				select {
				case <-p.Done():
				default:
					return errors.New("ipamd adopt prints nothing")
				}
			}
			return nil
		})
		select {
		case <-p.Done():
		case <-time.After(after):
			p.Signal(t, syscall.SIGKILL)
			<-p.Done()
		}
		check()
		if p.Err() == nil {
			return
		}
		if p.Err().Error() != "signal: killed" {
			t.Fatalf("ipamd adopt %v: %v\n%s", args, p.Err(), p.Output())
		}
	}
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// traffic exchanges lines over open connections without pause.
type traffic struct {
	wait sync.WaitGroup

	mu    sync.Mutex
	lines map[string]int
	errs  []error
}

// open keeps a connection busy.
func (tr *traffic) open(ctx context.Context, name string, c net.Conn, want netip.Addr) {
	pause := 5 * time.Millisecond
	if inVM() { // which has one processor, emulated in software
		pause *= 20
	}
	tr.wait.Go(func() {
		for ctx.Err() == nil {
			once, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			seen, err := fabric.Exchange(once, c, name)
			cancel()
			if err == nil && seen.Addr().Unmap() != want {
				err = fmt.Errorf("the other side sees %v, want %v", seen, want)
			}
			tr.mu.Lock()
			tr.lines[name]++
			if err != nil {
				tr.errs = append(tr.errs, fmt.Errorf("%s: %w", name, err))
			}
			tr.mu.Unlock()
			if err != nil {
				return
			}
			time.Sleep(pause)
		}
	})
}

// alive checks that each connection passes lines.
func (tr *traffic) alive(t *testing.T, when string) {
	t.Helper()
	count := func() map[string]int {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		if len(tr.errs) > 0 {
			t.Fatalf("%s: %v", when, errors.Join(tr.errs...))
		}
		all := map[string]int{}
		for k, n := range tr.lines {
			all[k] = n
		}
		return all
	}
	before := count()
	eventually(t, func() error {
		var still []string
		for name, n := range count() {
			if n <= before[name]+1 {
				still = append(still, name)
			}
		}
		if len(still) > 0 {
			slices.Sort(still)
			return fmt.Errorf("%s: no lines pass from %s", when, strings.Join(still, ", "))
		}
		return nil
	})
}

// saved returns all tables of iptables.
func (a *amazon) saved(t *testing.T) string {
	t.Helper()
	return a.Node.Node.Run(t, "iptables-"+a.shape.programs+"-save") + a.Node.Node.Run(t, "ip6tables-"+a.shape.programs+"-save")
}

// inKernel returns what the other agent has in the kernel of the node.
func (a *amazon) inKernel(t *testing.T) string {
	t.Helper()
	var out []string
	add := func(lines string, keep func(string) bool) {
		var some []string
		for line := range strings.Lines(lines) {
			if line = strings.TrimSpace(line); keep(line) {
				some = append(some, line)
			}
		}
		slices.Sort(some)
		out = append(out, some...)
	}
	all := func(string) bool { return true }
	run := a.Node.Node.Run
	for _, family := range []string{"-4", "-6"} {
		add(run(t, "ip", family, "-d", "rule"), all)
		add(run(t, "ip", family, "-d", "route", "show", "table", "all"), func(l string) bool {
			return !slices.ContainsFunc([]string{"table local", "proto ra", "fe80::/64", "ff00::/8"}, func(w string) bool { return strings.Contains(l, w) })
		})
		add(run(t, "ip", family, "neigh"), func(l string) bool { return strings.Contains(l, "PERMANENT") })
	}
	if a.shape.programs != "" {
		add(a.saved(t), func(l string) bool {
			return strings.HasPrefix(l, "-A") || strings.HasPrefix(l, ":AWS") || strings.HasPrefix(l, ":VPCNET")
		})
	}
	add(run(t, "nft", "list", "tables"), all)
	for i, line := range out {
		if strings.HasPrefix(line, ":") {
			out[i], _, _ = strings.Cut(line, " [")
		}
	}
	for line := range strings.Lines(run(t, "ip", "-o", "link")) {
		if fields := strings.Fields(line); strings.HasPrefix(fields[1], "eni") || strings.HasPrefix(fields[1], "vlan") {
			out = append(out, strings.Join(append(fields[1:3], fields[slices.Index(fields, "link/ether")+1:]...), " "))
		}
	}
	return strings.Join(out, "\n")
}

// TestAdopt changes a node over from each shape of amazon-vpc-cni-k8s and back. No connection
// of a pod ends, and every pod keeps its addresses. On either side a pod ends and another one
// begins.
func TestAdopt(t *testing.T) {
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) { testAdopt(t, s) })
	}
}

func testAdopt(t *testing.T, s shape) {
	vpc := vpctest.New(t)
	a := newAmazon(t, vpc, s)
	far := vpc.Node(t, "t3.small")
	farAddr, nodeAddr := s.of(far.Addr, far.Addr6), s.of(a.Addr, a.Addr6)
	far.Echo(t, netip.AddrPortFrom(farAddr, vpctest.EchoPort))
	a.addPods(t)
	tr := &traffic{lines: map[string]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer tr.wait.Wait()
	defer cancel()
	a.openAll(ctx, t, tr, far, farAddr, nodeAddr)
	tr.alive(t, "before")
	before, tags := a.inKernel(t), a.tags()

	dry := a.adopt(t, "-from", adopt.AmazonVPCCNI, "-dry-run")
	wants := []string{"rule add", "ip link set dev " + a.pods[0].link}
	if !s.ipv6 {
		wants = append(wants, "aws ec2 create-tags", "iptables-"+s.programs+"-restore")
	}
	if s.table {
		wants = append(wants, "nft delete table ip aws-cni")
	}
	for _, want := range wants {
		if !strings.Contains(dry, want) {
			t.Errorf("the plan lacks %q:\n%s", want, dry)
		}
	}
	if strings.Contains(dry, "left alone") {
		t.Errorf("the plan leaves something alone:\n%s", dry)
	}
	if diff := cmp.Diff(before, a.inKernel(t)); diff != "" {
		t.Fatalf("a dry run changes the node (-want +got):\n%s", diff)
	}
	a.adopt(t, "-from", adopt.AmazonVPCCNI)
	a.over(t, tr)
	added, gone := a.useOurs(t, tr, far)

	a.Agent.Stop(t)
	a.adopt(t, "-to", adopt.AmazonVPCCNI, "-dry-run")
	a.adopt(t, "-to", adopt.AmazonVPCCNI)
	tr.alive(t, "back")
	if got := a.adopt(t, "-to", adopt.AmazonVPCCNI); !strings.Contains(got, "nothing to do") {
		t.Errorf("a second run back has something to do:\n%s", got)
	}
	a.wantBack(t, before, tags, added, gone)
	if got, want := added.Ask(t, "tcp", s.internet()).Addr(), s.of(a.Addr, added.Addrs[0]); got != want {
		t.Errorf("the internet sees %v from our pod, want %v", got, want)
	}

	if s.killed { // over and back again, by a program that is killed all the time
		check := func() { tr.alive(t, "between") }
		a.adoptKilled(t, check, "-from", adopt.AmazonVPCCNI)
		a.Run(t)
		a.WaitReady(t)
		a.Status(t)
		tr.alive(t, "over again")
		a.Agent.Stop(t)
		a.adoptKilled(t, check, "-to", adopt.AmazonVPCCNI)
		tr.alive(t, "back again")
		a.wantBack(t, before, tags, added, gone)
	}

	// The other agent has the node: a pod ends, and another one begins.
	cancel()
	tr.wait.Wait()
	wantNoDrops(t, vpc)
	if p := a.pods[1]; len(p.nics) == 1 {
		a.delAmazon(t, p)
		a.forget(p)
		a.addPod(t, p.nics...)
	}
	a.Do(t, func() error { return a.runtime().DelNetworkList(t.Context(), added.list, added.rt) })
	a.entries = slices.DeleteFunc(a.entries, func(e adopt.Entry) bool { return e.ContainerID == added.rt.ContainerID })
	a.checkpoint(t)
}

// internet returns the server in the internet of the cluster's family.
func (s shape) internet() netip.AddrPort {
	return netip.AddrPortFrom(s.of(vpctest.InternetAddr, vpctest.InternetAddr6), vpctest.EchoPort)
}

// addPods adds pods on all ENIs in turn, or with an interface on each card, and writes the
// checkpoints.
func (a *amazon) addPods(t *testing.T) {
	t.Helper()
	enis := a.ENIs()
	at := func(e enitest.ENI, i int) nic {
		return nic{addr: a.shape.blocksOf(e)[i], card: e.Attachment.Card, table: tableOf(e)}
	}
	for i := range a.shape.busy + 1 {
		if a.shape.cards {
			a.addPod(t, at(enis[0], i), at(enis[1], i))
		} else {
			a.addPod(t, at(enis[i%len(enis)], i/len(enis)))
		}
	}
	a.checkpoint(t)
}

// openAll opens connections of each kind from and to the busy pods: to the internet, to the
// VPC, to a Service and to another pod of the node, and from the VPC to the pods and to node
// ports.
func (a *amazon) openAll(ctx context.Context, t *testing.T, tr *traffic, far *vpctest.Node, farAddr, nodeAddr netip.Addr) {
	t.Helper()
	s := a.shape
	dnat := func(to netip.AddrPort, match ...string) {
		args := slices.Concat([]string{"-t", "nat", "-A", "KUBE-SERVICES", "-p", "tcp"}, match, []string{"-j", "DNAT", "--to-destination", to.String()})
		a.Node.Node.Run(t, s.iptables(), args...)
	}
	service := netip.AddrPortFrom(s.of(netip.MustParseAddr("172.20.0.10"), netip.MustParseAddr("fd00:20::10")), 80)
	dnat(netip.AddrPortFrom(farAddr, vpctest.EchoPort), "-d", service.Addr().String(), "--dport", "80")
	for i, p := range a.pods[:s.busy] {
		for name, way := range map[string]struct {
			to   netip.AddrPort
			want netip.Addr
		}{
			"internet": {s.internet(), s.of(a.Addr, p.Addrs[0])}, "VPC": {netip.AddrPortFrom(farAddr, vpctest.EchoPort), p.Addrs[0]},
			"service": {service, p.Addrs[0]}, "neighbour": {a.pods[(i+1)%s.busy].At(0), p.Addrs[0]},
		} {
			tr.open(ctx, fmt.Sprintf("pod %d to %s", i, name), p.Dial(t, "tcp", way.to), way.want)
		}
		for k := range p.Addrs {
			tr.open(ctx, fmt.Sprintf("VPC to interface %d of pod %d", k, i), far.Dial(t, "tcp", p.At(k)), farAddr)
		}
		port := uint16(30000 + i)
		dnat(p.At(0), "--dport", fmt.Sprint(port), "-m", "addrtype", "--dst-type", "LOCAL")
		tr.open(ctx, fmt.Sprintf("node port of pod %d", i), far.Dial(t, "tcp", netip.AddrPortFrom(nodeAddr, port)), farAddr)
	}
}

// tags returns the tags of the ENIs.
func (a *amazon) tags() map[string]map[string]string {
	all := map[string]map[string]string{}
	for _, e := range a.ENIs() {
		all[e.ID] = e.Tags
	}
	return all
}

// over checks the node after the change-over, starts our agent, and checks it again.
func (a *amazon) over(t *testing.T, tr *traffic) {
	t.Helper()
	tr.alive(t, "over")
	if got := a.adopt(t, "-from", adopt.AmazonVPCCNI); !strings.Contains(got, "nothing to do") {
		t.Errorf("a second run has something to do:\n%s", got)
	}
	if text := a.saved(t); strings.Contains(text, "AWS") || !strings.Contains(text, "KUBE-SERVICES") {
		t.Errorf("iptables after the change-over:\n%s", text)
	}
	a.Run(t)
	a.WaitReady(t)
	tr.alive(t, "with our agent")
	a.wantAllocations(t)
	for _, e := range a.ENIs()[1:] {
		if e.Tags[eni.TagOwner] != "vpcnet" || e.Tags[eni.TagInstance] != a.ID() {
			t.Errorf("tags of %s: %v, want our owner tag", e.ID, e.Tags)
		}
	}
}

// useOurs ends a pod of the other plugin and adds one of ours. It returns both.
func (a *amazon) useOurs(t *testing.T, tr *traffic, far *vpctest.Node) (added *Pod, gone *amazonPod) {
	t.Helper()
	gone = a.pods[a.shape.busy]
	a.del(t, gone)
	a.forget(gone)
	a.wantAllocations(t)
	in(t, a.Host, func(h *netlink.Handle) error {
		for i := range gone.nics {
			if _, err := h.LinkByName(podLinkName(gone.Name(), i)); err == nil {
				t.Errorf("link %d of the pod is there after DEL", i)
			}
		}
		return nil
	})
	conflist := read(t, a.File("net.d/10-vpcnet.conflist"))
	added = a.AddPodWith(t, PodConfig{Conflist: conflist})
	if got := added.Ask(t, "tcp", netip.AddrPortFrom(a.shape.of(far.Addr, far.Addr6), vpctest.EchoPort)).Addr(); got != added.Addrs[0] {
		t.Errorf("the VPC sees %v, want %v", got, added.Addrs[0])
	}
	tr.alive(t, "after DEL and ADD")
	return added, gone
}

// wantAllocations checks that our agent has the addresses of all pods, with their links.
func (a *amazon) wantAllocations(t *testing.T) {
	t.Helper()
	want := map[netip.Addr]string{}
	for _, p := range a.pods {
		for i, n := range p.nics {
			want[n.addr] = podLinkName(p.Name(), i)
		}
		want[p.nics[0].addr] = p.link
	}
	a.Eventually(t, func() error { // an agent that was too busy for a DEL finds its tombstone later
		got := map[netip.Addr]string{}
		for _, p := range a.Status(t).Allocations {
			got[p.Addr] = p.Link
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(x, y netip.Addr) bool { return x == y })); diff != "" {
			return fmt.Errorf("allocations with their links (-want +got):\n%s", diff)
		}
		return nil
	})
}

// forget removes a pod that has ended.
func (a *amazon) forget(p *amazonPod) {
	a.pods = slices.DeleteFunc(a.pods, func(o *amazonPod) bool { return o == p })
	a.entries = slices.DeleteFunc(a.entries, func(e adopt.Entry) bool { return e.ContainerID == p.entry.ContainerID })
}

// wantBack checks that the other agent finds what it left, but for the pods that have ended
// and begun meanwhile.
func (a *amazon) wantBack(t *testing.T, before string, tags map[string]map[string]string, added *Pod, gone *amazonPod) {
	t.Helper()
	link := podLinkName(added.Name(), 0)
	without := func(text string, words ...string) string {
		var keep []string
		for line := range strings.SplitSeq(text, "\n") {
			marks := a.shape.table && slices.ContainsFunc([]string{"aws-cni", "AWS-CONNMARK-CHAIN", "\"AWS, CONNMARK\""}, func(w string) bool { return strings.Contains(line, w) })
			if !marks && !slices.ContainsFunc(words, func(w string) bool { return slices.Contains(strings.Fields(line), w) }) {
				keep = append(keep, line)
			}
		}
		return strings.Join(keep, "\n")
	}
	after := a.inKernel(t)
	var ended []string
	for i, n := range gone.nics {
		l := podLinkName(gone.Name(), i)
		ended = append(ended, n.addr.String(), l, fmt.Sprintf("%s@if%d:", l, i+2))
	}
	want := without(before, ended...)
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(without(after, added.Addrs[0].String(), link, link+"@if2:"), "\n")); diff != "" {
		t.Errorf("the node is not as it was (-want +got):\n%s", diff)
	}
	for _, word := range []string{"to " + added.Addrs[0].String() + " lookup main", added.Addrs[0].String() + " dev " + link, link + "@if2:"} {
		if !strings.Contains(after, word) {
			t.Errorf("the node lacks %q for our pod:\n%s", word, after)
		}
	}
	if a.shape.table && !strings.Contains(after, "-j AWS-CONNMARK-CHAIN-0") {
		t.Errorf("nothing marks connections:\n%s", after)
	}
	var entries []adopt.Entry
	for card, name := range a.checkpoints() {
		some, err := adopt.ParseCheckpoint([]byte(read(t, a.File(name))), card)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, some...)
	}
	sorted := func(all []adopt.Entry) []adopt.Entry {
		return slices.SortedFunc(slices.Values(all), func(x, y adopt.Entry) int {
			return strings.Compare(fmt.Sprint(x.Card, x.ContainerID), fmt.Sprint(y.Card, y.ContainerID))
		})
	}
	theirs := func(all []adopt.Entry) []adopt.Entry {
		return slices.DeleteFunc(sorted(all), func(e adopt.Entry) bool { return e.ContainerID == added.rt.ContainerID })
	}
	equal := cmp.Comparer(func(x, y netip.Addr) bool { return x == y })
	if diff := cmp.Diff(theirs(a.entries), theirs(entries), equal); diff != "" {
		t.Errorf("the checkpoint is not as it was (-want +got):\n%s", diff)
	}
	a.entries = entries
	for _, e := range a.ENIs() {
		want, ok := tags[e.ID]
		if !ok {
			want = map[string]string{eni.TagInstance: a.ID()} // our agent has created it
		}
		if owner := e.Tags[eni.TagOwner]; owner == "vpcnet" || want[eni.TagInstance] != e.Tags[eni.TagInstance] {
			t.Errorf("tags of %s: %v, want another owner", e.ID, e.Tags)
		}
	}
	if text := read(t, a.File("net.d/10-aws.conflist")); text != amazonConflist {
		t.Errorf("the CNI configuration of the other agent is %s", text)
	}
	if _, err := os.Stat(a.File("net.d/10-vpcnet.conflist")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("our CNI configuration: %v, want none", err)
	}
	if !bytes.HasPrefix([]byte(read(t, a.File("bin/aws-cni"))), []byte("#!/bin/sh")) {
		t.Error("the plugin of the other agent is not back")
	}
}
