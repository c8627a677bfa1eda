// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"os"

	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// openNetns opens the network namespace at path, or returns ErrNoSandbox.
func openNetns(path string) (*os.File, error) {
	f, err := rtnl.OpenNetns(path)
	if rtnl.IsNoNetns(err) {
		err = fmt.Errorf("%w: %w", ErrNoSandbox, err)
	}
	return f, err
}

// SandboxID returns the identity of the network namespace at path: its cookie, a
// number that the kernel gives to no other namespace until the machine boots again,
// unlike the inode. It is 0 on kernels before 5.14, which have no cookies. The error is
// ErrNoSandbox if nothing is at path or what is there is not a network namespace. To
// enter the namespace it needs CAP_SYS_ADMIN.
func SandboxID(path string) (uint64, error) {
	ns, err := openNetns(path)
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	id, err := rtnl.NetnsCookie(ns)
	if err != nil {
		return 0, fmt.Errorf("identity of network namespace %s: %w", path, err)
	}
	return id, nil
}
