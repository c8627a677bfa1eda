// SPDX-License-Identifier: Apache-2.0

package kubepolicy_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath/policy"
	"github.com/vpcnet/vpcnet/examples/k8s/kubepolicy"
)

const node = "node-0"

func namespace(name string, labels map[string]string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

// pod returns a pod of the node with an address. Its UID is its name.
func pod(ns, name, addr string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID(name), Labels: labels},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{
			Name: "main", Image: "example.com/" + name, Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}},
		}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: addr, PodIPs: []corev1.PodIP{{IP: addr}}},
	}
}

// ingress returns a policy that allows connections from peers to a port.
func ingress(ns, name string, selects map[string]string, port intstr.IntOrString, from ...networkingv1.NetworkPolicyPeer) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: selects},
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: from, Ports: []networkingv1.NetworkPolicyPort{{Port: &port}}}},
		},
	}
}

func peerPods(labels map[string]string) networkingv1.NetworkPolicyPeer {
	return networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: labels}}
}

func peerNamespaces(labels map[string]string) networkingv1.NetworkPolicyPeer {
	return networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{MatchLabels: labels}}
}

// key returns a pod as the container runtime names it.
func key(p *corev1.Pod) cniplugin.Pod {
	return cniplugin.Pod{Namespace: p.Namespace, Name: p.Name, UID: string(p.UID)}
}

// allows reports whether a pod's class is known and lets an address connect to a port.
func allows(p *kubepolicy.Policies, pod cniplugin.Pod, from string, port uint16) (allowed, known bool) {
	name, class, known := p.Class(pod)
	at := netip.MustParseAddr("192.0.2.1")
	state := policy.State{Classes: map[string]policy.Compiled{name: class}, Pods: map[netip.Addr]string{at: name}}
	return state.Judge(policy.Flow{Src: netip.MustParseAddr(from), Dst: at, Protocol: policy.TCP, Port: port}).Allowed, known
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not so after a minute: " + what)
		}
	}
}

// The size of the cluster of the benchmark.
const (
	manyPods       = 10_000
	manyNamespaces = 100
	nodes          = 91 // 110 pods on each
)

// largeCluster returns the objects of a cluster of 10,000 pods and 1,000 policies: in each
// namespace a policy that isolates all pods, and nine that allow something to its nine apps.
func largeCluster() (all []runtime.Object) {
	for i := range manyNamespaces {
		ns := fmt.Sprintf("team-%02d", i)
		all = append(all, namespace(ns, map[string]string{"team": fmt.Sprint(i % 10), "kubernetes.io/metadata.name": ns}))
		isolated := ingress(ns, "isolated", nil, intstr.FromInt32(1))
		isolated.Spec.Ingress = nil
		all = append(all, isolated)
		for app := range 9 {
			all = append(all, ingress(ns, fmt.Sprintf("app-%d", app), appLabels(app), intstr.FromString("web"),
				peerPods(appLabels((app+1)%9)), peerNamespaces(map[string]string{"team": fmt.Sprint((i + 1) % 10)})))
		}
	}
	for i := range manyPods {
		p := pod(fmt.Sprintf("team-%02d", i%manyNamespaces), fmt.Sprintf("app-%05d", i), fmt.Sprintf("10.%d.%d.%d", i/40000+1, i/200%200, i%200+1), appLabels(i/manyNamespaces%9))
		p.Spec.NodeName = fmt.Sprintf("node-%d", i%nodes)
		p.Labels["pod-template-hash"] = fmt.Sprint(i % 50)
		all = append(all, p)
	}
	return all
}

func appLabels(app int) map[string]string {
	return map[string]string{"app": fmt.Sprintf("app-%d", app)}
}
