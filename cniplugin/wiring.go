// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"context"
	"fmt"

	"github.com/vpcnet/vpcnet/datapath"
)

// Wiring connects the sandboxes of pods to the network. The plugin calls the methods
// from one goroutine. An error that is, or wraps, an [*Error] reaches the runtime
// unchanged; the plugin wraps any other error in one with [CodeDatapath].
//
// A Wiring may have a method that compares the network of a pod with what Add made:
//
//	Check(context.Context, WiringRequest) error
//
// Without it, CHECK asks the [Allocator] only.
type Wiring interface {
	// Add connects a pod. It returns the interfaces, addresses and routes that it
	// made, in which IPConfig.Interface is an index into Interfaces; the plugin adds
	// them to the previous result. A second Add for the same attachment succeeds. If
	// Add fails, the plugin calls Del.
	Add(ctx context.Context, req WiringRequest) (*Result, error)
	// Del removes what Add made. It succeeds if some or all of it is gone. Its request
	// has no Netns if the sandbox is gone, and of Allocated at most the addresses.
	Del(ctx context.Context, req WiringRequest) error
}

// WiringRequest describes one interface of one pod.
type WiringRequest struct {
	Attachment
	// Netns is the path of the sandbox.
	Netns string
	Pod   Pod
	// MAC is the MAC that the interface must have, such as 02:00:00:00:00:01. Empty
	// means any. ADD fails if the result of Add does not have it.
	MAC string
	// Allocated is the response of the Allocator.
	Allocated AddResponse
}

// String returns all fields.
func (r WiringRequest) String() string {
	return fmt.Sprintf("%v in %s%s%s: %+v", r.Attachment, r.Netns, r.Pod.suffix(), macSuffix(r.MAC), r.Allocated)
}

// kernel changes the kernel with the Wiring of the Plugin or, if that is nil, with
// package datapath.
type kernel struct {
	c      *call
	handle *datapath.Handle // nil if the Plugin has a Wiring
}

// openKernel opens the network namespace of the process. The caller must close it.
func (c *call) openKernel() (*kernel, error) {
	if c.plugin.Wiring != nil {
		return &kernel{c: c}, nil
	}
	h, err := datapath.Open("")
	return &kernel{c, h}, err
}

func (k *kernel) Close() {
	if k.handle != nil {
		_ = k.handle.Close()
	}
}

// add wires p, for which the Allocator has given the response.
func (k *kernel) add(ctx context.Context, p datapath.Pod, given AddResponse) (*Result, error) {
	if k.handle == nil {
		made, err := k.c.plugin.Wiring.Add(ctx, k.c.wiringRequest(given))
		if err == nil {
			err = k.c.wants.checkMAC(made, k.c.netns, k.c.IfName)
		}
		return made, err
	}
	w, err := k.handle.AddPod(ctx, p)
	if err != nil {
		return nil, err
	}
	return resultOf(w, p.Netns), nil
}

// DelPod deletes p, as DelPod of package datapath.
func (k *kernel) DelPod(ctx context.Context, p datapath.Pod) error {
	if k.handle == nil {
		return k.c.plugin.Wiring.Del(ctx, k.request(p))
	}
	return k.handle.DelPod(ctx, p)
}

// retires reports whether RetirePod works: a Wiring deletes pods at once.
func (k *kernel) retires() bool { return k.handle != nil }

// RetirePod cuts p off, as RetirePod of package datapath.
func (k *kernel) RetirePod(ctx context.Context, p datapath.Pod) error {
	return k.handle.RetirePod(ctx, p)
}

// Sweep deletes the links that RetirePod has left, as Sweep of package datapath.
func (k *kernel) Sweep(ctx context.Context) error { return k.handle.Sweep(ctx) }

// CheckPod compares p with the kernel.
func (k *kernel) CheckPod(ctx context.Context, p datapath.Pod, given AddResponse) error {
	if k.handle != nil {
		return k.handle.CheckPod(ctx, p)
	}
	w, ok := k.c.plugin.Wiring.(interface {
		Check(context.Context, WiringRequest) error
	})
	if !ok {
		return nil
	}
	return w.Check(ctx, k.c.wiringRequest(given))
}

// wiringRequest returns the request for the attachment of the command.
func (c *call) wiringRequest(given AddResponse) WiringRequest {
	return WiringRequest{c.Attachment, c.netns, c.pod, c.wants.macText(), given}
}

// request returns the request for deleting p, which may be another pod than that of
// the command.
func (k *kernel) request(p datapath.Pod) WiringRequest {
	req := WiringRequest{Attachment: Attachment{k.c.Network, p.ContainerID, p.IfName}, Netns: p.Netns}
	if req.Attachment == k.c.Attachment {
		req.Pod = k.c.pod
	}
	for _, a := range p.Addrs {
		req.Allocated.Addresses = append(req.Allocated.Addresses, Address{Addr: a.Addr, Table: a.Table})
	}
	return req
}
