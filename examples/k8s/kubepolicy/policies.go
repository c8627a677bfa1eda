// SPDX-License-Identifier: Apache-2.0

package kubepolicy

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
	policyv1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	policyclient "sigs.k8s.io/network-policy-api/pkg/client/clientset/versioned"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath/policy"
	"github.com/vpcnet/vpcnet/examples/k8s/internal/mirror"
	"github.com/vpcnet/vpcnet/examples/k8s/netpol"
)

// Config configures [Policies].
type Config struct {
	// Client is the client of the API server.
	Client kubernetes.Interface
	// ClusterPolicies is the client for ClusterNetworkPolicies. Nil leaves them alone. Otherwise
	// the API server must have them: as long as it does not, no class is known.
	ClusterPolicies policyclient.Interface
	// Node is the name of the node, and HostNetworkPeers is that of package netpol.
	Node             string
	HostNetworkPeers bool
	// Logger receives errors of the API server. Nil discards.
	Logger *slog.Logger
}

// Policies are the NetworkPolicies and ClusterNetworkPolicies of a cluster, for the pods of one node. Create it with
// [New]. It implements the Policies of package ipamd. It is safe for concurrent use.
type Policies struct {
	cfg     Config
	changed chan struct{}
	wake    chan struct{}
	shown   atomic.Pointer[shown]

	mu      sync.Mutex
	node    *netpol.Node
	unknown int // kinds of which not all objects are known
}

// shown is what Class answers with.
type shown struct {
	classes map[netpol.PodKey]netpol.PodClass
	known   bool
	next    chan struct{} // closed when other values are shown
}

const (
	// patience bounds [Policies.Await]. The runtime waits meanwhile.
	patience = 2 * time.Second
	// settle is the time from a change until classes are computed, for those that come
	// together. After a computing there is none for restFactor times as long as it took, but
	// at most maxRest.
	settle     = 5 * time.Millisecond
	restFactor = 3
	maxRest    = time.Second
)

// New returns policies that know nothing before Run.
func New(cfg Config) *Policies {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Policies{
		cfg: cfg, changed: make(chan struct{}, 1), wake: make(chan struct{}, 1),
		node: netpol.New(netpol.Config{Name: cfg.Node, HostNetworkPeers: cfg.HostNetworkPeers}), unknown: 3,
	}
	if cfg.ClusterPolicies != nil {
		p.unknown++
	}
	p.shown.Store(&shown{next: make(chan struct{})})
	return p
}

// Run watches the objects until ctx ends, and then returns nil. As long as the API server does
// not answer, Run tries again. It must be called once.
func (p *Policies) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(klog.NewContext(ctx, logr.FromSlogHandler(p.cfg.Logger.Handler())))
	c := p.cfg.Client
	g.Go(func() error {
		mirror.Follow(ctx, c, c.CoreV1().Namespaces(), mirror.Kind[*corev1.Namespace, netpol.Namespace]{
			Object: &corev1.Namespace{}, Convert: Namespace,
			Apply: apply(p, (*netpol.Node).SetNamespace, func(n *netpol.Node, k mirror.Key) { n.DeleteNamespace(k.Name) }),
		})
		return nil
	})
	g.Go(func() error {
		mirror.Follow(ctx, c, c.CoreV1().Pods(""), mirror.Kind[*corev1.Pod, netpol.Pod]{
			Object: &corev1.Pod{}, Fields: mirror.Living, Convert: Pod,
			Apply: apply(p, (*netpol.Node).SetPod, func(n *netpol.Node, k mirror.Key) { n.DeletePod(k.Namespace, k.Name) }),
		})
		return nil
	})
	g.Go(func() error {
		mirror.Follow(ctx, c, c.NetworkingV1().NetworkPolicies(""), mirror.Kind[*networkingv1.NetworkPolicy, netpol.Policy]{
			Object: &networkingv1.NetworkPolicy{}, Convert: Policy,
			Apply: apply(p, (*netpol.Node).SetPolicy, func(n *netpol.Node, k mirror.Key) { n.DeletePolicy(k.Namespace, k.Name) }),
		})
		return nil
	})
	if c := p.cfg.ClusterPolicies; c != nil {
		g.Go(func() error {
			mirror.Follow(ctx, c, c.PolicyV1beta1().ClusterNetworkPolicies(), mirror.Kind[*policyv1.ClusterNetworkPolicy, netpol.ClusterPolicy]{
				Object: &policyv1.ClusterNetworkPolicy{}, Convert: ClusterPolicy,
				Apply: apply(p, (*netpol.Node).SetClusterPolicy, func(n *netpol.Node, k mirror.Key) { n.DeleteClusterPolicy(k.Name) }),
			})
			return nil
		})
	}
	g.Go(func() error {
		p.compute(ctx)
		return nil
	})
	return g.Wait()
}

// apply returns what applies the changes of a kind of objects.
func apply[T any](p *Policies, set func(*netpol.Node, T), remove func(*netpol.Node, mirror.Key)) func(mirror.Change[T]) {
	return func(c mirror.Change[T]) {
		p.change(func(n *netpol.Node) {
			for _, key := range c.Gone {
				remove(n, key)
			}
			for _, x := range c.Set {
				set(n, x)
			}
			if c.First {
				p.unknown--
			}
		})
	}
}

// change changes the objects, and has the classes computed soon.
func (p *Policies) change(f func(*netpol.Node)) {
	p.mu.Lock()
	f(p.node)
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// compute computes the classes after changes until ctx ends.
func (p *Policies) compute(ctx context.Context) {
	var next time.Time
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(max(settle, time.Until(next))):
		case <-ctx.Done():
			return
		}
		began := time.Now()
		p.update()
		took := time.Since(began)
		next = began.Add(took + min(restFactor*took, maxRest))
	}
}

// update computes the classes and shows them, if all kinds of objects are known.
func (p *Policies) update() {
	p.mu.Lock()
	if p.unknown > 0 {
		p.mu.Unlock()
		return
	}
	changed, err := p.node.Update()
	old := p.shown.Load()
	if changed || !old.known {
		p.shown.Store(&shown{classes: p.node.Classes(), known: true, next: make(chan struct{})})
	}
	p.mu.Unlock()
	if err != nil {
		p.cfg.Logger.Error("network policy allows nothing", "err", err)
	}
	if !changed && old.known {
		return
	}
	close(old.next)
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// Class returns the class of a pod of the node. It does not know a pod if its object has not
// arrived, or is deleted already, or is that of another pod with the same name.
func (p *Policies) Class(pod cniplugin.Pod) (name string, class policy.Compiled, known bool) {
	return p.shown.Load().class(pod)
}

func (s *shown) class(pod cniplugin.Pod) (name string, class policy.Compiled, known bool) {
	c, ok := s.classes[netpol.PodKey{Namespace: pod.Namespace, Name: pod.Name}]
	if !ok || pod.UID != "" && c.UID != pod.UID {
		return "", policy.Compiled{}, false
	}
	return c.Name, c.Class, true
}

// Changed has a value when Class may return something else than before.
func (p *Policies) Changed() <-chan struct{} { return p.changed }

// Await waits until Class knows a pod, or until ctx ends, but at most two seconds. An agent
// calls it before it answers an ADD: the runtime can know a pod before its object has arrived
// here.
func (p *Policies) Await(ctx context.Context, pod cniplugin.Pod) {
	if pod.Name == "" {
		return // not a pod of Kubernetes
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		s := p.shown.Load()
		if _, _, known := s.class(pod); known {
			return
		}
		select {
		case <-s.next:
		case <-ctx.Done():
			return
		}
	}
}
