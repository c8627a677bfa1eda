// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	policyv1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/eni/vpctest"
	"github.com/vpcnet/vpcnet/internal/nodetest"
)

func TestMain(m *testing.M) { nodetest.Main(m, "./") }

// podOf returns the object of a pod of the node, before it has an address.
func podOf(name string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name + "-uid"), Labels: labels},
		Spec:       corev1.PodSpec{NodeName: "node-a"}, Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
}

// world is a node with the program and an API server.
type world struct {
	*nodetest.Node
	api *api
}

// add adds a pod of which the API server knows the object, and tells it the address.
func (w *world) add(t *testing.T, name string, labels map[string]string) *nodetest.Pod {
	t.Helper()
	w.api.set(podsPath, podOf(name, labels))
	p := w.AddPodWith(t, nodetest.PodConfig{Args: map[string]string{"K8S_POD_NAME": name, "K8S_POD_UID": name + "-uid"}})
	o := podOf(name, labels)
	o.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: p.Addrs[0].String(), PodIPs: []corev1.PodIP{{IP: p.Addrs[0].String()}}}
	w.api.set(podsPath, o)
	return p
}

// policyOf returns a policy for the servers that allows connections of pods with a role.
func policyOf(role string) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "servers"},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"role": "server"}},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{
				{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"role": role}}},
			}}},
		},
	}
}

// closed returns a cluster policy that denies connections of all pods.
func closed() *policyv1.ClusterNetworkPolicy {
	return &policyv1.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "closed"}, Spec: policyv1.ClusterNetworkPolicySpec{
		Tier: policyv1.AdminTier, Subject: policyv1.ClusterNetworkPolicySubject{Namespaces: &metav1.LabelSelector{}},
		Ingress: []policyv1.ClusterNetworkPolicyIngressRule{{
			Action: policyv1.ClusterNetworkPolicyRuleActionDeny, From: []policyv1.ClusterNetworkPolicyIngressPeer{{Namespaces: &metav1.LabelSelector{}}},
		}},
	}}
}

// reaches waits until a pod reaches another one, or until it does not.
func (w *world) reaches(t *testing.T, from, to *nodetest.Pod, want bool) {
	t.Helper()
	w.Eventually(t, func() error {
		if got := echoes(t, from, to.At(0)); got != want {
			return fmt.Errorf("reaches: %t, want %t", got, want)
		}
		return nil
	})
}

// echoes reports whether an echo server answers a datagram.
func echoes(t *testing.T, from *nodetest.Pod, to netip.AddrPort) bool {
	t.Helper()
	c := from.Dial(t, "udp", to)
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("x")); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	_, err := c.Read(make([]byte, 1))
	return err == nil
}

