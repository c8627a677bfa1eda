// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// withFields returns the agent's CNI configuration with further fields of the plugin.
func withFields(t *testing.T, n *Node, fields string) PodConfig {
	t.Helper()
	text := read(t, n.File("10-vpcnet.conflist"))
	out := strings.Replace(text, `"agentSocket"`, fields+`, "agentSocket"`, 1)
	if out == text {
		t.Fatalf("no agentSocket in %s", text)
	}
	return PodConfig{Conflist: out}
}

// stateOf returns the links, routes and rules of pods on a node as commands of ip.
func stateOf(t *testing.T, n *Node) string {
	t.Helper()
	var out []string
	n.Do(t, func() error {
		h, err := datapath.Open("")
		if err != nil {
			return err
		}
		defer h.Close()
		state, err := h.Observe(t.Context())
		for line := range strings.Lines(state.String()) {
			if !strings.HasPrefix(line, "sysctl") && (strings.Contains(line, " eni") || strings.Contains(line, "vlan") || strings.Contains(line, "cbr")) {
				out = append(out, line)
			}
		}
		return err
	})
	return strings.Join(out, "")
}

// eniAt returns the ENI of the VPC that has an address.
func eniAt(t *testing.T, vpc *vpctest.VPC, a netip.Addr) enitest.ENI {
	t.Helper()
	for _, e := range vpc.Cloud.ENIs() {
		if e.Addr == a || slices.Contains(e.Addrs, a) || slices.Contains(e.IPv6Addrs, a) {
			return e
		}
	}
	t.Fatalf("no ENI has %v", a)
	return enitest.ENI{}
}

// gone returns an error if EC2 still has an ENI.
func gone(vpc *vpctest.VPC, id string) error {
	if slices.ContainsFunc(vpc.Cloud.ENIs(), func(e enitest.ENI) bool { return e.ID == id }) {
		return fmt.Errorf("%s still exists", id)
	}
	return nil
}

// reach checks that pods reach each other in both directions with their own addresses.
func reach(t *testing.T, pods ...*Pod) {
	t.Helper()
	for _, from := range pods {
		for _, to := range pods {
			if from == to {
				continue
			}
			for i := range to.Addrs {
				if got := from.Ask(t, "udp", to.At(i)).Addr(); got != from.Addrs[i] {
					t.Errorf("%v sees %v, want %v", to.Addrs[i], got, from.Addrs[i])
				}
			}
		}
	}
}

