// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"context"
	"errors"
	"fmt"
)

// Allocator allocates the addresses of pods. A [Client] asks the agent of the node,
// and every Backend of package server is an Allocator too.
//
// The plugin holds the lock of the attachment during ADD and DEL, see the package
// comment, and calls the methods from one goroutine. The context ends at the
// deadline of the command. [CNIError] says which error the runtime gets for an error
// of a method.
//
// Three methods are optional. They are those of Backend in package server:
//
//	Check(context.Context, CheckRequest) (AddResponse, error)
//	GC(context.Context, GCRequest) (GCResponse, error)
//	Status(context.Context) error
//
// Without Check, the plugin takes the addresses of a pod from the result of ADD. CHECK
// then does not notice that an address was released. It accepts either layout, and
// assumes that the rest of the AddResponse had its zero value. Without GC and Status,
// these commands succeed and do nothing.
type Allocator interface {
	// Add allocates the addresses of an attachment. If a second Add gives the same
	// response, a repeated ADD succeeds. If Add fails after the plugin's deadline,
	// the plugin calls Del.
	Add(ctx context.Context, req AddRequest) (AddResponse, error)
	// Del releases the addresses of an attachment. It returns nil if the attachment
	// holds none. If it fails, DEL fails after it has deleted the pod from the kernel,
	// and the runtime will call it again.
	Del(ctx context.Context, req DelRequest) (DelResponse, error)
}

var _ Allocator = Client{}

// backend is an Allocator with the optional methods.
type backend struct{ Allocator }

// errNoMethod means that the Allocator does not have the optional method.
var errNoMethod = fmt.Errorf("the allocator has no such method: %w", errors.ErrUnsupported)

// Check returns errNoMethod if the Allocator has no Check.
func (b backend) Check(ctx context.Context, req CheckRequest) (AddResponse, error) {
	if a, ok := b.Allocator.(interface {
		Check(context.Context, CheckRequest) (AddResponse, error)
	}); ok {
		return a.Check(ctx, req)
	}
	return AddResponse{}, errNoMethod
}

// GC returns no stale attachment if the Allocator has no GC.
func (b backend) GC(ctx context.Context, req GCRequest) (GCResponse, error) {
	if a, ok := b.Allocator.(interface {
		GC(context.Context, GCRequest) (GCResponse, error)
	}); ok {
		return a.GC(ctx, req)
	}
	return GCResponse{}, nil
}

// Status returns nil if the Allocator has no Status.
func (b backend) Status(ctx context.Context) error {
	if a, ok := b.Allocator.(interface{ Status(context.Context) error }); ok {
		return a.Status(ctx)
	}
	return nil
}
