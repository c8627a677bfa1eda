// SPDX-License-Identifier: Apache-2.0

package agent

import "github.com/vpcnet/vpcnet/ipam"

// Demand knows the pods that are bound to the node, for example from the API server of
// Kubernetes. Its methods must return quickly, and are called from one goroutine.
type Demand interface {
	// Bound returns the pods that are bound to the node and need addresses: all of them,
	// also those that have their addresses already. Pods in the network of the node and
	// pods that have ended do not need any. The UID does not matter: the kubelet gives
	// runtimes another one for a static pod than the API server shows.
	Bound() []ipam.PodRef
	// Changed returns a channel that receives a value after the pods have changed. The
	// agent calls it once. Several changes may result in one value.
	Changed() <-chan struct{}
}

// bound returns the number of pods that are bound to the node and hold no address.
func (a *Agent) bound() int {
	if a.cfg.Demand == nil {
		return 0
	}
	all := a.cfg.Demand.Bound()
	if len(all) == 0 {
		return 0
	}
	without := make(map[ipam.PodRef]bool, len(all))
	for _, p := range all {
		without[ipam.PodRef{Namespace: p.Namespace, Name: p.Name}] = true
	}
	for held := range a.cfg.Pool.Allocations() {
		delete(without, ipam.PodRef{Namespace: held.Pod.Namespace, Name: held.Pod.Name})
	}
	return len(without)
}

// demandChanged returns a channel that receives a value when the bound pods have changed.
func (a *Agent) demandChanged() <-chan struct{} {
	if a.cfg.Demand == nil {
		return nil
	}
	return a.cfg.Demand.Changed()
}
