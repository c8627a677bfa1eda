// SPDX-License-Identifier: Apache-2.0

package kubepolicy_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	policyv1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	policyfake "sigs.k8s.io/network-policy-api/pkg/client/clientset/versioned/fake"

	"github.com/vpcnet/vpcnet/examples/k8s/kubepolicy"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

var _ ipamd.Policies = (*kubepolicy.Policies)(nil)

// server is a fake API server that can be away.
type server struct {
	*fake.Clientset
	away atomic.Bool

	mu      sync.Mutex
	watches []watch.Interface
}

func newServer(objects ...apiruntime.Object) *server {
	s := &server{Clientset: fake.NewSimpleClientset(objects...)}
	s.PrependReactor("list", "*", func(clienttesting.Action) (bool, apiruntime.Object, error) {
		return s.away.Load(), nil, errors.New("the API server is away")
	})
	s.PrependWatchReactor("*", func(a clienttesting.Action) (bool, watch.Interface, error) {
		if s.away.Load() {
			return true, nil, errors.New("the API server is away")
		}
		w, err := s.Tracker().Watch(a.GetResource(), a.GetNamespace())
		s.mu.Lock()
		defer s.mu.Unlock()
		s.watches = append(s.watches, w)
		return true, w, err
	})
	return s
}

// leave ends all connections, and refuses further ones until away is false.
func (s *server) leave() {
	s.away.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.watches {
		w.Stop()
	}
	s.watches = nil
}

// run runs policies for the duration of a test.
func run(t testing.TB, s *server) *kubepolicy.Policies {
	return start(t, kubepolicy.Config{Client: s, Node: node})
}

// start is run with a configuration.
func start(t testing.TB, cfg kubepolicy.Config) *kubepolicy.Policies {
	p := kubepolicy.New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p
}

// TestPolicies checks that changes of each kind of object reach the class of a pod.
func TestPolicies(t *testing.T) {
	s := newServer(namespace("x", nil), namespace("y", map[string]string{"team": "y"}), pod("x", "server", "10.0.0.1", nil), pod("x", "client", "10.0.0.2", nil), pod("y", "other", "10.0.0.3", nil))
	p := run(t, s)
	ctx := t.Context()
	pods, policies := s.CoreV1().Pods("x"), s.NetworkingV1().NetworkPolicies("x")
	at := key(pod("x", "server", "", nil))
	reaches := func(from string, want bool) {
		t.Helper()
		eventually(t, from+" reaches the server", func() bool {
			allowed, known := allows(p, at, from, 8080)
			return known && allowed == want
		})
	}
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	reaches("10.0.0.2", true)
	must(policies.Create(ctx, ingress("x", "web", nil, intstr.FromString("web"), peerPods(map[string]string{"role": "client"}), peerNamespaces(map[string]string{"team": "z"})), metav1.CreateOptions{}))
	reaches("10.0.0.2", false)
	must(pods.Update(ctx, pod("x", "client", "10.0.0.2", map[string]string{"role": "client"}), metav1.UpdateOptions{}))
	reaches("10.0.0.2", true)
	reaches("10.0.0.3", false)
	must(s.CoreV1().Namespaces().Update(ctx, namespace("y", map[string]string{"team": "z"}), metav1.UpdateOptions{}))
	reaches("10.0.0.3", true)
	if _, _, known := p.Class(key(pod("x", "unborn", "", nil))); known {
		t.Error("the class of a pod without an object is known")
	}
	again := at
	again.UID = "another"
	if _, _, known := p.Class(again); known {
		t.Error("the class of another pod with the same name is known")
	}
	must(nil, pods.Delete(ctx, "server", metav1.DeleteOptions{}))
	eventually(t, "the deleted pod is not known", func() bool {
		_, _, known := p.Class(at)
		return !known
	})
	must(nil, policies.Delete(ctx, "web", metav1.DeleteOptions{}))
	must(pods.Create(ctx, pod("x", "server", "10.0.0.4", nil), metav1.CreateOptions{}))
	reaches("10.0.0.9", true)
}

