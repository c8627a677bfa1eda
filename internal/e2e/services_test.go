// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/vpcnet/vpcnet/eni/vpctest"
	"github.com/vpcnet/vpcnet/internal/nodetest"
)

// factors are the settings of a node beside kube-proxy.
var factors = []factor{
	{"proxy", []string{"iptables", "nftables"}},   // mode of kube-proxy
	{"backend", []string{"nftables", "iptables"}}, // of the agent's translation
	{"programs", []string{"nft", "legacy"}},       // variant of iptables
	{"layout", []string{"flat", "per-pod"}},
	{"first", []string{"agent", "proxy"}}, // which of them starts before the other
	{"rp_filter", []string{"0", "1", "2"}},
	{"family", []string{"IPv4", "IPv6", "dual-stack"}},
}

// serviceCIDR4 is the prefix of the Services.
const serviceCIDR4 = "172.20.0.0/16"

// cluster is a node with an agent, kube-proxy and two pods, and a pod of another node.
type cluster struct {
	row     row
	vpc     *vpctest.VPC
	node    *nodetest.Node
	proxy   *proxy
	a, b    *nodetest.Pod // on the primary and, unless IPv6 is the only family, on the second ENI
	far     *nodetest.Pod
	farNode *nodetest.Node
}

// TestServices runs a node in each combination of settings of a table in which each pair
// occurs, or in every combination with -long, and connects to Services and host ports: from
// pods, from another node, from the peered network and from the internet. What started first
// is then started again, and all is checked once more.
func TestServices(t *testing.T) {
	rows := covering(factors)
	if *long {
		rows = product(factors)
	}
	for _, r := range rows {
		t.Run(r.name(factors), func(t *testing.T) {
			c := newCluster(t, r)
			c.check(t)
			if r["first"] == "agent" {
				c.node.Restart(t, syscall.SIGKILL)
			} else {
				c.proxy.Stop(t)
				c.node.Node.Run(t, kubeProxy(), "--config", c.proxy.config, "--cleanup")
				c.proxy.start(t)
			}
			c.check(t)
			d := c.vpc.Drops(t)
			for eni, n := range d.Spoofed {
				if n > 0 {
					t.Errorf("%d packets left by %s, which does not own their source", n, eni)
				}
			}
		})
	}
}

