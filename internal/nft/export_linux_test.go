// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"context"

	"github.com/google/nftables"
)

// Read is readConsistent for tests.
func Read[T any](ctx context.Context, s *Socket, equal func(a, b T) bool, read func(*nftables.Conn) (T, error)) (T, error) {
	return readConsistent(ctx, s, equal, func(c *conn) (T, error) { return read(c.Conn) })
}

// Torn is torn for tests.
func Torn(what string, err error) error { return torn(what, err) }

// Handle returns the kernel's number of a table. A table that is made again has another
// one.
func Handle(s *Socket, table string) (handle uint64, err error) {
	err = s.do(func(c *conn) (err error) {
		_, handle, err = c.tableProperties(table)
		return err
	})
	return handle, err
}
