// SPDX-License-Identifier: Apache-2.0

package kubenode

import (
	"context"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/vpcnet/vpcnet/examples/k8s/eks"
	"github.com/vpcnet/vpcnet/examples/k8s/internal/mirror"
)

// ConfigMap is the name of a ConfigMap.
type ConfigMap struct{ Namespace, Name string }

// Settings are settings of the agent of one node, of a ConfigMap for all nodes and of
// annotations of the node. Create them with [NewSettings].
type Settings struct {
	cfg     Config
	from    ConfigMap
	node    *Node
	changed chan struct{}

	mu    sync.Mutex
	all   map[string]string // of the ConfigMap
	known bool
}

// retry is the time after which the agent gets again what it did not take.
const retry = 30 * time.Second

// NewSettings returns the settings of a ConfigMap and of the annotations of a node. An empty name
// of a ConfigMap means that there is none, and so does a nil node.
func NewSettings(cfg Config, from ConfigMap, node *Node) *Settings {
	s := &Settings{cfg: cfg, from: from, node: node, changed: make(chan struct{}, 1), known: from.Name == ""}
	if node != nil {
		node.subscribe(s.changed)
	}
	return s
}

// Watch watches the ConfigMap until ctx ends, and then returns nil. As long as the API server
// does not answer, Watch tries again. It must be called once.
func (s *Settings) Watch(ctx context.Context) error {
	if s.from.Name == "" {
		<-ctx.Done()
		return nil
	}
	mirror.Follow(s.cfg.logged(ctx), s.cfg.Client, s.cfg.Client.CoreV1().ConfigMaps(s.from.Namespace), mirror.Kind[*corev1.ConfigMap, map[string]string]{
		Object: &corev1.ConfigMap{}, Fields: named(s.from.Name), Apply: s.apply,
		Convert: func(x *corev1.ConfigMap) map[string]string { return x.Data },
	})
	return nil
}

// apply stores the data of the ConfigMap, which is the only object. Without it there are none.
func (s *Settings) apply(c mirror.Change[map[string]string]) {
	s.mu.Lock()
	if s.known = true; len(c.Set) > 0 {
		s.all = c.Set[0]
	} else if len(c.Gone) > 0 {
		s.all = nil
	}
	s.mu.Unlock()
	signal(s.changed)
}

// value returns the settings. known is false before the API server has answered.
func (s *Settings) value() (all map[string]string, known bool) {
	n, known := eks.Node{}, true
	if s.node != nil {
		n, known = s.node.value()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return eks.Settings(n, s.all), known && s.known
}

// Run calls set with the settings once they are known, and when they have changed, until ctx
// ends. It then returns nil. After an error it calls set again after half a minute.
func (s *Settings) Run(ctx context.Context, set func(context.Context, map[string]string) error) error {
	var last map[string]string
	return each(ctx, s.changed, func() error {
		all, known := s.value()
		if !known || maps.Equal(all, last) {
			return nil
		}
		err := set(ctx, all)
		if err == nil {
			last = all
		}
		return err
	})
}

// each calls f after each change, and again half a minute after an error of it, until ctx ends.
func each(ctx context.Context, changed <-chan struct{}, f func() error) error {
	var again <-chan time.Time
	for {
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
			return nil
		}
		again = nil
		if f() != nil {
			again = time.After(retry)
		}
	}
}