// TestNode runs the program in the mode strict on a node, and checks by packets that the
// policies of the API server apply from the first packet of a pod on, that changes arrive, and
// what stays while the API server is away, also for a program that starts meanwhile.
func TestNode(t *testing.T) {
	vpc := vpctest.New(t)
	machine := vpc.Node(t, "m5.large")
	api, config := newAPI(t, machine.Host)
	w := &world{api: api}
	w.Node = nodetest.Start(t, machine, nodetest.Config{Program: "vpcnet-node", Env: map[string]string{
		"KUBECONFIG": config, "MY_NODE_NAME": "node-a", "VPCNET_KUBERNETES_POLICIES": "true", "VPCNET_KUBERNETES_CLUSTER_POLICIES": "true", "NETWORK_POLICY_ENFORCING_MODE": "strict",
	}})
	// Without the API server the program runs, and a new pod is closed.
	early := w.add(t, "early", map[string]string{"role": "client"})
	if class := w.class(t, early); class != "unknown" {
		t.Errorf("the pod has the class %q while the API server is away, want unknown", class)
	}
	api.set(namespacesPath, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	api.set(policiesPath, policyOf("client"))
	api.start(t)
	w.Eventually(t, func() error {
		if class := w.class(t, early); class != "" {
			return fmt.Errorf("class %q, want none", class)
		}
		return nil
	})

	server := w.add(t, "server", map[string]string{"role": "server"})
	if class := w.class(t, server); class != "default/servers" {
		t.Errorf("after its ADD the server has the class %q, want default/servers", class)
	}
	stranger := w.add(t, "stranger", nil)
	if echoes(t, stranger, server.At(0)) {
		t.Error("the first packet of a stranger has arrived")
	}
	w.reaches(t, early, server, true)
	api.set(policiesPath, policyOf("stranger"))
	w.reaches(t, early, server, false)
	o := podOf("stranger", map[string]string{"role": "stranger"})
	o.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: stranger.Addrs[0].String()}
	api.set(podsPath, o)
	w.reaches(t, stranger, server, true)

	// A cluster policy denies what the policy of the namespace allows.
	api.set(clusterPath, closed())
	w.reaches(t, stranger, server, false)
	api.remove(clusterPath, closed())
	w.reaches(t, stranger, server, true)

	// The object of the server is deleted; its class stays until the DEL. The class changes
	// with another pod that has it.
	api.remove(podsPath, podOf("server", nil))
	second := w.add(t, "second", map[string]string{"role": "server"})
	w.reaches(t, stranger, second, true)
	if echoes(t, early, server.At(0)) {
		t.Error("a client reaches the server without an object")
	}
	api.set(policiesPath, policyOf("client"))
	w.reaches(t, early, second, true)
	w.reaches(t, early, server, true)
	w.reaches(t, stranger, server, false)
	w.reaches(t, stranger, second, false)

	// The API server goes away; the program is killed and starts again.
	api.stop()
	w.Restart(t, syscall.SIGKILL)
	w.WaitReady(t)
	w.reaches(t, early, server, true)
	if echoes(t, stranger, server.At(0)) || echoes(t, stranger, second.At(0)) {
		t.Error("a stranger reaches a server after the start without the API server")
	}
	api.set(policiesPath, policyOf("nobody"))
	api.start(t)
	w.reaches(t, early, second, false)
	if memory, err := rss(w.Agent.PID()); err == nil {
		t.Logf("the program takes %.1f MB", float64(memory)/1e6)
	}
	second.Delete(t)
	if n := len(w.Status(t).Allocations); n != 3 {
		t.Errorf("%d pods after a DEL, want 3", n)
	}
}

// TestDemand checks that the ENIs have addresses for the pods that are bound to the node before
// the first ADD, with the API server away at the start, and none for pods that need none. It checks too what annotations of a
// pod ask for, and the event for an ADD that fails.
func TestDemand(t *testing.T) {
	vpc := vpctest.New(t)
	machine := vpc.Node(t, "t3.small") // 3 addresses for pods on each ENI
	api, config := newAPI(t, machine.Host)
	node := nodetest.Start(t, machine, nodetest.Config{Program: "vpcnet-node", Env: map[string]string{
		"KUBECONFIG": config, "MY_NODE_NAME": "node-a", "VPCNET_KUBERNETES_DEMAND": "true", "WARM_ENI_TARGET": "0",
		"VPCNET_KUBERNETES_POD_ANNOTATIONS": "true", "VPCNET_KUBERNETES_EVENTS": "true",
	}})
	names := []string{"web-0", "web-1", "web-2", "web-3"}
	for i, name := range names {
		o := podOf(name, nil)
		if i == 3 {
			o.Annotations = map[string]string{"k8s.amazonaws.com/nicConfig": "multi-nic-attachment"} // which the node does not give
		}
		api.set(podsPath, o)
	}
	for i := range 4 {
		other := podOf(fmt.Sprint("other-", i), nil) // they need no address of the pool
		switch i {
		case 0:
			other.Spec.HostNetwork = true
		case 1:
			other.Status.Phase = corev1.PodSucceeded
		case 2:
			other.Spec.NodeName = "node-b"
		case 3:
			other.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		}
		api.set(podsPath, other)
	}
	api.start(t)
	addrs := func(want int) (all []netip.Addr) {
		node.Eventually(t, func() error {
			all = nil
			for _, e := range node.ENIs() {
				all = append(all, e.Addrs...)
			}
			if len(all) != want {
				return fmt.Errorf("the ENIs have %d addresses, want %d", len(all), want)
			}
			return nil
		})
		return all
	}
	before := addrs(len(names))
	if _, err := node.TryPod(t, nodetest.PodConfig{Args: map[string]string{"K8S_POD_NAME": names[3]}}); err == nil || !strings.Contains(err.Error(), "network card") {
		t.Errorf("ADD of a pod that asks for each network card: %v", err)
	}
	node.Eventually(t, func() error {
		api.mu.Lock()
		defer api.mu.Unlock()
		for _, e := range api.written {
			if e.InvolvedObject.Name == names[3] && e.Reason == "FailedNetwork" && strings.Contains(e.Message, "network card") {
				return nil
			}
		}
		return fmt.Errorf("%d events, want one for the failed ADD", len(api.written))
	})
	asked := podOf(names[3], nil)
	asked.Annotations = map[string]string{"vpcnet.dev/addresses": before[2].String()}
	api.set(podsPath, asked)
	node.Eventually(t, func() error { // when the annotation has arrived
		p, err := node.TryPod(t, nodetest.PodConfig{Args: map[string]string{"K8S_POD_NAME": names[3]}})
		if err == nil && p.Addrs[0] != before[2] {
			err = fmt.Errorf("the pod has %v, want %v", p.Addrs[0], before[2])
		}
		return err
	})
	for _, name := range names[:3] {
		p := node.AddPodWith(t, nodetest.PodConfig{Args: map[string]string{"K8S_POD_NAME": name}})
		if !slices.Contains(before, p.Addrs[0]) {
			t.Errorf("%s has %v, want one of %v", name, p.Addrs[0], before)
		}
		p.Ping(t, vpctest.InternetAddr)
	}
	// The pods that have their addresses are not counted again.
	for i := range 3 {
		api.set(podsPath, podOf(fmt.Sprint("web-", len(names)+i), nil))
	}
	addrs(len(names) + 3)
}

