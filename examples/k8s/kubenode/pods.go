// SPDX-License-Identifier: Apache-2.0

package kubenode

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/examples/k8s/eks"
	"github.com/vpcnet/vpcnet/examples/k8s/internal/mirror"
	"github.com/vpcnet/vpcnet/ipam"
)

// Config configures an adapter.
type Config struct {
	// Client is the client of the API server, and Node the name of the node.
	Client kubernetes.Interface
	Node   string
	// Logger receives errors of the API server. Nil discards.
	Logger *slog.Logger
}

// logged returns a context with which client-go logs to the logger.
func (c Config) logged(ctx context.Context) context.Context {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return klog.NewContext(ctx, logr.FromSlogHandler(c.Logger.Handler()))
}

// Pods are the pods that are bound to the node. Create them with [NewPods]. They implement the
// Demand of package ipam/agent. They are safe for concurrent use.
type Pods struct {
	cfg     Config
	changed chan struct{}

	mu   sync.Mutex
	pods map[mirror.Key]eks.Pod
	next chan struct{} // closed by the next change
}

// patience bounds the time for which Complete waits for a pod. The runtime waits meanwhile.
const patience = 2 * time.Second

// NewPods returns pods that are not known before Run.
func NewPods(cfg Config) *Pods {
	return &Pods{cfg: cfg, changed: make(chan struct{}, 1), pods: map[mirror.Key]eks.Pod{}, next: make(chan struct{})}
}

// Run watches the pods until ctx ends, and then returns nil. As long as the API server does not
// answer, Run tries again. It must be called once.
func (p *Pods) Run(ctx context.Context) error {
	mirror.Follow(p.cfg.logged(ctx), p.cfg.Client, p.cfg.Client.CoreV1().Pods(""), mirror.Kind[*corev1.Pod, eks.Pod]{
		Object: &corev1.Pod{}, Convert: podOf, Apply: p.apply,
		Fields: fields.OneTermEqualSelector("spec.nodeName", p.cfg.Node).String() + "," + mirror.Living,
	})
	return nil
}

func (p *Pods) apply(c mirror.Change[eks.Pod]) {
	p.mu.Lock()
	for _, key := range c.Gone {
		delete(p.pods, key)
	}
	for _, x := range c.Set {
		p.pods[mirror.Key{Namespace: x.Namespace, Name: x.Name}] = x
	}
	close(p.next)
	p.next = make(chan struct{})
	p.mu.Unlock()
	signal(p.changed)
}

// podOf returns what of a pod decides.
func podOf(x *corev1.Pod) eks.Pod {
	annotations := map[string]string{}
	for _, key := range eks.Annotations {
		if value, ok := x.Annotations[key]; ok {
			annotations[key] = value
		}
	}
	return eks.Pod{
		Annotations: annotations,
		Namespace:   x.Namespace, Name: x.Name, UID: mirror.PodUID(x), HostNetwork: x.Spec.HostNetwork,
		Ended:   mirror.Ended(x),
		Deleted: x.DeletionTimestamp != nil,
		BranchENI: slices.ContainsFunc(x.Spec.Containers[:min(1, len(x.Spec.Containers))], func(c corev1.Container) bool {
			for name := range c.Resources.Limits {
				if strings.HasPrefix(string(name), eks.ResourceBranchENI) {
					return true
				}
			}
			return false
		}),
	}
}

// Bound returns the pods that have, or are to get, an address of the node's pool.
func (p *Pods) Bound() (all []ipam.PodRef) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.pods {
		if x.NeedsAddress() {
			all = append(all, ipam.PodRef{Namespace: x.Namespace, Name: x.Name, UID: x.UID})
		}
	}
	return all
}

// Changed has a value when Bound may return something else than before.
func (p *Pods) Changed() <-chan struct{} { return p.changed }

// Complete returns the request of an ADD with what the annotations of its pod ask for. It waits
// until the pod is known, or until ctx ends, but at most two seconds; a pod that is not known
// then gets what the runtime asks for. It is for the hook of that name.
func (p *Pods) Complete(ctx context.Context, req cniplugin.AddRequest) (cniplugin.AddRequest, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		p.mu.Lock()
		x, known := p.pods[mirror.Key{Namespace: req.Pod.Namespace, Name: req.Pod.Name}]
		next := p.next
		p.mu.Unlock()
		if known && (req.Pod.UID == "" || x.UID == req.Pod.UID) {
			return x.Complete(req)
		}
		if req.Pod.Name == "" {
			return req, nil // not a pod of Kubernetes
		}
		select {
		case <-next:
		case <-ctx.Done():
			return req, nil
		}
	}
}
