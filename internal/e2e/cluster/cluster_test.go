// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/eni/vpctest"
	"github.com/vpcnet/vpcnet/internal/nodetest"
)

// cluster is a Kubernetes: a control plane on an instance of its own, and two nodes.
type cluster struct {
	vpc   *vpctest.VPC
	cp    *machine
	nodes []*machine
	pki   *authority
	// admin is the configuration of kubectl and helm.
	admin string
}

const (
	serviceRange = "10.96.0.0/16"
	firstService = "10.96.0.1" // that of the API server
	dnsService   = "10.96.0.10"
)

// kubernetes returns the path of a program of Kubernetes.
func kubernetes(program string) string { return filepath.Join(os.Getenv(kubernetesEnv), program) }

// newCluster starts a cluster without a network plugin.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{vpc: newVPC(t)}
	instance := func(name, kind string, subnet int) *machine {
		in := enitest.InstanceInput{Subnet: c.vpc.Subnets[subnet].ID, Type: kind, Tags: map[string]string{"Name": name}}
		return newMachine(t, c.vpc.NodeIn(t, in))
	}
	c.cp = instance("cp", "t3.medium", 0)
	c.controlPlane(t)
	image := c.cp.file("vpcnet.tar")
	build := exec.Command(nodetest.Program("image"), "-arch", runtime.GOARCH, "-tag", "v1", "-o", image)
	build.Dir = "../../.." // the module of the programs in the image
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("image: %v\n%s", err, out)
	}
	dns := c.cp.file("coredns.tar")
	if err := writeImage(dns, "localhost/coredns:1", "/coredns", filepath.Join(os.Getenv(corednsEnv), "coredns")); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"n1", "n2"} {
		m := instance(name, "m5.xlarge", i%len(c.vpc.Subnets))
		c.nodes = append(c.nodes, m)
		m.runtime(t)
		m.run(t, containerd("ctr"), "-n", "k8s.io", "images", "import", "--local", "--base-name", agentImage, image)
		m.run(t, containerd("ctr"), "-n", "k8s.io", "images", "import", "--local", dns)
		m.run(t, containerd("ctr"), "-n", "k8s.io", "images", "tag", agentImage+":v1", agentImage+":v2")
		c.kubelet(t, m)
		c.proxy(t, m)
	}
	return c
}

// agentImage is the image of the agent, with the tags v1 and v2, which an upgrade changes.
const agentImage = "localhost/vpcnet"

