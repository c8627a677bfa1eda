// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/netstate"
)

var (
	// ErrNotSupported is returned on other systems by everything that needs the Linux
	// kernel. It wraps errors.ErrUnsupported.
	ErrNotSupported = fmt.Errorf("datapath needs Linux: %w", errors.ErrUnsupported)
	// ErrNoSandbox means that the path of a sandbox does not exist or is not a
	// network namespace. DelPod never returns it.
	ErrNoSandbox = errors.New("no such network namespace")
	// ErrNoLink means that no link has the MAC of an ENI: the ENI is not attached yet,
	// or no longer attached. The caller may try again.
	ErrNoLink = errors.New("no link has the ENI's MAC")
	// ErrInterfaceTaken means that the sandbox already has an interface of the wanted
	// name that this package did not create.
	ErrInterfaceTaken = errors.New("the sandbox has an interface of this name already")
	// ErrAddressTaken means that another pod or the node itself uses an address of
	// the pod: the kernel has a route for it to a link of another pod, or the address
	// is on a link of the node. The text names the address and the link. The pool
	// must not give the address to another pod.
	ErrAddressTaken = errors.New("the address is taken")
	// ErrInvalid means that a Node or Pod is invalid; the text says why.
	ErrInvalid = errors.New("invalid")
)

// DriftError says how the network of a pod or node differs from the wanted one.
type DriftError struct {
	// Changes are what would repair the network.
	Changes []netstate.Change
}

func (e *DriftError) Error() string {
	lines := make([]string, len(e.Changes))
	for i, c := range e.Changes {
		lines[i] = c.String()
	}
	return fmt.Sprintf("network differs from what it should be; to repair: %s", strings.Join(lines, "; "))
}
