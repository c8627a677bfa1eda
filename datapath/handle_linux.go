// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/vpcnet/vpcnet/internal/nft"
	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// Handle works on the network of one namespace. It is safe for concurrent use.
// It needs CAP_NET_ADMIN over the namespace, and CAP_SYS_ADMIN to enter another
// namespace than the process's: sandboxes, so for pods, and the node's if the
// process is not there. A process in the node's namespace needs CAP_NET_ADMIN alone
// for what is not in a sandbox, EnsureNode and Watch above all, if /proc/sys can be
// written. No other capability is needed, and no program.
type Handle struct {
	ns     *os.File
	client *rtnl.Client
	nft    *nft.Socket
}

// Open opens the namespace at path, or that of the calling thread if path is
// empty. The caller closes the handle.
func Open(path string) (*Handle, error) {
	if path == "" {
		path = rtnl.OwnNetns
	}
	ns, err := openNetns(path)
	if err != nil {
		return nil, err
	}
	return newHandle(ns), nil
}

func newHandle(ns *os.File) *Handle {
	return &Handle{ns: ns, client: rtnl.NewClient(ns), nft: nft.New(ns)}
}

// Close releases the handle's descriptors. No call may be under way.
func (h *Handle) Close() error {
	return errors.Join(h.drain(), h.ns.Close())
}

// drain closes the sockets and leaves the namespace's descriptor open.
func (h *Handle) drain() error {
	return errors.Join(h.client.CloseIdle(), h.nft.Close())
}

// withConn lends f a socket of the namespace.
func (h *Handle) withConn(ctx context.Context, f func(*rtnl.Conn) error) error {
	return h.client.Do(ctx, f)
}

// findLink returns the link of that name, with index 0 if there is none.
func (h *Handle) findLink(ctx context.Context, name string) (link rtnl.Link, err error) {
	err = h.withConn(ctx, func(c *rtnl.Conn) error {
		link, err = c.LinkByName(name)
		return err
	})
	return link, err
}

// deleteLink deletes a link, and with it its routes and neighbours and the
// other end of a veth pair.
func (h *Handle) deleteLink(ctx context.Context, index int) error {
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