// TestClusterPolicies checks that ClusterNetworkPolicies reach the class of a pod, and that no
// class is known before they are.
func TestClusterPolicies(t *testing.T) {
	s, cluster := newServer(namespace("x", nil), pod("x", "server", "10.0.0.1", nil)), policyfake.NewSimpleClientset()
	var away atomic.Bool
	away.Store(true)
	cluster.PrependReactor("list", "*", func(clienttesting.Action) (bool, apiruntime.Object, error) {
		return away.Load(), nil, errors.New("the API server does not have the resource")
	})
	p := start(t, kubepolicy.Config{Client: s, ClusterPolicies: cluster, Node: node})
	at := key(pod("x", "server", "", nil))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	p.Await(ctx, at)
	if _, _, known := p.Class(at); known {
		t.Error("the class is known without the cluster policies")
	}
	away.Store(false)
	reaches := func(want bool) {
		t.Helper()
		eventually(t, "a pod reaches the server", func() bool {
			allowed, known := allows(p, at, "10.0.0.2", 8080)
			return known && allowed == want
		})
	}
	reaches(true)
	policies := cluster.PolicyV1beta1().ClusterNetworkPolicies()
	x := &policyv1.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "deny"}, Spec: policyv1.ClusterNetworkPolicySpec{
		Tier: policyv1.AdminTier, Subject: policyv1.ClusterNetworkPolicySubject{Namespaces: &metav1.LabelSelector{}},
		Ingress: []policyv1.ClusterNetworkPolicyIngressRule{{Action: policyv1.ClusterNetworkPolicyRuleActionDeny, From: []policyv1.ClusterNetworkPolicyIngressPeer{{Namespaces: &metav1.LabelSelector{}}}}},
	}}
	if _, err := policies.Create(t.Context(), x, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	reaches(true) // the address belongs to no pod
	if _, err := s.CoreV1().Pods("x").Create(t.Context(), pod("x", "client", "10.0.0.2", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	reaches(false)
	if err := policies.Delete(t.Context(), "deny", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	reaches(true)
}

// TestAwait checks that Await ends as soon as the object of a pod has come.
func TestAwait(t *testing.T) {
	s := newServer(namespace("x", nil))
	p := run(t, s)
	late := pod("x", "late", "", nil)
	go func() { // an error of Create shows below
		_, _ = s.CoreV1().Pods("x").Create(t.Context(), late, metav1.CreateOptions{})
	}()
	eventually(t, "Await leaves with the class known", func() bool {
		p.Await(t.Context(), key(late))
		_, _, known := p.Class(key(late))
		return known
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p.Await(ctx, key(pod("x", "never", "", nil)))
}

// TestServerAway checks that nothing is known before the API server answers, that what was
// known stays while it is away, and that changes of that time arrive when it is back.
func TestServerAway(t *testing.T) {
	s := newServer(namespace("x", nil), pod("x", "server", "10.0.0.1", nil), ingress("x", "web", nil, intstr.FromInt32(8080), peerPods(map[string]string{"role": "client"})))
	s.leave()
	p := run(t, s)
	at := key(pod("x", "server", "", nil))
	if _, _, known := p.Class(at); known {
		t.Error("a class is known without the API server")
	}
	s.away.Store(false)
	eventually(t, "the class is known", func() bool {
		_, _, known := p.Class(at)
		return known
	})
	s.leave()
	if err := s.Tracker().Create(podsResource, pod("x", "client", "10.0.0.2", map[string]string{"role": "client"}), "x"); err != nil {
		t.Fatal(err)
	}
	if allowed, known := allows(p, at, "10.0.0.2", 8080); allowed || !known {
		t.Errorf("while the API server is away: allowed %t, known %t; want the class as before", allowed, known)
	}
	s.away.Store(false)
	eventually(t, "the new pod is allowed", func() bool {
		allowed, _ := allows(p, at, "10.0.0.2", 8080)
		return allowed
	})
}

var podsResource = corev1.SchemeGroupVersion.WithResource("pods")

// heap returns the bytes of the heap that are in use.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
