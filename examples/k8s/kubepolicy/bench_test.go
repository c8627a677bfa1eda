// SPDX-License-Identifier: Apache-2.0

package kubepolicy_test

import (
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath/policy"
	"github.com/vpcnet/vpcnet/examples/k8s/kubepolicy"
)

// BenchmarkChange measures the time from a change of a pod's labels in the API server until
// the kernel has it, in a cluster of 10,000 pods and 1,000 policies with 110 pods on the node,
// and the memory of what the agent knows. Each change makes the pod a peer of the pods of an
// app, or ends that.
func BenchmarkChange(b *testing.B) {
	objects := largeCluster()
	s := newServer(objects...)
	var local []*corev1.Pod
	for _, x := range objects {
		if p, ok := x.(*corev1.Pod); ok && p.Spec.NodeName == node {
			local = append(local, p)
		}
	}
	table, err := policy.Open("")
	if err != nil {
		b.Fatal(err)
	}
	defer table.Close()
	before := heap()
	began := time.Now()
	p := run(b, s)
	k := &kernel{table: table, policies: p, pods: local, state: make(chan policy.State, 1)}
	go k.follow(b)
	client := s.CoreV1().Pods("team-00")
	victim, err := client.Get(b.Context(), "app-00100", metav1.GetOptions{}) // app-1, a peer of app-0
	if err != nil {
		b.Fatal(err)
	}
	at, peer := netip.MustParseAddr(local[0].Status.PodIP), netip.MustParseAddr(victim.Status.PodIP)
	wait := func(allowed bool) {
		for state := range k.state {
			if len(state.Pods) == len(local) && state.Judge(policy.Flow{Src: peer, Dst: at, Protocol: policy.TCP, Port: 8080}).Allowed == allowed {
				return
			}
		}
	}
	wait(true)
	b.Logf("%d pods of the node have their classes %v after the start", len(local), time.Since(began).Round(time.Millisecond))
	b.Logf("the objects and classes take %.1f MB", float64(heap()-before)/1e6)
	var took []time.Duration
	allowed := true
	for b.Loop() {
		allowed = !allowed
		victim.Labels["app"] = "none"
		if allowed {
			victim.Labels["app"] = "app-1"
		}
		began := time.Now()
		if _, err := client.Update(b.Context(), victim, metav1.UpdateOptions{}); err != nil {
			b.Fatal(err)
		}
		wait(allowed)
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	runtime.KeepAlive(s)
}

// kernel keeps the classes of pods in the kernel, as the agent does.
type kernel struct {
	table    *policy.Handle
	policies *kubepolicy.Policies
	pods     []*corev1.Pod
	state    chan policy.State // what the kernel has
}

func (k *kernel) follow(b *testing.B) {
	for {
		select {
		case <-k.policies.Changed():
		case <-b.Context().Done():
			return
		}
		state := policy.State{Classes: map[string]policy.Compiled{}, Pods: map[netip.Addr]string{}}
		for _, p := range k.pods {
			name, class, known := k.policies.Class(cniplugin.Pod{Namespace: p.Namespace, Name: p.Name})
			if known {
				state.Classes[name], state.Pods[netip.MustParseAddr(p.Status.PodIP)] = class, name
			}
		}
		if _, err := k.table.Apply(b.Context(), state); err != nil && b.Context().Err() == nil {
			b.Error(err)
			return
		}
		select {
		case <-k.state:
		default:
		}
		k.state <- state
	}
}
