// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Client lends route netlink sockets of one namespace, and keeps a few of them open
// for the next call. It is safe for concurrent use.
type Client struct {
	ns   *os.File
	idle chan *Conn
}

// idleConns is how many sockets a client keeps: calls at the same time beyond
// that open their own, which the kernel would make wait for each other anyway.
const idleConns = 4

// NewClient returns a client of the namespace that ns is open on. The caller closes
// ns, after the client.
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

// with lends f a socket of the namespace.
func (k *Client) Do(ctx context.Context, f func(*Conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c, err := k.take()
	if err != nil {
		return fmt.Errorf("%s: %w", k.ns.Name(), err)
	}
	defer k.give(c)
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

func (k *Client) give(c *Conn) {
	select {
	case k.idle <- c:
	default:
		_ = c.close()
	}
}

// LinkByName returns the link of that name, with index 0 if there is none.
func (c *Conn) LinkByName(name string) (link Link, err error) {
	var b Batch
	b.FindLink(name)
	answers, err := c.Do(&b)
	switch {
	case err != nil:
		return link, err
	case errors.Is(answers[0].Err, unix.ENODEV):
		return link, nil
	case answers[0].Err != nil:
		return link, fmt.Errorf("find link %s: %w", name, answers[0].Err)
	}
	return ParseLink(answers[0].Data)
}