// helm runs helm in the namespace of the agent.
func (c *cluster) helm(t *testing.T, args ...string) {
	t.Helper()
	cmd := c.cp.command(filepath.Join(os.Getenv(helmEnv), "helm"), append([]string{"--kubeconfig", c.admin, "--namespace", "kube-system"}, args...)...)
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+c.cp.dir, "HELM_CONFIG_HOME="+c.cp.dir, "HELM_DATA_HOME="+c.cp.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// chart installs the chart, or upgrades it, with further values. It does not wait.
func (c *cluster) chart(t *testing.T, verb string, set ...string) {
	t.Helper()
	dir, err := filepath.Abs("../../../examples/deploy/chart")
	if err != nil {
		t.Fatal(err)
	}
	values := c.cp.file("values.yaml")
	var env strings.Builder
	for _, v := range c.nodes[0].Env() { // the same on all nodes
		name, value, _ := strings.Cut(v, "=")
		fmt.Fprintf(&env, "- {name: %s, value: %q}\n", name, value)
	}
	c.cp.write(t, values, "image: {repository: "+agentImage+", pullPolicy: Never}\nextraEnv:\n"+env.String())
	args := []string{verb, "vpcnet", dir, "--values", values}
	for _, s := range set {
		args = append(args, "--set", s)
	}
	c.helm(t, args...)
}

// controlPlane starts etcd, the API server, the controllers and the scheduler.
func (c *cluster) controlPlane(t *testing.T) {
	t.Helper()
	dir, addr := c.cp.dir, c.cp.Addr.String()
	c.pki = newAuthority(t, dir)
	c.pki.issue(t, "apiserver", pkix.Name{CommonName: "kube-apiserver"}, addr, "127.0.0.1", firstService)
	c.pki.issue(t, "kubelet-client", pkix.Name{CommonName: "kube-apiserver-kubelet-client", Organization: []string{"system:masters"}})
	for name, subject := range map[string]pkix.Name{
		"admin":      {CommonName: "admin", Organization: []string{"system:masters"}},
		"controller": {CommonName: "system:kube-controller-manager"},
		"scheduler":  {CommonName: "system:kube-scheduler"},
		"proxy":      {CommonName: "system:kube-proxy"},
	} {
		c.pki.issue(t, name, subject)
		c.pki.kubeconfig(t, name, addr)
	}
	c.admin = filepath.Join(dir, "admin.conf")
	file := c.cp.file
	c.cp.start(t, "etcd", nil, "etcd", "--data-dir", file("etcd"), "--listen-client-urls", "http://127.0.0.1:2379",
		"--advertise-client-urls", "http://127.0.0.1:2379", "--listen-peer-urls", "http://127.0.0.1:2380", "--unsafe-no-fsync")
	c.cp.start(t, "kube-apiserver", nil, kubernetes("kube-apiserver"), "--etcd-servers=http://127.0.0.1:2379", "--secure-port=6443",
		"--advertise-address="+addr, "--tls-cert-file="+file("apiserver.crt"), "--tls-private-key-file="+file("apiserver.key"),
		"--client-ca-file="+file("ca.crt"), "--cert-dir="+dir, "--kubelet-client-certificate="+file("kubelet-client.crt"),
		"--kubelet-client-key="+file("kubelet-client.key"), "--kubelet-preferred-address-types=InternalIP",
		"--service-cluster-ip-range="+serviceRange, "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+file("sa.key"), "--service-account-signing-key-file="+file("sa.key"),
		"--authorization-mode=Node,RBAC", "--allow-privileged=false")
	eventually(t, func() error {
		_, err := c.tryKubectl("", "get", "--raw", "/readyz")
		return err
	})
	c.cp.start(t, "kube-controller-manager", nil, kubernetes("kube-controller-manager"), "--kubeconfig="+file("controller.conf"),
		"--root-ca-file="+file("ca.crt"), "--service-account-private-key-file="+file("sa.key"), "--use-service-account-credentials",
		"--leader-elect=false", "--cluster-signing-cert-file="+file("ca.crt"), "--cluster-signing-key-file="+file("ca.key"))
	c.cp.start(t, "kube-scheduler", nil, kubernetes("kube-scheduler"), "--kubeconfig="+file("scheduler.conf"), "--leader-elect=false")
}

var kubeletConfig = template.Must(template.New("").Parse(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
failSwapOn: false
cgroupDriver: cgroupfs
cgroupRoot: /{{.Cgroup}}
enforceNodeAllocatable: [pods]
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: {{.PKI}}/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: {{.PKI}}/{{.Name}}.crt
tlsPrivateKeyFile: {{.PKI}}/{{.Name}}.key
resolvConf: {{.Dir}}/resolv.conf
clusterDNS: [` + dnsService + `]
clusterDomain: cluster.local
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 50Mi, nodefs.available: "0%", imagefs.available: "0%"}
nodeStatusReportFrequency: 10s
nodeStatusUpdateFrequency: 2s
syncFrequency: 10s
oomScoreAdj: 0
# As many as an m5.xlarge has addresses for, 4 ENIs with 14 each, and the agent.
maxPods: 57
`))

// kubelet starts the kubelet of a machine.
func (c *cluster) kubelet(t *testing.T, m *machine) {
	t.Helper()
	c.pki.issue(t, m.Name(), pkix.Name{CommonName: "system:node:" + m.Name(), Organization: []string{"system:nodes"}}, m.Addr.String())
	conf := c.pki.kubeconfig(t, m.Name(), c.cp.Addr.String())
	m.write(t, m.file("resolv.conf"), "nameserver "+c.vpc.Resolver().String()+"\n")
	var text bytes.Buffer
	if err := kubeletConfig.Execute(&text, struct{ Cgroup, PKI, Name, Dir string }{m.cgroup, c.pki.dir, m.Name(), m.dir}); err != nil {
		t.Fatal(err)
	}
	m.write(t, m.file("kubelet.yaml"), text.String())
	m.start(t, "kubelet", nil, kubernetes("kubelet"), "--config="+m.file("kubelet.yaml"), "--kubeconfig="+conf, "--hostname-override="+m.Name(), "--node-ip="+m.Addr.String())
}

// proxy starts the kube-proxy of a machine.
func (c *cluster) proxy(t *testing.T, m *machine) {
	t.Helper()
	m.write(t, m.file("proxy.yaml"), fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: %s}
nodePortAddresses: ["0.0.0.0/0"]
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`, filepath.Join(c.pki.dir, "proxy.conf")))
	m.start(t, "kube-proxy", nil, kubernetes("kube-proxy"), "--config="+m.file("proxy.yaml"), "--hostname-override="+m.Name())
}

