// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	"bufio"
	_ "embed"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

//go:embed objects.yaml
var objects string

//go:embed dns.yaml
var dns string

// TestKubernetes takes two nodes without a network plugin to running pods, and asks of them
// what users of a cluster do. No sandbox fails. It belongs to the long tier.
func TestKubernetes(t *testing.T) {
	c := newCluster(t)
	step := func(name string, pods int, f func(step *testing.T)) {
		t.Helper()
		began, before := time.Now(), calls(c.vpc)
		if !t.Run(name, f) {
			t.FailNow()
		}
		failed, err := c.failedSandboxes()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range failed {
			t.Errorf("%s: a sandbox failed: %s", name, f)
		}
		n1 := c.nodes[0]
		t.Logf("%s: %d pods, %d failed sandboxes, %.1f s, %d EC2 calls, ipamd %d MB, containerd %d MB, kubelet %d MB", name, pods, len(failed),
			time.Since(began).Seconds(), calls(c.vpc)-before, n1.resident(t, "ipamd"), n1.resident(t, "containerd"), n1.resident(t, "kubelet"))
	}
	c.notReady(t)
	step("ready once the chart is installed", 0, func(step *testing.T) {
		c.chart(step, "install", "image.tag=v1")
		c.waitReady(step)
	})
	n := *replicas
	step("pods from an empty pool", n, c.deploy)
	step("traffic", n, c.traffic)
	step("DNS of the cluster", n, c.names)
	step("rollout", n, c.rollout)
	step("scaled from 0 with restarts of the agents", n, c.restarts)
	step("drain", n, c.drain)
	step("upgrade of the chart", n, c.upgrade)
	step("removal and installation of the chart", n, c.reinstall)
	step("nothing is left", 0, func(step *testing.T) {
		c.kubectl(step, "", "delete", "deployment/web", "daemonset/host-port")
		c.kubectl(step, "", "--namespace", "kube-system", "delete", "deployment/coredns")
		for _, m := range c.nodes {
			eventually(step, func() error { return m.left(step, nil) })
		}
	})
}

// notReady waits until kubelet says that there is no network plugin.
func (c *cluster) notReady(t *testing.T) {
	eventually(t, func() error {
		ready, other, err := c.ready()
		if err != nil {
			return err
		}
		if len(ready) > 0 {
			t.Fatalf("nodes are ready without a network plugin, since %v", ready)
		}
		if len(other) < len(c.nodes) || !strings.Contains(other[0], "cni plugin not initialized") {
			return fmt.Errorf("nodes: %v", other)
		}
		return nil
	})
}

// deploy starts the pods at once. Each has an address of an ENI of its node.
func (c *cluster) deploy(t *testing.T) {
	c.kubectl(t, objects, "apply", "-f", "-")
	c.addresses(t, c.scale(t, *replicas))
}

// scale changes the number of pods, and waits until so many are ready.
func (c *cluster) scale(t *testing.T, n int) []pod {
	t.Helper()
	c.kubectl(t, "", "scale", "deployment", "web", "--replicas="+strconv.Itoa(n))
	return c.waitPods(t, "app=web", n)
}

// addresses checks that each pod has an address of its own, which an ENI of its node has.
func (c *cluster) addresses(t *testing.T, all []pod) {
	t.Helper()
	seen := map[string]string{}
	for _, p := range all {
		if o, ok := seen[p.addr]; ok {
			t.Errorf("pods %s and %s have the address %s", o, p.name, p.addr)
		}
		seen[p.addr] = p.name
		if c.device(p) < 0 {
			t.Errorf("no ENI of %s has the address %s of %s", p.node, p.addr, p.name)
		}
	}
}

// device returns the device index of the ENI that has the address of a pod, -1 if the node has
// none.
func (c *cluster) device(p pod) int {
	for _, e := range c.node(p.node).ENIs() {
		for _, a := range e.Addrs {
			if a.String() == p.addr {
				return e.Attachment.Device
			}
		}
	}
	return -1
}