// nodeOf returns the object of the node.
func nodeOf(labels map[string]string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a", Labels: labels}}
}

// eniConfigOf returns an ENIConfig.
func eniConfigOf(name, subnet string, groups ...any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"subnet": subnet, "securityGroups": groups}}}
	o.SetName(name)
	return o
}

// TestObjectsOfNode checks that ENIs of pods are in the subnet and the groups of the node's
// ENIConfig, and never in those of the ENIConfig default or on the primary ENI: also after
// another one is chosen, and with one of an earlier agent while the API server is away. It
// checks too that a ConfigMap changes live settings, and no others.
func TestObjectsOfNode(t *testing.T) {
	pods := netip.MustParsePrefix("100.64.0.0/16")
	subnet := func(text string) enitest.SubnetInput {
		return enitest.SubnetInput{Prefix: netip.MustParsePrefix(text), Zone: "us-west-2a", MapPublic: strings.HasPrefix(text, "10.")}
	}
	vpc := vpctest.NewWith(t, vpctest.Config{
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), pods},
		Subnets:  []enitest.SubnetInput{subnet("10.0.0.0/20"), subnet("100.64.0.0/24"), subnet("100.64.1.0/24"), subnet("100.64.2.0/24")},
	})
	group := regexp.MustCompile("sg-[0-9a-f]+").FindString(vpc.EC2(t, "CreateSecurityGroup", "GroupName", "pods", "GroupDescription", "pods", "VpcId", vpc.ID))
	vpc.EC2(t, "AuthorizeSecurityGroupIngress", "GroupId", group, "IpPermissions.1.IpProtocol", "-1", "IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0")
	machine := vpc.NodeIn(t, enitest.InstanceInput{Subnet: vpc.Subnets[0].ID, Type: "t3.small"}) // 2 ENIs with 3 addresses for pods
	api, config := newAPI(t, machine.Host)
	const zone = "topology.kubernetes.io/zone"
	api.set(nodesPath, nodeOf(map[string]string{zone: "us-west-2a"}))
	api.set(eniConfigsPath, eniConfigOf("default", vpc.Subnets[3].ID))
	api.set(eniConfigsPath, eniConfigOf("us-west-2a", vpc.Subnets[1].ID, group))
	api.start(t)
	node := nodetest.Start(t, machine, nodetest.Config{Program: "vpcnet-node", Env: map[string]string{
		"KUBECONFIG": config, "MY_NODE_NAME": "node-a", "WARM_IP_TARGET": "1",
		"VPCNET_KUBERNETES_ENI_CONFIGS": "true", "ENI_CONFIG_LABEL_DEF": zone, "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true",
		"VPCNET_KUBERNETES_CONFIG_MAP": "kube-system/vpcnet", "VPCNET_KUBERNETES_NODE_SETTINGS": "true",
	}})
	all := []*nodetest.Pod{node.AddPod(t)}
	placement := func(want string) {
		node.Eventually(t, func() error {
			if got := node.Status(t).Network.Placement; got != want {
				return fmt.Errorf("the placement is %q, want %q", got, want)
			}
			return nil
		})
	}
	placement("us-west-2a")
	api.set(nodesPath, nodeOf(map[string]string{zone: "us-west-2a", "vpc.amazonaws.com/externalEniConfig": "other"})) // which is absent
	api.set(eniConfigsPath, eniConfigOf("other", vpc.Subnets[2].ID, group))
	placement("other")

	// The API server goes away; the program is killed and starts again.
	api.stop()
	node.Restart(t, syscall.SIGKILL)
	node.WaitReady(t)
	placement("other")
	for range 3 {
		all = append(all, node.AddPod(t))
	}
	for _, p := range all {
		if !pods.Contains(p.Addrs[0]) {
			t.Errorf("a pod has %v, want an address in %v", p.Addrs[0], pods)
		}
		p.Ping(t, vpctest.InternetAddr)
	}
	all[3].Ask(t, "udp", all[0].At(0))
	enis := node.ENIs()
	if len(enis) != 3 || len(enis[0].Addrs) != 0 || enis[1].Subnet != vpc.Subnets[1].ID || enis[2].Subnet != vpc.Subnets[2].ID {
		t.Errorf("ENIs %+v, want none of the pods on the first one, and the others in %s and %s", enis, vpc.Subnets[1].ID, vpc.Subnets[2].ID)
	}
	for _, e := range enis[1:] {
		if !slices.Equal(e.Groups, []string{group}) {
			t.Errorf("%s has the groups %v, want %s", e.ID, e.Groups, group)
		}
	}

	api.set(configMapsPath, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "vpcnet"}, Data: map[string]string{"WARM_IP_TARGET": "2", "VPCNET_LAYOUT": "per-pod"},
	})
	api.start(t)
	node.Eventually(t, func() error {
		n := 0
		for _, e := range node.ENIs() {
			n += len(e.Addrs)
		}
		if n != 6 {
			return fmt.Errorf("the ENIs have %d addresses, want 6", n)
		}
		return nil
	})
	if layout := node.Status(t).Network.Layout; layout != "flat" {
		t.Errorf("layout %s, want flat", layout)
	}
	placement("other")
}

