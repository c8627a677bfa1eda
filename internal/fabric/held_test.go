// SPDX-License-Identifier: Apache-2.0

//go:build linux

package fabric_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/internal/fabric"
)

// heldAddrs checks that connections to the addresses of a delegated prefix that no
// pod has are refused, from every kind of sender. If the node did not answer, they
// would hang for longer than the test waits. An answer to a repeated packet
// suffices, see docs/architecture.md. The kernel limits its answers to each sender to a burst of six and then one a second: earlier tests must not use up
// that burst, as redirects between the ports of a bridge do.
func (s *suite) heldAddrs(t *testing.T) {
	near, far := s.hosts[0], s.hosts[1]
	held := [2]netip.Addr{in4(near.number, 40), netip.MustParseAddr(fmt.Sprintf("2001:db8:1:%d:f::40", near.number))}
	var all sync.WaitGroup
	for _, from := range []end{near.end, far.end, near.pods["primary"].end, near.pods["second"].end, near.pods["prefix"].end, far.pods["primary"].end, far.pods["second"].end} {
		for family, a := range held {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				c, err := from.ns.Dial(ctx, "tcp", netip.AddrPortFrom(from.addrs[family], 0), netip.AddrPortFrom(a, fabric.EchoPort))
				if err == nil {
					_ = c.Close()
				}
				if !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.ENETUNREACH) {
					t.Errorf("%s of %s to the unused address %s: error %v, want unreachable", from.name, from.host.name, a, err)
				}
			})
		}
	}
	all.Wait()
}
