// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Client lends route netlink sockets of one namespace, and keeps a few of them open
// for later calls. It is safe for concurrent use.
type Client struct {
	ns   *os.File
	idle chan *Conn
}

// idleConns is how many sockets a client keeps open. Calls beyond that number open
// their own sockets; the kernel makes concurrent requests wait for each other anyway.
const idleConns = 4

// NewClient returns a client of the network namespace that ns is open on. The caller
// closes ns after the last call of the client.
func NewClient(ns *os.File) *Client {
	return &Client{ns: ns, idle: make(chan *Conn, idleConns)}
}

// CloseIdle closes the sockets that no call uses. The client can still be used.
func (k *Client) CloseIdle() error {
	var errs []error
	for {
		select {
		case c := <-k.idle:
			errs = append(errs, c.close())
		default:
			return errors.Join(errs...)
		}
	}
}

// Do calls f with a socket in the client's namespace. f must not keep the socket.
func (k *Client) Do(ctx context.Context, f func(*Conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c, err := k.take()
	if err != nil {
		return fmt.Errorf("%s: %w", k.ns.Name(), err)
	}
	defer k.giveBack(c)
	return f(c)
}

func (k *Client) take() (*Conn, error) {
	select {
	case c := <-k.idle:
		return c, nil
	default:
		return dial(k.ns)
	}
}

func (k *Client) giveBack(c *Conn) {
	select {
	case k.idle <- c:
	default:
		_ = c.close()
	}
}
