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

	"github.com/vpcnet/vpcnet/cniplugin"
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
	vpc     *vpctest.VPC
	pods    []*amazonPod
	entries []adopt.Entry
}

// amazonPod is a pod that the other plugin has wired.
type amazonPod struct {
	*Pod
	entry adopt.Entry
	link  string
	table int
}

const (
	amazonConflist = `{"cniVersion":"0.4.0","name":"aws-cni","disableCheck":true,"plugins":[{"name":"aws-cni","type":"aws-cni","vethPrefix":"eni",` +
		`"mtu":"9001","podSGEnforcingMode":"strict","pluginLogFile":"","pluginLogLevel":"DEBUG","capabilities":{"io.kubernetes.cri.pod-annotations":true}}]}`
	clusterIP = "172.20.0.10"
	vpcPrefix = "10.0.0.0/16"
	// busyPods are pods with connections. One more pod has none.
	busyPods = 20
)

// newAmazon makes a node with three ENIs, of 9 addresses each.
func newAmazon(t *testing.T, vpc *vpctest.VPC, layout string) *amazon {
	t.Helper()
	machine := vpc.Node(t, "m5.large")
	a := &amazon{vpc: vpc, Node: &Node{Node: machine, dir: t.TempDir()}}
	for _, dir := range []string{"/run/vpcnet", "/run/aws-node", a.File("bin"), a.File("net.d")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	a.cfg = Config{Env: map[string]string{
		"VPCNET_SOCKET": cniplugin.DefaultSocket, "VPCNET_LAYOUT": layout, "VPCNET_CONFLIST": a.File("net.d/10-vpcnet.conflist"),
		"WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "1",
	}}
	a.write(t, a.File("net.d/10-aws.conflist"), amazonConflist)
	a.write(t, a.File("bin/vpc-cni"), read(t, Program("vpc-cni")))
	a.write(t, a.File("bin/aws-cni"), "#!/bin/sh\nexit 1\n")
	for from, to := range map[string]string{cniplugin.DefaultSocket: "agent.sock", a.File("net.d/10-vpcnet.conflist"): "10-vpcnet.conflist"} {
		if err := os.Symlink(from, a.File(to)); err != nil {
			t.Fatal(err)
		}
	}
	primary := machine.ENIs()[0]
	vpc.EC2(t, "AssignPrivateIpAddresses", "NetworkInterfaceId", primary.ID, "SecondaryPrivateIpAddressCount", "9")
	for device := 1; device <= 2; device++ {
		text := vpc.EC2(t, "CreateNetworkInterface", "SubnetId", vpc.Subnets[0].ID, "SecondaryPrivateIpAddressCount", "9", "Description", "aws-K8S-"+machine.ID(),
			"TagSpecification.1.ResourceType", "network-interface", "TagSpecification.1.Tag.1.Key", eni.TagInstance, "TagSpecification.1.Tag.1.Value", machine.ID(),
			"TagSpecification.1.Tag.2.Key", eni.TagCreated, "TagSpecification.1.Tag.2.Value", "2026-11-30T10:00:00Z")
		id := "eni-" + strings.SplitN(strings.SplitN(text, "eni-", 2)[1], "<", 2)[0]
		vpc.EC2(t, "AttachNetworkInterface", "InstanceId", machine.ID(), "NetworkInterfaceId", id, "DeviceIndex", fmt.Sprint(device))
	}
	a.wireNode(t)
	return a
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
		n, err := netlink.NewHandle()
		if err != nil {
			return err
		}
		defer n.Close()
		return f(n)
	})
}

func single(a netip.Addr) *net.IPNet { return netlink.NewIPNet(a.AsSlice()) }

var everywhere = &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}