// usePrograms makes iptables the given variant for this process and what it starts.
func usePrograms(t *testing.T, variant string) {
	t.Helper()
	program, err := exec.LookPath("xtables-" + variant + "-multi")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
		if err := os.Symlink(program, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func newCluster(t *testing.T, r row) *cluster {
	t.Helper()
	usePrograms(t, r["programs"])
	c := &cluster{row: r, vpc: vpctest.New(t)}
	for ranges, all := range map[string]string{"IpRanges.1.CidrIp": "0.0.0.0/0", "Ipv6Ranges.1.CidrIpv6": "::/0"} {
		c.vpc.EC2(t, "AuthorizeSecurityGroupIngress", "GroupId", c.vpc.DefaultGroup(), "IpPermissions.1.IpProtocol", "-1", "IpPermissions.1."+ranges, all)
	}
	env := map[string]string{
		"VPCNET_LAYOUT": r["layout"], "WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "1",
		"ENABLE_IPv4": fmt.Sprint(r["family"] != "IPv6"), "ENABLE_IPv6": fmt.Sprint(r["family"] != "IPv4"),
	}
	far := maps.Clone(env)
	env["VPCNET_SNAT_BACKEND"] = r["backend"]
	if r["backend"] == "iptables" && r["proxy"] == "nftables" {
		env["AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS"] = serviceCIDR4 // see the limits of snat.IptablesRuleset
	}
	plain := c.vpc.Node(t, "t3.nano") // with one address for pods on each ENI
	for _, of := range []string{"all", "default", "ens5"} {
		plain.Run(t, "sysctl", "-qw", "net.ipv4.conf."+of+".rp_filter="+r["rp_filter"])
	}
	addrs := map[string][]netip.Addr{"IPv4": {plain.Addr}, "IPv6": {plain.Addr6}, "dual-stack": {plain.Addr, plain.Addr6}}[r["family"]]
	c.proxy = newProxy(t, plain, r["proxy"], addrs)
	if r["first"] == "proxy" {
		c.proxy.start(t)
	}
	c.node = nodetest.Start(t, plain, nodetest.Config{Env: env})
	if r["first"] == "agent" {
		c.proxy.start(t)
	}
	c.farNode = nodetest.Start(t, c.vpc.Node(t, "t3.nano"), nodetest.Config{Env: far})
	c.a, c.b, c.far = c.addPod(t, 0), c.addPod(t, 1), c.farNode.AddPod(t)
	// With IPv6 only, the prefix of the primary ENI has addresses for all pods.
	if enis := c.node.ENIs(); len(enis) != 2 && r["family"] != "IPv6" {
		t.Fatalf("%d ENIs, want a second one for the second pod", len(enis))
	}
	for family := range c.a.Addrs {
		for i, p := range []*nodetest.Pod{c.a, c.b, c.far} {
			node := c.node.Name()
			if p == c.far {
				node = c.farNode.Name()
			}
			for _, local := range []bool{false, true} {
				s := service{name: fmt.Sprintf("pod%d-%d-%v", i, family, local), cluster: c.clusterIP(family, i), nodePort: c.nodePort(family, i, local), local: local, endpoint: p.Addrs[family], node: node}
				if local {
					s.cluster = c.clusterIP(family, 10+i)
				}
				c.proxy.api.addService(s)
			}
		}
		outside := vpctest.InternetAddr
		if c.a.Addrs[family].Is6() {
			outside = vpctest.InternetAddr6
		}
		c.proxy.api.addService(service{name: fmt.Sprintf("outside-%d", family), cluster: c.clusterIP(family, 3), endpoint: outside})
	}
	c.proxy.wait(t)
	return c
}

// addPod adds a pod with host ports for TCP and UDP.
func (c *cluster) addPod(t *testing.T, i int) *nodetest.Pod {
	t.Helper()
	text, err := os.ReadFile(c.node.File("10-vpcnet.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	var list map[string]any
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	list["plugins"] = append(list["plugins"].([]any), object{"type": "portmap", "snat": true, "backend": c.row["proxy"], "capabilities": object{"portMappings": true}})
	if text, err = json.Marshal(list); err != nil {
		t.Fatal(err)
	}
	var mappings []object
	for _, protocol := range []string{"tcp", "udp"} {
		mappings = append(mappings, object{"hostPort": hostPort(i), "containerPort": vpctest.EchoPort, "protocol": protocol})
	}
	return c.node.AddPodWith(t, nodetest.PodConfig{Conflist: string(text), Capabilities: map[string]any{"portMappings": mappings}})
}

// clusterIP returns the address of Service i.
func (c *cluster) clusterIP(family, i int) netip.Addr {
	if c.a.Addrs[family].Is6() {
		return netip.MustParseAddr(fmt.Sprintf("fd00:20::%x", 10+i))
	}
	return netip.AddrFrom4([4]byte{172, 20, 0, byte(10 + i)})
}

// nodePort returns the node port of the pods a, b and far.
func (c *cluster) nodePort(family, i int, local bool) uint16 {
	port := uint16(30000 + 100*family + i)
	if local {
		port += 10
	}
	return port
}

func hostPort(i int) uint16 { return uint16(8080 + i) }

// check connects to everything in each family of the pods.
func (c *cluster) check(t *testing.T) {
	t.Helper()
	for family := range c.a.Addrs {
		c.checkOut(t, family)
		c.checkIn(t, family)
	}
	for _, p := range []*nodetest.Pod{c.a, c.b} {
		p.Check(t)
	}
}

// asks checks the source that a server sees over TCP and UDP.
func asks(t *testing.T, what string, from *vpctest.Host, to netip.AddrPort, want ...netip.Addr) {
	t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		if got := from.Ask(t, network, to).Addr(); !slices.Contains(want, got) {
			t.Errorf("%s: %s to %v: the server sees %v, want %v", what, network, to, got, want)
		}
	}
}

// checkOut connects from the node and its pods to the VPC, to the internet and to Services.
func (c *cluster) checkOut(t *testing.T, family int) {
	t.Helper()
	internet, internetSees, node := vpctest.InternetAddr, c.node.Addr, c.node.Addr
	is6 := c.a.Addrs[family].Is6()
	if is6 {
		internet, node = vpctest.InternetAddr6, c.node.Addr6
	}
	at := func(i int) netip.AddrPort { return netip.AddrPortFrom(c.clusterIP(family, i), vpctest.EchoPort) }
	for i, p := range []*nodetest.Pod{c.a, c.b} {
		own := p.Addrs[family]
		if is6 {
			internetSees = own
		}
		asks(t, "pod to pod of the other node", p.Host, c.far.At(family), own)
		asks(t, "pod to the internet", p.Host, netip.AddrPortFrom(internet, vpctest.EchoPort), internetSees)
		asks(t, "pod to Service with the other pod", p.Host, at(1-i), own)
		asks(t, "pod to Service with a pod of the other node", p.Host, at(2), own)
		asks(t, "pod to Service with itself", p.Host, at(i), c.nodeAddrs(family)...)
		if !is6 && c.row["backend"] == "iptables" && p == c.b { // see the limits of snat.IptablesRuleset
			p.NoAnswer(t, "udp", at(3))
		} else {
			asks(t, "pod to Service outside of the VPC", p.Host, at(3), internetSees)
		}
		asks(t, "node to Service", c.node.Host, at(i), node)
	}
	asks(t, "node to Service with a pod of the other node", c.node.Host, at(2), node)
}

// nodeAddrs returns the addresses of the node's ENIs, which are possible after masquerading.
func (c *cluster) nodeAddrs(family int) (addrs []netip.Addr) {
	if c.a.Addrs[family].Is6() {
		return []netip.Addr{c.node.Addr6}
	}
	for _, e := range c.node.ENIs() {
		addrs = append(addrs, e.Addr)
	}
	return addrs
}

// checkIn connects from outside of the node to its node ports and host ports, at the address
// of each ENI.
func (c *cluster) checkIn(t *testing.T, family int) {
	t.Helper()
	is6 := c.a.Addrs[family].Is6()
	peer, internet := vpctest.PeerAddr, vpctest.InternetAddr
	if is6 {
		peer, internet = vpctest.PeerAddr6, vpctest.InternetAddr6
	}
	clients := []struct {
		host *vpctest.Host
		addr netip.Addr
	}{{c.far.Host, c.far.Addrs[family]}, {c.vpc.Peer(), peer}, {c.vpc.Internet(), internet}}
	for _, at := range c.nodeAddrs(family) {
		for _, client := range clients {
			if client.addr == internet && !is6 && at != c.node.Addr {
				continue // a second ENI has no public address
			}
			to := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(at, port) }
			for i := range 3 {
				asks(t, fmt.Sprintf("node port, policy Cluster, pod %d", i), client.host, to(c.nodePort(family, i, false)), c.nodeAddrs(family)...)
				if i < 2 {
					asks(t, fmt.Sprintf("node port, policy Local, pod %d", i), client.host, to(c.nodePort(family, i, true)), client.addr)
					asks(t, fmt.Sprintf("host port, pod %d", i), client.host, to(hostPort(i)), client.addr)
				}
			}
		}
	}
}