// class returns the class of a pod.
func (w *world) class(t *testing.T, p *nodetest.Pod) string {
	t.Helper()
	for _, a := range w.Status(t).Allocations {
		if a.Addr == p.Addrs[0] {
			return a.Class
		}
	}
	t.Fatalf("the agent has no pod with the address %v", p.Addrs[0])
	return ""
}

// rss returns the bytes of memory that a process holds.
func rss(pid int) (n int64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err == nil {
		var size int64
		_, err = fmt.Sscan(string(text), &size, &n)
	}
	return n * int64(os.Getpagesize()), err
}

// TestSettings checks the settings of the program.
func TestSettings(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want string // "" means that the settings are accepted
	}{
		{env: nil},
		{env: map[string]string{"VPCNET_KUBERNETES_POLICIES": "true", "MY_NODE_NAME": "n"}},
		{env: map[string]string{"VPCNET_KUBERNETES_CONFIG_MAP": "kube-system", "MY_NODE_NAME": "n"}, want: `VPCNET_KUBERNETES_CONFIG_MAP="kube-system": want NAMESPACE/NAME`},
		{env: map[string]string{"VPCNET_KUBERNETES_ENI_CONFIGS": "true", "MY_NODE_NAME": "n", "VPCNET_POD_SUBNETS": "subnet-1"}, want: "VPCNET_KUBERNETES_ENI_CONFIGS and subnets or security groups of pods: want either"},
		{env: map[string]string{"VPCNET_KUBERNETES_CLUSTER_POLICIES": "true", "MY_NODE_NAME": "n"}, want: "VPCNET_KUBERNETES_CLUSTER_POLICIES: want VPCNET_KUBERNETES_POLICIES too"},
		{env: map[string]string{"VPCNET_KUBERNETES_POLICIES": "perhaps"}, want: `VPCNET_KUBERNETES_POLICIES="perhaps": want true or false`},
		{env: map[string]string{"VPCNET_KUBERNETES_POLICIES": "true"}, want: "MY_NODE_NAME: want the name of the node"},
		{env: map[string]string{"VPCNET_KUBERNETES_POLICIES": "true", "MY_NODE_NAME": "n", "VPCNET_NETWORK_POLICIES": "/f"}, want: "VPCNET_KUBERNETES_POLICIES and VPCNET_NETWORK_POLICIES: want one of them"},
	} {
		_, err := readKubernetes(func(name string) string { return c.env[name] })
		if got := fmt.Sprint(err); got != c.want && (c.want != "" || err != nil) {
			t.Errorf("%v: %v, want %q", c.env, err, c.want)
		}
	}
}