// traffic takes the ways to pods on the primary and on second ENIs.
func (c *cluster) traffic(t *testing.T) {
	all, err := c.pods("app=web")
	if err != nil {
		t.Fatal(err)
	}
	pick := func(node string, second bool) pod {
		for _, p := range all {
			if p.node == node && (c.device(p) > 0) == second {
				return p
			}
		}
		t.Fatalf("no pod of %s is on a second ENI: %t", node, second)
		return pod{}
	}
	first, second, far, farSecond := pick("n1", false), pick("n1", true), pick("n2", false), pick("n2", true)
	sees := func(from pod, to, want string) {
		t.Helper()
		if got := c.ask(t, from, to); want != "" && got != want {
			t.Errorf("from %s to %s: the server saw %s, want %s", from.addr, to, got, want)
		}
	}
	for _, a := range []pod{first, second, far, farSecond} {
		for _, b := range []pod{first, second, far, farSecond} {
			if a != b {
				sees(a, b.addr+":8080", a.addr)
			}
		}
	}
	c.kubectl(t, "", "label", "pod", second.name, "one=yes")
	for _, p := range []pod{first, far, farSecond} {
		sees(p, "10.96.1.1:80", p.addr)
	}
	sees(second, "10.96.1.1:80", "") // to itself
	c.allow(t, "30080", "30081", "30082", "18080")
	n1, n2 := c.nodes[0], c.nodes[1]
	for _, h := range []struct {
		host *vpctest.Host
		addr netip.Addr
	}{{c.cp.Host, c.cp.Addr}, {c.vpc.Internet(), vpctest.InternetAddr}, {c.vpc.Peer(), vpctest.PeerAddr}, {n1.Host, n1.Addr}, {n2.Host, n2.Addr}} {
		reach := func(node *machine, port int, want string) {
			t.Helper()
			to := fmt.Sprintf("%v:%d", node.Addr, port)
			if got := ask(t, h.host, to, "/clientip"); want != "" && got != want {
				t.Errorf("from %s to %s: the server saw %s, want %s", h.host.Name(), to, got, want)
			}
		}
		for _, node := range c.nodes {
			reach(node, 30080, "")
			reach(node, 30081, "")
			reach(node, 18080, "")
		}
		if h.host == n1.Host {
			continue // a node asks itself with an address of its own choice
		}
		reach(n1, 30082, h.addr.String())
	}
	c.kubectl(t, "", "label", "pod", second.name, "one-")
	for id, n := range c.vpc.Drops(t).Spoofed {
		if n > 0 {
			t.Errorf("ENI %s sent %d packets with a source that it does not own", id, n)
		}
	}
}

// names starts CoreDNS. Pods on both nodes find Services by it, and instances by the resolver of
// the VPC, which it asks.
func (c *cluster) names(t *testing.T) {
	c.kubectl(t, dns, "--namespace", "kube-system", "apply", "-f", "-")
	c.kubectl(t, "", "--namespace", "kube-system", "rollout", "status", "deployment", "coredns", "--timeout=240s")
	all, err := c.pods("app=web")
	if err != nil {
		t.Fatal(err)
	}
	n2 := c.nodes[1]
	for _, m := range c.nodes {
		from := all[slices.IndexFunc(all, func(p pod) bool { return p.node == m.Name() })]
		c.ask(t, from, "web") // by the domains that kubelet has pods search
		c.ask(t, from, "web.default.svc.cluster.local.")
		c.ask(t, from, n2.ID()+"."+c.vpc.Cloud.Region()+".compute.internal:30080")
	}
}

// allow lets hosts outside of the VPC reach ports of the nodes.
func (c *cluster) allow(t *testing.T, ports ...string) {
	t.Helper()
	for _, p := range ports {
		c.vpc.EC2(t, "AuthorizeSecurityGroupIngress", "GroupId", c.vpc.DefaultGroup(), "IpPermissions.1.IpProtocol", "tcp",
			"IpPermissions.1.FromPort", p, "IpPermissions.1.ToPort", p, "IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0")
	}
}

// rollout replaces all pods.
func (c *cluster) rollout(t *testing.T) {
	c.kubectl(t, "", "rollout", "restart", "deployment", "web")
	c.kubectl(t, "", "rollout", "status", "deployment", "web", "--timeout=240s")
	c.addresses(t, c.waitPods(t, "app=web", *replicas))
}

// agents selects the pods of the agents.
const agents = "app.kubernetes.io/name=vpcnet"

// agentsReady waits until the agents of the chart and the nodes are ready.
func (c *cluster) agentsReady(t *testing.T) {
	t.Helper()
	c.kubectl(t, "", "--namespace", "kube-system", "rollout", "status", "daemonset", "vpcnet", "--timeout=240s")
	c.waitReady(t)
}