func rule(priority, table int) *netlink.Rule {
	r := netlink.NewRule()
	r.Priority, r.Table, r.Family = priority, table, netlink.FAMILY_V4
	return r
}

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
		mark := rule(1024, 254)
		value := uint32(0x80)
		mark.Mark, mark.Mask = value, &value
		errs := []error{h.RuleAdd(mark)}
		for _, e := range a.ENIs()[1:] {
			errs = append(errs, wireENI(h, e, a.subnet()))
		}
		for key, value := range map[string]string{"ip_forward": "1", "conf/" + vpctest.Link(a.ENIs()[0]) + "/rp_filter": "2"} {
			errs = append(errs, os.WriteFile("/proc/sys/net/ipv4/"+key, []byte(value), 0o644))
		}
		return errors.Join(errs...)
	})
	for _, line := range []string{
		"-t mangle -N KUBE-KUBELET-CANARY",
		"-t nat -N KUBE-SERVICES", "-t nat -A PREROUTING -j KUBE-SERVICES",
		"-t nat -N AWS-SNAT-CHAIN-0", "-t nat -A POSTROUTING -m comment --comment AWS~SNAT~CHAIN -j AWS-SNAT-CHAIN-0",
		"-t nat -A AWS-SNAT-CHAIN-0 -d " + vpcPrefix + " -m comment --comment AWS~SNAT~CHAIN -j RETURN",
		"-t nat -A AWS-SNAT-CHAIN-0 ! -o vlan+ -m comment --comment AWS,~SNAT -m addrtype ! --dst-type LOCAL -j SNAT --to-source " + a.Addr.String() + " --random-fully",
		"-t nat -N AWS-CONNMARK-CHAIN-0", "-t nat -A PREROUTING -i eni+ -m comment --comment AWS,~outbound~connections -j AWS-CONNMARK-CHAIN-0",
		"-t nat -A PREROUTING -m comment --comment AWS,~CONNMARK -j CONNMARK --restore-mark --mask 0x80",
		"-t nat -A AWS-CONNMARK-CHAIN-0 -d " + vpcPrefix + " -m comment --comment AWS~CONNMARK~CHAIN -j RETURN",
		"-t nat -A AWS-CONNMARK-CHAIN-0 -m comment --comment AWS,~CONNMARK -j CONNMARK --set-xmark 0x80/0x80",
		"-t mangle -A PREROUTING -i " + vpctest.Link(a.ENIs()[0]) + " -m comment --comment AWS,~primary~ENI -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-mark 0x80/0x80",
		"-t mangle -A PREROUTING -i eni+ -m comment --comment AWS,~primary~ENI -j CONNMARK --restore-mark --mask 0x80",
		"-t mangle -A PREROUTING -i vlan+ -m comment --comment AWS,~primary~ENI -j CONNMARK --restore-mark --mask 0x80",
	} {
		args := strings.Fields(line)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "~", " ")
		}
		a.Node.Node.Run(t, "iptables-legacy", args...)
	}
}

// subnet returns the length of the prefix of the node's subnet.
func (a *amazon) subnet() netip.Prefix { return a.vpc.Subnets[0].Prefix }

