// SPDX-License-Identifier: Apache-2.0

package kubenode

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/vpcnet/vpcnet/examples/k8s/eks"
	"github.com/vpcnet/vpcnet/examples/k8s/internal/mirror"
)

// Node is the object of the node. Create it with [NewNode]. It is safe for concurrent use.
type Node struct {
	cfg Config

	mu      sync.Mutex
	node    eks.Node
	known   bool
	readers []chan struct{}
}

// NewNode returns a node that is not known before Run.
func NewNode(cfg Config) *Node { return &Node{cfg: cfg} }

// Run watches the object until ctx ends, and then returns nil. As long as the API server does
// not answer, Run tries again. It must be called once.
func (n *Node) Run(ctx context.Context) error {
	mirror.Follow(n.cfg.logged(ctx), n.cfg.Client, n.cfg.Client.CoreV1().Nodes(), mirror.Kind[*corev1.Node, eks.Node]{
		Object: &corev1.Node{}, Fields: named(n.cfg.Node), Apply: n.apply,
		Convert: func(x *corev1.Node) eks.Node { return eks.Node{Labels: x.Labels, Annotations: x.Annotations} },
	})
	return nil
}

// named is a field selector for one object.
func named(name string) string { return fields.OneTermEqualSelector("metadata.name", name).String() }

// apply stores the node. One that is deleted stays: its instance runs.
func (n *Node) apply(c mirror.Change[eks.Node]) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, x := range c.Set {
		n.node, n.known = x, true
	}
	for _, r := range n.readers {
		signal(r)
	}
}

// value returns the node. known is false before the API server has answered.
func (n *Node) value() (x eks.Node, known bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.node, n.known
}

// subscribe makes to receive a value after each change.
func (n *Node) subscribe(to chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.readers = append(n.readers, to)
}

// signal sends a value unless one is pending already.
func signal(to chan<- struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}