// restarts ends the agents twice while pods start: by SIGKILL, after which kubelet starts the
// container again, and by the deletion of their pods. Pods that start meanwhile wait for the
// agents.
func (c *cluster) restarts(t *testing.T) {
	c.scale(t, 0)
	c.kubectl(t, "", "scale", "deployment", "web", "--replicas="+strconv.Itoa(*replicas))
	started := func(n int) {
		t.Helper()
		eventually(t, func() error {
			all, err := c.pods("app=web")
			if err == nil && len(all) < n {
				err = fmt.Errorf("%d pods are ready", len(all))
			}
			return err
		})
	}
	started(1)
	for _, m := range c.nodes {
		for _, pid := range m.processes(t, "ipamd") {
			_ = syscall.Kill(pid, syscall.SIGKILL) // a probe may have ended
		}
	}
	started(*replicas / 2)
	c.kubectl(t, "", "--namespace", "kube-system", "delete", "pod", "--selector", agents, "--wait=false")
	c.addresses(t, c.waitPods(t, "app=web", *replicas))
	c.agentsReady(t)
}

// drain moves the pods of a node to the other one. There at most 53 run beside the pods of CoreDNS
// and of the DaemonSets, and the others once the node may have pods again.
func (c *cluster) drain(t *testing.T) {
	c.kubectl(t, "", "drain", "n2", "--ignore-daemonsets", "--timeout=240s")
	c.waitPods(t, "app=web", min(*replicas, 53))
	c.kubectl(t, "", "uncordon", "n2")
	c.addresses(t, c.waitPods(t, "app=web", *replicas))
}

// upgrade replaces the agents by those of another image with other settings, one node after the
// other. Pods keep running, and connections to them.
func (c *cluster) upgrade(t *testing.T) {
	pods := c.waitPods(t, "app=web", *replicas)
	asked := c.connect(t, pods)
	c.chart(t, "upgrade", "image.tag=v2", "env.WARM_IP_TARGET=2")
	c.agentsReady(t)
	asked(t)
	c.samePods(t, pods)
	out := c.kubectl(t, "", "--namespace", "kube-system", "get", "pods", "--selector", agents, "-o", "jsonpath={.items[*].spec.containers[*].image}")
	if want := agentImage + ":v2 " + agentImage + ":v2"; out != want {
		t.Errorf("the agents have the images %s, want %s", out, want)
	}
}

// reinstall removes the chart, ends pods without an agent, and installs the chart again. The
// other pods keep running, and connections to them. Pods that end meanwhile leave nothing, and
// new ones start.
func (c *cluster) reinstall(t *testing.T) {
	c.helm(t, "uninstall", "vpcnet", "--wait")
	for _, m := range c.nodes {
		eventually(t, func() error {
			if all := m.processes(t, "ipamd"); len(all) > 0 {
				return fmt.Errorf("agents on %s: %v", m.Name(), all)
			}
			return nil
		})
	}
	pods := c.scale(t, *replicas/2)
	asked := c.connect(t, pods)
	c.chart(t, "install", "image.tag=v1")
	c.agentsReady(t)
	asked(t)
	c.samePods(t, pods)
	c.addresses(t, c.scale(t, *replicas))
}

// connect opens a connection from outside of the cluster to each pod, and returns a function that
// sends another request on each.
func (c *cluster) connect(t *testing.T, pods []pod) (ask func(*testing.T)) {
	t.Helper()
	conns := map[string]net.Conn{}
	for _, p := range pods {
		conns[p.addr] = c.cp.Dial(t, "tcp", netip.AddrPortFrom(netip.MustParseAddr(p.addr), 8080))
	}
	ask = func(t *testing.T) {
		t.Helper()
		for addr, conn := range conns {
			if got, err := clientIP(conn); err != nil || got != c.cp.Addr.String() {
				t.Errorf("pod %s saw %q, want %v: %v", addr, got, c.cp.Addr, err)
			}
		}
	}
	ask(t)
	return ask
}

// clientIP asks a server of the pods for the client's address.
func clientIP(conn net.Conn) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	req, err := http.NewRequest(http.MethodGet, "http://pod/clientip", nil)
	if err != nil {
		return "", err
	}
	if err := req.Write(conn); err != nil {
		return "", err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}

// samePods checks that the pods are those of before.
func (c *cluster) samePods(t *testing.T, before []pod) {
	t.Helper()
	after := c.waitPods(t, "app=web", len(before))
	for _, p := range before {
		if !slices.Contains(after, p) {
			t.Errorf("pod %+v does not run any more", p)
		}
	}
}
