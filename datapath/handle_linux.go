// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/vpcnet/vpcnet/internal/nft"
	"golang.org/x/sys/unix"
)

// Handle works on the network of one namespace. It is safe for concurrent use.
// It needs CAP_NET_ADMIN over the namespace, and CAP_SYS_ADMIN to enter another
// namespace than the process's: sandboxes, so for pods, and the node's if the
// process is not there. A process in the node's namespace needs CAP_NET_ADMIN alone
// for what is not in a sandbox, EnsureNode and Watch above all, if /proc/sys can be
// written. No other capability is needed, and no program.
type Handle struct {
	ns *os.File
	// idle keeps sockets for the next call.
	idle chan *conn
	nft  *nft.Socket
}

// idleConns is how many sockets a handle keeps: calls at the same time beyond
// that open their own, which the kernel would make wait for each other anyway.
const idleConns = 4

// Open opens the namespace at path, or that of the calling thread if path is
// empty. The caller closes the handle.
func Open(path string) (*Handle, error) {
	if path == "" {
		path = ownNetns
	}
	ns, err := openNetns(path)
	if err != nil {
		return nil, err
	}
	return newHandle(ns), nil
}

func newHandle(ns *os.File) *Handle {
	return &Handle{ns: ns, idle: make(chan *conn, idleConns), nft: nft.New(ns)}
}

// Close releases the handle's descriptors. No call may be under way.
func (h *Handle) Close() error {
	return errors.Join(h.drain(), h.ns.Close())
}

// drain closes the sockets and leaves the namespace's descriptor open.
func (h *Handle) drain() error {
	var errs []error
	for {
		select {
		case c := <-h.idle:
			errs = append(errs, c.close())
		default:
			return errors.Join(append(errs, h.nft.Close())...)
		}
	}
}

// withConn lends f a socket of the namespace.
func (h *Handle) withConn(ctx context.Context, f func(*conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c, err := h.take()
	if err != nil {
		return fmt.Errorf("%s: %w", h.ns.Name(), err)
	}
	defer h.give(c)
	return f(c)
}

func (h *Handle) take() (*conn, error) {
	select {
	case c := <-h.idle:
		return c, nil
	default:
		return dial(h.ns)
	}
}

func (h *Handle) give(c *conn) {
	select {
	case h.idle <- c:
	default:
		_ = c.close()
	}
}

// findLink returns the link of that name, with index 0 if there is none.
func (h *Handle) findLink(ctx context.Context, name string) (link kernelLink, err error) {
	err = h.withConn(ctx, func(c *conn) error {
		var b batch
		b.findLink(name)
		answers, err := c.do(&b)
		switch {
		case err != nil:
			return err
		case errors.Is(answers[0].err, unix.ENODEV):
			return nil
		case answers[0].err != nil:
			return fmt.Errorf("find link %s: %w", name, answers[0].err)
		}
		link, err = parseLink(answers[0].data)
		return err
	})
	return link, err
}

// deleteLink deletes a link, and with it its routes and neighbours and the
// other end of a veth pair.
func (h *Handle) deleteLink(ctx context.Context, index int) error {
	return h.withConn(ctx, func(c *conn) error {
		var b batch
		b.deleteLink(index)
		answers, err := c.do(&b)
		if err != nil {
			return err
		}
		if err := answers[0].err; err != nil && !isGone(err) {
			return fmt.Errorf("delete link: %w", err)
		}
		return nil
	})
}