// kubectl runs kubectl with a standard input and returns what it prints.
func (c *cluster) kubectl(t *testing.T, in string, args ...string) string {
	t.Helper()
	out, err := c.tryKubectl(in, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (c *cluster) tryKubectl(in string, args ...string) (string, error) {
	cmd := c.cp.command(kubernetes("kubectl"), append([]string{"--kubeconfig", c.admin}, args...)...)
	cmd.Stdin = strings.NewReader(in)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// get decodes what kubectl prints of objects.
func (c *cluster) get(to any, args ...string) error {
	out, err := c.tryKubectl("", append(append([]string{"get"}, args...), "-o", "json")...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), to)
}

// condition is a part of the status of an object.
type condition struct{ Type, Status, Message, LastTransitionTime string }

// ready returns since when nodes are Ready, by their names, and what the others say.
func (c *cluster) ready() (since map[string]string, other []string, err error) {
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct{ Conditions []condition }
		}
	}
	if err := c.get(&list, "nodes"); err != nil {
		return nil, nil, err
	}
	since = map[string]string{}
	for _, n := range list.Items {
		for _, k := range n.Status.Conditions {
			switch {
			case k.Type != "Ready":
			case k.Status == "True":
				since[n.Metadata.Name] = k.LastTransitionTime
			default:
				other = append(other, n.Metadata.Name+": "+k.Message)
			}
		}
	}
	return since, other, nil
}

// waitReady waits until all nodes are Ready.
func (c *cluster) waitReady(t *testing.T) {
	t.Helper()
	eventually(t, func() error {
		ready, other, err := c.ready()
		if err == nil && len(ready) < len(c.nodes) {
			err = fmt.Errorf("%d nodes are ready; %s", len(ready), strings.Join(other, "; "))
		}
		return err
	})
}

// pod is a pod as the API server shows it.
type pod struct {
	name, addr, node string
}

// pods returns the running pods with a label, without those that are being deleted.
func (c *cluster) pods(label string) (all []pod, err error) {
	var list struct {
		Items []struct {
			Metadata struct {
				Name              string
				DeletionTimestamp *time.Time
			}
			Spec   struct{ NodeName string }
			Status struct {
				PodIP      string
				Conditions []condition
			}
		}
	}
	if err := c.get(&list, "pods", "-l", label); err != nil {
		return nil, err
	}
	for _, p := range list.Items {
		ready := slices.ContainsFunc(p.Status.Conditions, func(k condition) bool { return k.Type == "Ready" && k.Status == "True" })
		if ready && p.Metadata.DeletionTimestamp == nil {
			all = append(all, pod{p.Metadata.Name, p.Status.PodIP, p.Spec.NodeName})
		}
	}
	return all, nil
}

// waitPods waits until there are n ready pods with a label, and returns them.
func (c *cluster) waitPods(t *testing.T, label string, n int) (all []pod) {
	t.Helper()
	eventually(t, func() (err error) {
		all, err = c.pods(label)
		if err == nil && len(all) != n {
			err = fmt.Errorf("%d pods of %s are ready, want %d", len(all), label, n)
		}
		return err
	})
	return all
}

// failedSandboxes returns what the events say of sandboxes that could not be made or removed.
func (c *cluster) failedSandboxes() (all []string, err error) {
	var list struct {
		Items []struct {
			Reason, Message string
			InvolvedObject  struct{ Name string }
		}
	}
	if err := c.get(&list, "events", "-A"); err != nil {
		return nil, err
	}
	for _, e := range list.Items {
		if e.Reason == "FailedCreatePodSandBox" || e.Reason == "FailedKillPod" {
			all = append(all, e.InvolvedObject.Name+": "+e.Message)
		}
	}
	return all, nil
}

// node returns a node by its name.
func (c *cluster) node(name string) *machine {
	return c.nodes[slices.IndexFunc(c.nodes, func(m *machine) bool { return m.Name() == name })]
}

// ask has a pod send a request to a server of the pods, and returns the address that the
// server sees.
func (c *cluster) ask(t *testing.T, from pod, to string) string {
	t.Helper()
	return ask(t, c.node(from.node).Host, from.addr+":8080", "/get?url="+url.QueryEscape("http://"+to+"/clientip"))
}

// ask sends a request from a host.
func ask(t *testing.T, from *vpctest.Host, to, path string) string {
	t.Helper()
	return from.Run(t, nodetest.Program("pod"), "get", "http://"+to+path)
}
