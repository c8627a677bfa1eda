// SPDX-License-Identifier: Apache-2.0

package kubenode

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	typed "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/vpcnet/vpcnet/examples/k8s/eks"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// Events writes an event for a pod with a failed ADD. Create it with [NewEvents].
type Events struct {
	cfg         Config
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
}

// A pod has at most eventBurst events, and then one each 1/eventRate seconds. Further ones are
// dropped, and so are those that the API server does not take after some attempts.
const (
	eventBurst = 5
	eventRate  = 1. / 300
)

// component is the source of the events.
const component = "vpcnet-node"

// NewEvents returns events that are written by Run.
func NewEvents(cfg Config) *Events {
	b := record.NewBroadcaster(record.WithCorrelatorOptions(record.CorrelatorOptions{BurstSize: eventBurst, QPS: eventRate}))
	return &Events{cfg, b, b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component, Host: cfg.Node})}
}

// Run writes the events until ctx ends, and then returns nil. It must be called once.
func (e *Events) Run(ctx context.Context) error {
	e.broadcaster.StartRecordingToSink(&typed.EventSinkImpl{Interface: e.cfg.Client.CoreV1().Events("")})
	<-ctx.Done()
	e.broadcaster.Shutdown()
	return nil
}

// Requested writes an event for an ADD that has failed. It is for the hook of that name, and does
// not wait for the API server.
func (e *Events) Requested(r ipamd.Request) {
	if r.Call != "add" || r.Err == nil || r.Pod.Name == "" {
		return
	}
	reason, message := eks.Event(r.Err)
	e.recorder.Event(&corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: r.Pod.Namespace, Name: r.Pod.Name, UID: types.UID(r.Pod.UID),
	}, corev1.EventTypeWarning, reason, message)
}
