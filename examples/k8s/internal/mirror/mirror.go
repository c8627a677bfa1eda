// SPDX-License-Identifier: Apache-2.0

// Package mirror follows the objects of a kind in an API server, and passes them on in a small
// form. It keeps only their names.
package mirror

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// Key is the name of an object.
type Key struct{ Namespace, Name string }

// Change is a change of the objects of a kind.
type Change[T any] struct {
	// Gone are the names of the objects that do not exist any more. They come first: another
	// object can have what they had.
	Gone []Key
	// Set are the new and the changed objects.
	Set []T
	// First means that Set has all objects, for the first time.
	First bool
}

// Kind is what is followed, and for what.
type Kind[O runtime.Object, T any] struct {
	// Object is an empty object of the kind.
	Object O
	// Fields is a field selector. Empty selects all objects.
	Fields string
	// Convert returns the small form of an object.
	Convert func(O) T
	// Apply receives the changes, one after the other.
	Apply func(Change[T])
}

// Source reads the objects of a kind, as the clients of client-go do.
type Source[L runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// Follow follows the objects of a kind until ctx ends. As long as the API server does not
// answer, it tries again. client is the client to which the source belongs.
func Follow[L, O runtime.Object, T any](ctx context.Context, client any, from Source[L], k Kind[O, T]) {
	lw := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = k.Fields
			return from.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = k.Fields
			return from.Watch(ctx, o)
		},
	}, client)
	s := &store[O, T]{kind: k, known: map[Key]bool{}}
	cache.NewReflectorWithOptions(lw, k.Object, s, cache.ReflectorOptions{}).RunWithContext(ctx)
}

// store receives the objects from a reflector.
type store[O runtime.Object, T any] struct {
	kind   Kind[O, T]
	known  map[Key]bool
	synced bool
}

// small is an object in its small form. Its metadata has the name alone.
type small[T any] struct {
	metav1.ObjectMeta
	value T
}

func (x *small[T]) key() Key { return Key{x.Namespace, x.Name} }

// Transformer returns what makes an object small, for those that the reflector collects before
// it passes them on.
func (s *store[O, T]) Transformer() cache.TransformFunc {
	return func(object any) (any, error) { return s.small(object) }
}

func (s *store[O, T]) small(object any) (*small[T], error) {
	if x, ok := object.(*small[T]); ok {
		return x, nil
	}
	o, ok := object.(O)
	m, named := object.(metav1.Object)
	if !ok || !named {
		return nil, fmt.Errorf("object %T, want another kind", object)
	}
	return &small[T]{metav1.ObjectMeta{Namespace: m.GetNamespace(), Name: m.GetName()}, s.kind.Convert(o)}, nil
}

// Add adds an object.
func (s *store[O, T]) Add(object any) error { return s.Update(object) }

// Update adds or replaces an object.
func (s *store[O, T]) Update(object any) error {
	x, err := s.small(object)
	if err != nil {
		return err
	}
	s.known[x.key()] = true
	s.kind.Apply(Change[T]{Set: []T{x.value}})
	return nil
}

// Delete deletes an object.
func (s *store[O, T]) Delete(object any) error {
	x, err := s.small(object)
	if err != nil {
		return err
	}
	delete(s.known, x.key())
	s.kind.Apply(Change[T]{Gone: []Key{x.key()}})
	return nil
}

// Replace replaces all objects.
func (s *store[O, T]) Replace(all []any, _ string) error {
	known := make(map[Key]bool, len(all))
	change := Change[T]{First: !s.synced}
	for _, object := range all {
		x, err := s.small(object)
		if err != nil {
			return err
		}
		known[x.key()] = true
		change.Set = append(change.Set, x.value)
	}
	for key := range s.known {
		if !known[key] {
			change.Gone = append(change.Gone, key)
		}
	}
	s.known, s.synced = known, true
	s.kind.Apply(change)
	return nil
}

// Resync does nothing: nothing is derived from the store but what follows each change.
func (s *store[O, T]) Resync() error { return nil }