// TestWholeENI checks pods with an ENI of their own, in both layouts and with each
// combination of families: they reach pods with a veth pair on their node and on another
// one, also after the agent was killed. The pool leaves the ENI alone. A second pod is
// refused. After DEL the ENI is deleted, and the next pod gets one.
func TestWholeENI(t *testing.T) {
	t.Parallel()
	for _, layout := range layouts {
		for name, f := range families {
			t.Run(layout+"/"+name, func(t *testing.T) {
				env := map[string]string{"VPCNET_LAYOUT": layout, "WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "1"}
				maps.Copy(env, f.env)
				vpc := vpctest.New(t)
				other := Start(t, vpc.Node(t, "t3.small"), Config{Env: env})
				env = maps.Clone(env)
				env["VPCNET_WHOLE_ENIS"] = "1"
				node := Start(t, vpc.Node(t, "m5.large"), Config{Env: env})
				before := stateOf(t, node)
				veth, far := node.AddPod(t), other.AddPod(t)
				nodes := node.ENIs()[0].Groups[0]
				group := closedGroup(t, vpc, "whole", nodes)
				accept(t, vpc, nodes, group)
				conf := withFields(t, node, `"mode": "eni", "securityGroups": ["`+group+`"]`)
				pod := node.AddPodWith(t, conf)
				own := eniAt(t, vpc, pod.Addrs[0])
				if own.Attachment == nil || own.Attachment.Device == 0 || !slices.Equal(own.Groups, []string{group}) || len(pod.Addrs) != len(f.want) {
					t.Errorf("the pod has %v of %+v, want addresses of an attached ENI with group %s", pod.Addrs, own, group)
				}
				check := func(pod *Pod) {
					t.Helper()
					reach(t, veth, far, pod)
					pod.Check(t)
				}
				check(pod)
				if _, err := node.TryPod(t, conf); err == nil || !strings.Contains(err.Error(), "VPCNET_WHOLE_ENIS") {
					t.Errorf("second pod with an ENI: %v, want an error that names VPCNET_WHOLE_ENIS", err)
				}
				node.Restart(t, syscall.SIGKILL)
				check(pod)
				for _, e := range node.Status(t).ENIs {
					if e.ID == own.ID {
						t.Errorf("the pool has %+v, the ENI of a pod", e)
					}
				}
				pod.Delete(t)
				node.Eventually(t, func() error { return gone(vpc, own.ID) })
				next := node.AddPodWith(t, conf)
				check(next)
				for _, p := range []*Pod{next, veth} {
					p.Delete(t)
				}
				node.Eventually(t, func() error { return differs(before, stateOf(t, node)) })
				wantNoAllocations(t, node)
				wantNoDrops(t, vpc)
			})
		}
	}
}

// TestOwnENIEnds checks that nothing is left of a pod with an ENI of its own that ends in
// another way than by a DEL that the agent answers: its DEL comes while the agent is away, its
// sandbox ends without a DEL, the agent is killed while the ENI is attached, or has lost its
// record of the pod, which keeps the ENI until then.
func TestOwnENIEnds(t *testing.T) {
	t.Parallel()
	vpc := vpctest.New(t)
	env := map[string]string{"VPCNET_WHOLE_ENIS": "1", "WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "1"}
	node := Start(t, vpc.Node(t, "m5.large"), Config{Env: env})
	before := stateOf(t, node)
	conf := withFields(t, node, `"mode": "eni", "timeout": "20s"`)
	wantNone := func(how string) {
		t.Helper()
		deadline := time.Now().Add(2 * time.Minute)
		for {
			err := differs(before, stateOf(t, node))
			if n := len(node.ENIs()); err == nil && n > 1 {
				err = fmt.Errorf("%d ENIs, want the primary ENI alone", n)
			}
			if n := len(node.Status(t).Allocations); err == nil && n > 0 {
				err = fmt.Errorf("%d allocations", n)
			}
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v", how, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	pod := node.AddPodWith(t, conf)
	node.Agent.Signal(t, syscall.SIGKILL)
	<-node.Agent.Done()
	pod.Delete(t)
	node.Run(t)
	node.WaitReady(t)
	wantNone("DEL while the agent is away")

	lost := node.AddPodWith(t, conf)
	lost.Pod.Delete(t) // the sandbox alone
	wantNone("sandbox ended without a DEL")

	vpc.Cloud.AddFault(enitest.Fault{Action: "AttachNetworkInterface", Times: 1, Delay: 3 * time.Second})
	go func() {
		for !slices.ContainsFunc(vpc.Cloud.ENIs(), func(e enitest.ENI) bool { return e.Attachment == nil && e.Tags["vpcnet/pod"] == "true" }) {
			time.Sleep(10 * time.Millisecond)
		}
		node.Agent.Signal(t, syscall.SIGKILL)
	}()
	if _, err := node.TryPod(t, conf); err == nil {
		t.Error("ADD succeeded although the agent was killed")
	}
	<-node.Agent.Done()
	node.Run(t)
	node.WaitReady(t)
	wantNone("killed while the ENI is attached")

	next := node.AddPodWith(t, conf)
	node.Agent.Signal(t, syscall.SIGKILL)
	<-node.Agent.Done()
	if err := os.RemoveAll(node.File("state/pods")); err != nil {
		t.Fatal(err)
	}
	node.Run(t)
	node.Eventually(t, func() error { return logged(node, eniAt(t, vpc, next.Addrs[0]).ID, "a pod may use it") })
	next.Ask(t, "udp", netip.AddrPortFrom(vpctest.PeerAddr, vpctest.EchoPort))
	next.Delete(t)
	node.Restart(t, syscall.SIGKILL) // looks for ENIs without a pod at once
	wantNone("record lost")
}

// TestOwnENIRefused checks that pods that ask for what the node does not give do not start,
// that the errors say what to do, and that nothing is left of them.
func TestOwnENIRefused(t *testing.T) {
	t.Parallel()
	vpc := vpctest.New(t)
	plain := Start(t, vpc.Node(t, "m5.large"), Config{})
	small := Start(t, vpc.Node(t, "t3.small"), Config{Env: map[string]string{"ENABLE_POD_ENI": "true", "WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "1"}})
	for _, c := range []struct {
		node   *Node
		fields string
		want   string
	}{
		{plain, `"mode": "eni"`, "VPCNET_WHOLE_ENIS"},
		{plain, `"securityGroups": ["sg-0a"]`, "ENABLE_POD_ENI"},
		{small, `"securityGroups": ["sg-0a"]`, "instances of type t3.small have no branch ENIs"},
		{plain, `"mode": "macvlan"`, "want eni, ipvlan or bridge"},
		{plain, `"mode": "ipvlan", "securityGroups": ["sg-0a"]`, "want none with mode ipvlan"},
		{plain, `"mode": "eni", "args": {"cni": {"mac": "02:00:00:00:00:05"}}`, "cannot choose its MAC"},
		{plain, `"mode": "eni", "args": {"cni": {"ips": ["10.0.0.9"]}}`, "cannot choose its address"},
	} {
		if _, err := c.node.TryPod(t, withFields(t, c.node, c.fields)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s on %s: %v, want an error with %q", c.fields, c.node.Name(), err, c.want)
		}
	}
	for _, n := range []*Node{plain, small} {
		wantNoAllocations(t, n)
		if entries, err := os.ReadDir(n.File("state/pods")); err != nil || len(entries) > 0 {
			t.Errorf("records %v, %v after refused ADDs, want none", entries, err)
		}
	}
}

// TestBridge checks pods on a bridge with addresses of prefixes of their nodes, in both layouts
// and with both families: on one node and across nodes they see each other's addresses, the
// internet sees the node, and a ClusterIP leads to a pod of another node, also after the agent
// was killed. A node with the prefix of another node gives no pod addresses of it.
func TestBridge(t *testing.T) {
	t.Parallel()
	for _, layout := range layouts {
		t.Run(layout, func(t *testing.T) {
			vpc := vpctest.New(t)
			tables := vpc.Cloud.RouteTables()
			env := func(n string) map[string]string {
				return map[string]string{
					"VPCNET_LAYOUT": layout, "VPCNET_NODE_PREFIX": "100.65." + n + ".0/24,fd00:65:0:" + n + "::/64", "VPCNET_VPC_ROUTE_TABLES": tables[0].ID,
					"AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS": "100.64.0.0/10",
				}
			}
			node, other := Start(t, vpc.Node(t, "t3.small"), Config{Env: env("129")}), Start(t, vpc.Node(t, "t3.small"), Config{Env: env("130")})
			vpc.EC2(t, "AuthorizeSecurityGroupIngress", "GroupId", node.ENIs()[0].Groups[0], "IpPermissions.1.IpProtocol", "-1",
				"IpPermissions.1.IpRanges.1.CidrIp", "100.64.0.0/10", "IpPermissions.1.Ipv6Ranges.1.CidrIpv6", "fd00:65::/32")
			before := stateOf(t, node)
			bridged := withFields(t, node, `"mode": "bridge"`)
			pod, near := node.AddPodWith(t, bridged), node.AddPodWith(t, bridged)
			far := other.AddPodWith(t, withFields(t, other, `"mode": "bridge"`))
			veth := node.AddPod(t)
			if want := netip.MustParsePrefix("100.65.129.0/24"); !want.Contains(pod.Addrs[0]) || pod.Addrs[0] == near.Addrs[0] || len(pod.Addrs) != 2 {
				t.Errorf("pods have %v and %v, want addresses of %v and of IPv6", pod.Addrs, near.Addrs, want)
			}
			for _, n := range []*Node{node, other} {
				if n.ENIs()[0].SourceDestCheck {
					t.Errorf("%s: the source/destination check is on", n.Name())
				}
			}
			const service = "100.64.31.116"
			rules := fmt.Sprintf("add table ip service; add chain ip service pre { type nat hook prerouting priority dstnat; }; add rule ip service pre ip daddr %s udp dport 80 dnat to %v", service, far.At(0))
			node.Node.Run(t, "nft", rules)
			check := func() {
				t.Helper()
				reach(t, pod, near, far)
				for _, p := range []*Pod{pod, far} {
					if got := p.Ask(t, "tcp", netip.AddrPortFrom(vpctest.InternetAddr, vpctest.EchoPort)).Addr(); got != p.node.Addr {
						t.Errorf("the internet sees %v from %v, want the node, %v", got, p.Addrs[0], p.node.Addr)
					}
					p.Check(t)
				}
				if got := pod.Ask(t, "udp", netip.MustParseAddrPort(service+":80")).Addr(); got != pod.Addrs[0] {
					t.Errorf("the endpoint of the service sees %v, want %v", got, pod.Addrs[0])
				}
				if got := veth.Ask(t, "udp", pod.At(0)).Addr(); got != veth.Addrs[0] {
					t.Errorf("%v sees %v, want %v", pod.Addrs[0], got, veth.Addrs[0])
				}
			}
			check()
			node.Restart(t, syscall.SIGKILL)
			check()
			extra := node.AddPodWith(t, bridged)
			for _, p := range []*Pod{pod, near, far, veth} {
				if extra.Addrs[0] == p.Addrs[0] {
					t.Errorf("two pods have %v", extra.Addrs[0])
				}
			}
			for _, p := range []*Pod{extra, pod, near, veth} {
				p.Delete(t)
			}
			node.Eventually(t, func() error { return differs(before, withoutBridge(stateOf(t, node))) })
			wantNoAllocations(t, node)
			wrong := Start(t, vpc.Node(t, "t3.small"), Config{Env: env("130")})
			if _, err := wrong.TryPod(t, withFields(t, wrong, `"mode": "bridge"`)); err == nil || !strings.Contains(err.Error(), "no other node has the prefix") {
				t.Errorf("pod of a prefix that is another node's: %v, want an error that says so", err)
			}
		})
	}
}

// withoutBridge removes the lines about the bridge itself, which stays on a node.
func withoutBridge(state string) string {
	var out []string
	for line := range strings.Lines(state) {
		if !strings.Contains(line, " dev cbr0") && !strings.Contains(line, " cbr0 ") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

// lackingKind returns the kind of links, of those that the test needs, that the kernel lacks.
func lackingKind(t *testing.T, n *vpctest.Node) (lacking string) {
	n.Do(t, func() error {
		named := func(name string, parent int) netlink.LinkAttrs {
			a := netlink.NewLinkAttrs()
			a.Name, a.ParentIndex = name, parent
			return a
		}
		below := &netlink.Veth{LinkAttrs: named("below", 0), PeerName: "below2"}
		if err := netlink.LinkAdd(below); err != nil {
			return err
		}
		defer func() { _ = netlink.LinkDel(below) }()
		for kind, link := range map[string]netlink.Link{
			"vlan":   &netlink.Vlan{LinkAttrs: named("v", below.Index), VlanId: 1},
			"ipvlan": &netlink.IPVlan{LinkAttrs: named("i", below.Index), Mode: netlink.IPVLAN_MODE_L2},
		} {
			if err := netlink.LinkAdd(link); errors.Is(err, unix.EOPNOTSUPP) {
				lacking = kind
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	return lacking
}

// TestOtherKinds checks pods with branch ENIs and with ipvlan links. If this kernel has no
// such links, the test of internal/vm runs it on one that does.
func TestOtherKinds(t *testing.T) {
	if lacking := lackingKind(t, vpctest.New(t).Node(t, "t3.small")); lacking != "" {
		if inVM() {
			t.Fatalf("this kernel has no links of kind %s", lacking)
		}
		t.Logf("no links of kind %s here: internal/vm runs this test", lacking)
		return
	}
	// The machine is emulated, and not every combination adds something.
	for _, c := range []struct{ kind, layout, families string }{
		{"strict", "flat", "dual-stack"},
		{"strict", "per-pod", "IPv4"},
		{"strict", "per-pod", "IPv6"},
		{"standard", "flat", "IPv4"},
		{"standard", "per-pod", "dual-stack"},
		{"standard", "flat", "IPv6"},
		{"ipvlan", "flat", "IPv4"},
		{"ipvlan", "flat", "IPv6"},
		{"ipvlan", "per-pod", "dual-stack"},
	} {
		f := families[c.families]
		t.Run(c.kind+"/"+c.layout+"/"+c.families, func(t *testing.T) {
			if c.kind == "ipvlan" {
				testIPVLAN(t, c.layout, f.env, f.want)
				return
			}
			testBranches(t, c.layout, c.kind, f.env, f.want)
		})
	}
}

// blocksOf returns blocks of a pod's addresses, in the notation of the file of policies.
func blocksOf(p *Pod) string {
	var blocks []string
	for _, a := range p.Addrs {
		blocks = append(blocks, fmt.Sprintf(`{"prefix": "%s/%d"}`, a, a.BitLen()))
	}
	return strings.Join(blocks, ", ")
}

// closedGroup creates a security group that accepts packets from one other group only.
func closedGroup(t *testing.T, vpc *vpctest.VPC, name, from string) string {
	t.Helper()
	answer := vpc.EC2(t, "CreateSecurityGroup", "GroupName", name, "GroupDescription", name, "VpcId", vpc.ID)
	id := "sg-" + strings.SplitN(strings.SplitN(answer, "sg-", 2)[1], "<", 2)[0]
	if from != "" {
		accept(t, vpc, id, from)
	}
	return id
}

// accept has a security group accept everything from the ENIs of another one.
func accept(t *testing.T, vpc *vpctest.VPC, group, from string) {
	t.Helper()
	vpc.EC2(t, "AuthorizeSecurityGroupIngress", "GroupId", group, "IpPermissions.1.IpProtocol", "-1", "IpPermissions.1.Groups.1.GroupId", from)
}

// testBranches checks pods with branch ENIs: their groups decide which pods reach them, also
// on their own node if the mode is strict, and after the agent was killed. A repeated
// allocation has another VLAN until the branch ENI of a deleted pod has cooled.
func testBranches(t *testing.T, layout, mode string, families map[string]string, want []bool) {
	env := map[string]string{
		"VPCNET_LAYOUT": layout, "WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "1", "ENABLE_POD_ENI": "true",
		"POD_SECURITY_GROUP_ENFORCING_MODE": mode, "VPCNET_BRANCH_ENI_COOLDOWN": "10",
	}
	maps.Copy(env, families)
	vpc := vpctest.New(t)
	policies := t.TempDir() + "/policies.json"
	writeFile(t, policies, "{}")
	limited := maps.Clone(env)
	limited["VPCNET_NETWORK_POLICIES"] = policies
	node, other := Start(t, vpc.Node(t, "m5.large"), Config{Env: limited}), Start(t, vpc.Node(t, "m5.large"), Config{Env: env})
	client := closedGroup(t, vpc, "client", "")
	server := closedGroup(t, vpc, "server", client)
	veth, far := node.AddPod(t), other.AddPod(t)
	served := withFields(t, node, `"securityGroups": ["`+server+`"]`)
	served.Args = named("server").Args
	pod := node.AddPodWith(t, served)
	near := node.AddPodWith(t, PodConfig{Capabilities: map[string]any{"securityGroups": []string{client}}, Args: named("near").Args})
	away := other.AddPodWith(t, withFields(t, other, `"securityGroups": ["`+client+`"]`))
	own := eniAt(t, vpc, pod.Addrs[0])
	if own.Trunk == nil || !slices.Equal(own.Groups, []string{server}) || len(pod.Addrs) != len(want) {
		t.Errorf("the pod has %v of %+v, want addresses of a branch ENI with group %s", pod.Addrs, own, server)
	}
	before := stateOf(t, node)
	check := func() {
		t.Helper()
		for i := range pod.Addrs {
			for _, from := range []*Pod{near, away} {
				if got := from.Ask(t, "udp", pod.At(i)).Addr(); got != from.Addrs[i] {
					t.Errorf("%v sees %v, want %v", pod.Addrs[i], got, from.Addrs[i])
				}
			}
			// The group of the server does not accept the groups of the nodes.
			if err := askErr(t, far, pod.At(i)); err == nil {
				t.Errorf("%v reaches %v, which its group forbids", far.Addrs[i], pod.Addrs[i])
			}
			if mode == "standard" {
				veth.Ask(t, "udp", pod.At(i))
			} else if err := askErr(t, veth, pod.At(i)); err == nil {
				t.Errorf("%v reaches %v on its own node, in the mode %s", veth.Addrs[i], pod.Addrs[i], mode)
			}
		}
		for _, p := range []*Pod{pod, near, away} {
			p.Check(t)
		}
	}
	check()
	node.Restart(t, syscall.SIGKILL)
	check()
	for _, c := range []struct {
		policies   string
		near, away bool
	}{
		{`{"classes": {"closed": {"egress": {"isolated": true}}}, "pods": [{"pod": "default/near", "class": "closed"}]}`, false, true},
		{`{"classes": {"one": {"ingress": {"isolated": true, "allow": [{"peers": [` + blocksOf(near) + `], "ports": [{"protocol": "udp"}]}]}}}, "pods": [{"pod": "default/server", "class": "one"}]}`, true, false},
		{`{}`, true, true},
	} {
		writeFile(t, policies, c.policies)
		node.Agent.Signal(t, syscall.SIGHUP)
		for i := range pod.Addrs {
			node.Eventually(t, func() error {
				if (askErr(t, near, pod.At(i)) == nil) != c.near || (askErr(t, away, pod.At(i)) == nil) != c.away {
					return fmt.Errorf("%v under %s: want answers for the near pod %t and for the other %t", pod.Addrs[i], c.policies, c.near, c.away)
				}
				return nil
			})
		}
	}
	extra := node.AddPodWith(t, withFields(t, node, `"securityGroups": ["`+client+`"]`))
	second := eniAt(t, vpc, extra.Addrs[0])
	extra.Delete(t)
	if e := eniAt(t, vpc, extra.Addrs[0]); e.Trunk == nil || e.Trunk.VLANID != second.Trunk.VLANID {
		t.Errorf("%s is not cooling after the DEL: %+v", e.ID, e)
	}
	node.Eventually(t, func() error { return differs(before, stateOf(t, node)) })
	node.Eventually(t, func() error { return gone(vpc, second.ID) })
	for _, p := range []*Pod{pod, near, veth, away, far} {
		p.Delete(t)
	}
	for _, e := range []string{own.ID} {
		node.Eventually(t, func() error { return gone(vpc, e) })
	}
	wantNoAllocations(t, node)
	wantNoDrops(t, vpc)
}

// testIPVLAN checks pods with an ipvlan link: packets between them and pods of other nodes
// do not pass their node's routing, and they reach pods of their own node too.
func testIPVLAN(t *testing.T, layout string, families map[string]string, want []bool) {
	env := map[string]string{"VPCNET_LAYOUT": layout, "WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "1"}
	maps.Copy(env, families)
	vpc := vpctest.New(t)
	node, other := Start(t, vpc.Node(t, "t3.small"), Config{Env: env}), Start(t, vpc.Node(t, "t3.small"), Config{Env: env})
	before := stateOf(t, node)
	veth, far := node.AddPod(t), other.AddPod(t)
	pod := node.AddPodWith(t, withFields(t, node, `"mode": "ipvlan"`))
	if len(pod.Addrs) != len(want) {
		t.Fatalf("the pod has %v", pod.Addrs)
	}
	check := func() {
		t.Helper()
		reach(t, veth, far, pod)
		pod.Check(t)
		for _, a := range pod.Addrs {
			if a.Is4() {
				if got := pod.Ask(t, "tcp", netip.AddrPortFrom(vpctest.InternetAddr, vpctest.EchoPort)).Addr(); got != node.Addr {
					t.Errorf("the internet sees %v from %v, want the node, %v", got, a, node.Addr)
				}
			}
		}
	}
	check()
	node.Restart(t, syscall.SIGKILL)
	check()
	for _, p := range []*Pod{pod, veth} {
		p.Delete(t)
	}
	node.Eventually(t, func() error { return differs(before, stateOf(t, node)) })
	wantNoAllocations(t, node)
	wantNoDrops(t, vpc)
}

// askErr asks an echo server, and returns an error if no answer comes within two seconds.
func askErr(t *testing.T, p *Pod, to netip.AddrPort) error {
	t.Helper()
	_, err := ask(t, p, netip.AddrPort{}, to, 2*time.Second)
	return err
}
