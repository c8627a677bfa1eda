// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/netstate"
)

var (
	// ErrNotSupported is returned by everything that needs the Linux kernel on
	// other systems. It is an errors.ErrUnsupported.
	ErrNotSupported = fmt.Errorf("datapath needs Linux: %w", errors.ErrUnsupported)
	// ErrNoSandbox means that the path of a sandbox leads to no network
	// namespace. DelPod never returns it.
	ErrNoSandbox = errors.New("no such network namespace")
	// ErrNoLink means that no link has the MAC of an ENI: it is not attached
	// yet, or no more. The caller tries again.
	ErrNoLink = errors.New("no link has the ENI's MAC")
	// ErrInterfaceTaken means that the sandbox already has an interface of the
	// wanted name that this package did not make.
	ErrInterfaceTaken = errors.New("the sandbox has an interface of this name already")
	// ErrAddressTaken means that an address of the pod is another pod's by now: the
	// kernel has a route for it to a link that is not the pod's; or the address is
	// on a link of the node itself. The text names address and link. The pool must not
	// give the address to another pod.
	ErrAddressTaken = errors.New("the address is taken")
	// ErrInvalid means that a Node or Pod contradicts itself; the text says how.
	ErrInvalid = errors.New("invalid")
)

// DriftError says how a pod's or node's network differs from what it should be.
type DriftError struct {
	// Changes would repair it.
	Changes []netstate.Change
}

func (e *DriftError) Error() string {
	lines := make([]string, len(e.Changes))
	for i, c := range e.Changes {
		lines[i] = c.String()
	}
	return fmt.Sprintf("network differs from what it should be; to repair: %s", strings.Join(lines, "; "))
}