// wireENI makes the tables and rules of a secondary ENI.
func wireENI(h *netlink.Handle, e enitest.ENI, subnet netip.Prefix) error {
	link, err := h.LinkByName(vpctest.Link(e))
	if err != nil {
		return err
	}
	addr := &net.IPNet{IP: e.Addr.AsSlice(), Mask: net.CIDRMask(subnet.Bits(), 32)}
	index, table := link.Attrs().Index, e.Attachment.Device+1
	gw := subnet.Masked().Addr().Next()
	from := rule(32765, table)
	from.Src = single(e.Addr)
	return errors.Join(
		h.LinkSetUp(link),
		h.AddrAdd(link, &netlink.Addr{IPNet: addr}),
		h.RouteReplace(&netlink.Route{LinkIndex: index, Dst: single(gw), Scope: netlink.SCOPE_LINK, Table: table}),
		h.RouteReplace(&netlink.Route{LinkIndex: index, Dst: everywhere, Gw: gw.AsSlice(), Table: table}),
		h.RouteDel(&netlink.Route{LinkIndex: index, Dst: &net.IPNet{IP: subnet.Masked().Addr().AsSlice(), Mask: addr.Mask}, Scope: netlink.SCOPE_LINK}),
		h.RuleAdd(from),
	)
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

// addPod adds a pod as the other plugin does, with an echo server, and the cached result of a
// runtime.
func (a *amazon) addPod(t *testing.T, addr netip.Addr, table int) {
	t.Helper()
	p := &amazonPod{Pod: &Pod{Pod: a.Pod(t), node: a.Node, Addrs: []netip.Addr{addr}}, table: table}
	id := sha1.Sum([]byte(p.Name() + "/container"))
	name := sha1.Sum([]byte("default." + p.Name()))
	p.link = "eni" + hex.EncodeToString(name[:])[:11]
	p.entry = adopt.Entry{
		NetworkName: "aws-cni", ContainerID: hex.EncodeToString(id[:]), IfName: "eth0", IPv4: addr,
		Timestamp: 1700000000000000000 + int64(len(a.entries)), Metadata: adopt.Metadata{Namespace: "default", Name: p.Name(), Interfaces: 1},
	}
	mac := randomMAC()
	in(t, a.Host, func(h *netlink.Handle) error {
		ns, err := netns.GetFromPath(p.Path())
		if err != nil {
			return err
		}
		defer ns.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr, attrs.MTU = p.link, mac, 9001
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns)), PeerMTU: 9001}); err != nil {
			return err
		}
		link, err := h.LinkByName(p.link)
		if err != nil {
			return err
		}
		to, from := rule(512, 254), rule(1536, table)
		to.Dst, from.Src = single(addr), single(addr)
		errs := []error{
			h.LinkSetUp(link),
			h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: single(addr), Scope: netlink.SCOPE_LINK}),
			h.RuleAdd(to),
		}
		if table != 254 {
			errs = append(errs, h.RuleAdd(from))
		}
		return errors.Join(errs...)
	})
	in(t, p.Host, func(h *netlink.Handle) error {
		link, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		gw, index := net.IPv4(169, 254, 1, 1), link.Attrs().Index
		return errors.Join(
			h.LinkSetUp(link),
			h.RouteReplace(&netlink.Route{LinkIndex: index, Dst: netlink.NewIPNet(gw), Scope: netlink.SCOPE_LINK}),
			h.RouteAdd(&netlink.Route{LinkIndex: index, Dst: everywhere, Gw: gw, Scope: netlink.SCOPE_UNIVERSE}),
			h.AddrAdd(link, &netlink.Addr{IPNet: single(addr)}),
			h.NeighAdd(&netlink.Neigh{LinkIndex: index, IP: gw, HardwareAddr: mac, State: netlink.NUD_PERMANENT}),
		)
	})
	p.Echo(t, netip.AddrPortFrom(addr, vpctest.EchoPort))
	a.cache(t, p)
	a.pods = append(a.pods, p)
	a.entries = append(a.entries, p.entry)
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
	dummy := "dummy" + strings.TrimPrefix(p.link, "eni")
	result := map[string]any{
		"cniVersion": "0.4.0", "dns": map[string]any{},
		"interfaces": []map[string]any{{"name": p.link}, {"name": "eth0", "mac": fmt.Sprint(p.table), "sandbox": p.Path()}, {"name": dummy, "mac": "0", "sandbox": "0"}},
		"ips":        []map[string]any{{"version": "4", "interface": 1, "address": p.Addrs[0].String() + "/32"}},
	}
	text, err := json.Marshal(map[string]any{
		"kind": "cniCacheV1", "containerId": p.entry.ContainerID, "ifName": "eth0", "networkName": "aws-cni", "config": []byte(amazonConflist), "result": result,
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
		to, from := rule(512, 254), rule(1536, p.table)
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

// checkpoint writes the checkpoint.
func (a *amazon) checkpoint(t *testing.T) {
	t.Helper()
	a.write(t, a.File("ipam.json"), string(adopt.FormatCheckpoint(a.entries)))
}

// adoptArgs are the arguments of ipamd for a change-over.
func (a *amazon) adoptArgs(args ...string) []string {
	return append(append([]string{"adopt"}, args...), "-checkpoint", a.File("ipam.json"), "-other-socket", "/run/aws-node/ipamd.sock",
		"-other-conflist", a.File("net.d/10-aws.conflist"), "-plugin-dir", a.File("bin"), "-sandboxes", filepath.Dir(a.pods[0].Path()))
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
			time.Sleep(5 * time.Millisecond)
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

// shapes returns what the other agent has in the kernel of the node.
func (a *amazon) shapes(t *testing.T) string {
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
	add(run(t, "ip", "-4", "-d", "rule"), all)
	add(run(t, "ip", "-4", "-d", "route", "show", "table", "all"), func(l string) bool { return !strings.Contains(l, "table local") })
	add(run(t, "ip", "-4", "neigh"), func(l string) bool { return strings.Contains(l, "PERMANENT") })
	add(run(t, "iptables-legacy-save"), func(l string) bool {
		return strings.HasPrefix(l, "-A") || strings.HasPrefix(l, ":AWS") || strings.HasPrefix(l, ":VPCNET")
	})
	add(run(t, "nft", "list", "tables"), all)
	for i, line := range out {
		if strings.HasPrefix(line, ":") {
			out[i], _, _ = strings.Cut(line, " [")
		}
	}
	for line := range strings.Lines(run(t, "ip", "-o", "link")) {
		if fields := strings.Fields(line); strings.HasPrefix(fields[1], "eni") {
			out = append(out, strings.Join(append(fields[1:3], fields[slices.Index(fields, "link/ether")+1:]...), " "))
		}
	}
	return strings.Join(out, "\n")
}

// TestAdopt changes a node with twenty pods over from amazon-vpc-cni-k8s and back, and over
// again. No connection of a pod ends, and every pod keeps its addresses. On either side a pod
// ends and another one begins.
func TestAdopt(t *testing.T) {
	for _, layout := range layouts {
		t.Run(layout, func(t *testing.T) { testAdopt(t, layout) })
	}
}

func testAdopt(t *testing.T, layout string) {
	vpc := vpctest.New(t)
	a := newAmazon(t, vpc, layout)
	far := vpc.Node(t, "t3.small")
	far.Echo(t, netip.AddrPortFrom(far.Addr, vpctest.EchoPort))
	for i := range busyPods + 1 {
		e := a.ENIs()[i/9]
		table := 254
		if i >= 9 {
			table = e.Attachment.Device + 1
		}
		a.addPod(t, e.Addrs[i%9], table)
	}
	a.checkpoint(t)
	a.Node.Node.Run(t, "iptables-legacy", "-t", "nat", "-A", "KUBE-SERVICES", "-d", clusterIP+"/32", "-p", "tcp", "--dport", "80", "-j", "DNAT", "--to-destination", netip.AddrPortFrom(far.Addr, vpctest.EchoPort).String())

	tr := &traffic{lines: map[string]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer tr.wait.Wait()
	defer cancel()
	for i, p := range a.pods[:busyPods] {
		service := netip.AddrPortFrom(netip.MustParseAddr(clusterIP), 80)
		for name, way := range map[string]struct {
			to   netip.AddrPort
			want netip.Addr
		}{
			"internet": {internet, a.Addr}, "VPC": {netip.AddrPortFrom(far.Addr, vpctest.EchoPort), p.Addrs[0]}, "service": {service, p.Addrs[0]},
			"neighbour": {a.pods[(i+10)%busyPods].At(0), p.Addrs[0]},
		} {
			tr.open(ctx, fmt.Sprintf("pod %d to %s", i, name), p.Dial(t, "tcp", way.to), way.want)
		}
		tr.open(ctx, fmt.Sprintf("VPC to pod %d", i), far.Dial(t, "tcp", p.At(0)), far.Addr)
	}
	tr.alive(t, "before")
	before, tags := a.shapes(t), a.tags()

	dry := a.adopt(t, "-from", adopt.AmazonVPCCNI, "-dry-run")
	for _, want := range []string{"aws ec2 create-tags", "ip -4 rule", "iptables-legacy-restore", "ip link set dev " + a.pods[0].link} {
		if !strings.Contains(dry, want) {
			t.Errorf("the plan lacks %q:\n%s", want, dry)
		}
	}
	if strings.Contains(dry, "left alone") {
		t.Errorf("the plan leaves something alone:\n%s", dry)
	}
	if diff := cmp.Diff(before, a.shapes(t)); diff != "" {
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
	if got := added.Ask(t, "tcp", internet).Addr(); got != a.Addr {
		t.Errorf("the internet sees %v from our pod, want %v", got, a.Addr)
	}

	// Over and back again, by a program that is killed all the time.
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

	// The other agent has the node: a pod ends, and another one begins.
	cancel()
	tr.wait.Wait()
	wantNoDrops(t, vpc)
	p := a.pods[10]
	a.delAmazon(t, p)
	a.forget(p)
	a.addPod(t, p.Addrs[0], p.table)
	a.Do(t, func() error { return a.runtime().DelNetworkList(t.Context(), added.list, added.rt) })
	a.entries = slices.DeleteFunc(a.entries, func(e adopt.Entry) bool { return e.ContainerID == added.rt.ContainerID })
	a.checkpoint(t)
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
	if text := a.Node.Node.Run(t, "iptables-legacy-save"); strings.Contains(text, "AWS") || !strings.Contains(text, "KUBE-SERVICES") {
		t.Errorf("iptables after the change-over:\n%s", text)
	}
	a.Run(t)
	a.WaitReady(t)
	tr.alive(t, "with our agent")
	if got := len(a.Status(t).Allocations); got != len(a.pods) {
		t.Errorf("our agent has %d allocations, want %d", got, len(a.pods))
	}
	for _, e := range a.ENIs()[1:] {
		if e.Tags[eni.TagOwner] != "vpcnet" || e.Tags[eni.TagInstance] != a.ID() {
			t.Errorf("tags of %s: %v, want our owner tag", e.ID, e.Tags)
		}
	}
}

// useOurs ends a pod of the other plugin and adds one of ours. It returns both.
func (a *amazon) useOurs(t *testing.T, tr *traffic, far *vpctest.Node) (added *Pod, gone *amazonPod) {
	t.Helper()
	gone = a.pods[busyPods]
	a.del(t, gone)
	a.forget(gone)
	if got := len(a.Status(t).Allocations); got != len(a.pods) {
		t.Errorf("%d allocations after DEL, want %d", got, len(a.pods))
	}
	in(t, a.Host, func(h *netlink.Handle) error {
		if _, err := h.LinkByName(gone.link); err == nil {
			t.Errorf("link %s is there after DEL", gone.link)
		}
		return nil
	})
	conflist := read(t, a.File("net.d/10-vpcnet.conflist"))
	added = a.AddPodWith(t, PodConfig{Conflist: conflist})
	if got := added.Ask(t, "tcp", netip.AddrPortFrom(far.Addr, vpctest.EchoPort)).Addr(); got != added.Addrs[0] {
		t.Errorf("the VPC sees %v, want %v", got, added.Addrs[0])
	}
	tr.alive(t, "after DEL and ADD")
	return added, gone
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
	name := sha1.Sum([]byte("default." + added.Name()))
	link := "eni" + hex.EncodeToString(name[:])[:11]
	without := func(text string, words ...string) string {
		var keep []string
		for line := range strings.SplitSeq(text, "\n") {
			if !slices.ContainsFunc(words, func(w string) bool { return slices.Contains(strings.Fields(line), w) }) {
				keep = append(keep, line)
			}
		}
		return strings.Join(keep, "\n")
	}
	after := a.shapes(t)
	want := without(before, gone.Addrs[0].String(), gone.link, gone.link+"@if2:")
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(without(after, added.Addrs[0].String(), link, link+"@if2:"), "\n")); diff != "" {
		t.Errorf("the node is not as it was (-want +got):\n%s", diff)
	}
	for _, word := range []string{"to " + added.Addrs[0].String() + " lookup main", added.Addrs[0].String() + " dev " + link, link + "@if2:"} {
		if !strings.Contains(after, word) {
			t.Errorf("the node lacks %q for our pod:\n%s", word, after)
		}
	}
	entries, err := adopt.ParseCheckpoint([]byte(read(t, a.File("ipam.json"))), 0)
	if err != nil {
		t.Fatal(err)
	}
	sorted := func(all []adopt.Entry) []adopt.Entry {
		return slices.SortedFunc(slices.Values(all), func(x, y adopt.Entry) int { return strings.Compare(x.ContainerID, y.ContainerID) })
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
		want := tags[e.ID]
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
