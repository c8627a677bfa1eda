// SPDX-License-Identifier: Apache-2.0

package kubepolicy

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/vpcnet/vpcnet/examples/k8s/netpol"
)

// kind is how the objects of a kind become those of package netpol.
type kind[T any] struct {
	convert func(object any) (metav1.ObjectMeta, T, bool)
	set     func(*netpol.Node, T)
	remove  func(*netpol.Node, netpol.PodKey)
}

// store receives the objects of a kind from a reflector, and passes them on in a small form.
// It keeps only their names.
type store[T any] struct {
	kind[T]
	to    *Policies
	known map[netpol.PodKey]bool
	// synced says that the store has had all objects once.
	synced bool
}

// small is an object in a small form. Its metadata has the name alone.
type small[T any] struct {
	metav1.ObjectMeta
	value T
}

// Transformer returns what makes an object small, for those that the reflector collects before
// it passes them on.
func (s *store[T]) Transformer() cache.TransformFunc {
	return func(object any) (any, error) { return s.small(object) }
}

func (s *store[T]) small(object any) (*small[T], error) {
	if x, ok := object.(*small[T]); ok {
		return x, nil
	}
	m, value, ok := s.convert(object)
	if !ok {
		return nil, fmt.Errorf("object %T, want another kind", object)
	}
	return &small[T]{metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name}, value}, nil
}

func (x *small[T]) key() netpol.PodKey { return netpol.PodKey{Namespace: x.Namespace, Name: x.Name} }

// Add adds an object.
func (s *store[T]) Add(object any) error { return s.Update(object) }

// Update adds or replaces an object.
func (s *store[T]) Update(object any) error {
	x, err := s.small(object)
	if err != nil {
		return err
	}
	s.to.change(func(n *netpol.Node) {
		s.known[x.key()] = true
		s.set(n, x.value)
	})
	return nil
}

// Delete deletes an object.
func (s *store[T]) Delete(object any) error {
	x, err := s.small(object)
	if err != nil {
		return err
	}
	s.to.change(func(n *netpol.Node) {
		delete(s.known, x.key())
		s.remove(n, x.key())
	})
	return nil
}

// Replace replaces all objects.
func (s *store[T]) Replace(all []any, _ string) error {
	var objects []*small[T]
	for _, object := range all {
		x, err := s.small(object)
		if err != nil {
			return err
		}
		objects = append(objects, x)
	}
	s.to.change(func(n *netpol.Node) {
		gone := s.known
		s.known = make(map[netpol.PodKey]bool, len(objects))
		for _, x := range objects {
			s.known[x.key()] = true
			delete(gone, x.key())
		}
		for key := range gone { // before the new ones, which can have their addresses
			s.remove(n, key)
		}
		for _, x := range objects {
			s.set(n, x.value)
		}
		if !s.synced {
			s.synced = true
			s.to.unknown--
		}
	})
	return nil
}

// Resync does nothing: nothing is derived from the store but what follows each change.
func (s *store[T]) Resync() error { return nil }
