// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/vpcnet/vpcnet/internal/nft"
	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// kernel is the system of a Handle on Linux. It works through netlink and /proc/sys.
type kernel struct {
	ns     *os.File
	client *rtnl.Client
	nft    *nft.Socket

	mu sync.Mutex
	// ending is when Sweep has first seen each link that is in the group of ending links.
	ending map[int]time.Time

	flows flows
}

func openSystem(path string) (system, error) {
	h, err := openKernel(path)
	if err != nil {
		return nil, err
	}
	return h, nil
}

// openKernel opens the network namespace at path, or that of the calling thread if path
// is empty.
func openKernel(path string) (*kernel, error) {
	if path == "" {
		path = rtnl.OwnNetns
	}
	ns, err := openNetns(path)
	if err != nil {
		return nil, err
	}
	return newKernel(ns), nil
}

// newKernel returns the kernel of the namespace that ns is open on.
func newKernel(ns *os.File) *kernel {
	return &kernel{ns: ns, client: rtnl.NewClient(ns), nft: nft.New(ns)}
}

// Close: see [Handle.Close].
func (h *kernel) Close() error {
	return errors.Join(h.closeSockets(), h.ns.Close())
}

// closeSockets closes the sockets and leaves the namespace's descriptor open.
func (h *kernel) closeSockets() error {
	return errors.Join(h.client.CloseIdle(), h.nft.Close())
}

// withConn calls f with a socket of the namespace.
func (h *kernel) withConn(ctx context.Context, f func(*rtnl.Conn) error) error {
	return h.client.Do(ctx, f)
}

// findLink returns the link of that name. Its index is 0 if there is none.
func (h *kernel) findLink(ctx context.Context, name string) (link rtnl.Link, err error) {
	err = h.withConn(ctx, func(c *rtnl.Conn) error {
		link, err = c.LinkByName(name)
		return err
	})
	return link, err
}

// deleteLink deletes a link. The kernel deletes its routes and neighbours and the other
// end of a veth pair with it.
func (h *kernel) deleteLink(ctx context.Context, index int) error {
	return h.withConn(ctx, func(c *rtnl.Conn) error {
		var b rtnl.Batch
		b.DeleteLink(index)
		answers, err := c.Do(&b)
		if err != nil {
			return err
		}
		if err := answers[0].Err; err != nil && !rtnl.IsGone(err) {
			return fmt.Errorf("delete link: %w", err)
		}
		return nil
	})
}
