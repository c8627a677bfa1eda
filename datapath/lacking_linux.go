// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"os"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

// explainKind adds to the error of a request to create a link that the kernel may need a
// module for its kind.
func explainKind(kind string, err error) error {
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	module := kind
	if kind == "vlan" {
		module = "8021q"
	}
	return fmt.Errorf("%w: the kernel has no links of kind %s: load the module %s", err, kind, module)
}

// explainFamily adds to the error of an ADD of p that the kernel has no IPv6.
func explainFamily(p Pod, err error) error {
	if !p.hasFamily(netstate.IPv6) || !rtnl.LacksFamily(err) && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if _, lacking := os.Stat("/proc/sys/net/ipv6"); !errors.Is(lacking, os.ErrNotExist) {
		return err
	}
	return fmt.Errorf("%w: the kernel has no IPv6: boot it without ipv6.disable=1, or give the pod no IPv6 address", err)
}
