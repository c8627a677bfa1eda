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

// Handle manages the network of one namespace. It is safe for concurrent use.
//
// It needs CAP_NET_ADMIN over the namespace. It also needs CAP_SYS_ADMIN to enter
// namespaces other than that of the process: sandboxes, and the node's if the process
// is not in it. A process in the node's namespace that does not manage pods, and calls
// EnsureNode and Watch only, needs CAP_NET_ADMIN alone, if it can write to /proc/sys.
// A Handle runs no other program.
type Handle struct {
	ns     *os.File
	client *rtnl.Client
	nft    *nft.Socket
}

// Open opens the network namespace at path, or that of the calling thread if path is
// empty. The caller must close the handle.
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

// Close releases the descriptors of the handle. No other call may be in progress.
func (h *Handle) Close() error {
	return errors.Join(h.closeSockets(), h.ns.Close())
}

// closeSockets closes the sockets and leaves the namespace's descriptor open.
func (h *Handle) closeSockets() error {
	return errors.Join(h.client.CloseIdle(), h.nft.Close())
}

// withConn calls f with a socket of the namespace.
func (h *Handle) withConn(ctx context.Context, f func(*rtnl.Conn) error) error {
	return h.client.Do(ctx, f)
}

// findLink returns the link of that name. Its index is 0 if there is none.
func (h *Handle) findLink(ctx context.Context, name string) (link rtnl.Link, err error) {
	err = h.withConn(ctx, func(c *rtnl.Conn) error {
		link, err = c.LinkByName(name)
		return err
	})
	return link, err
}

// deleteLink deletes a link. The kernel deletes its routes and neighbours and the other
// end of a veth pair with it.
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
