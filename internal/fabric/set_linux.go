// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"sync/atomic"

	"github.com/google/nftables"
)

// setNumbers is the number of sets that this process has added. A set needs a number that is
// unique in its transaction.
var setNumbers atomic.Uint32

// addSet adds a set with elements to the transaction of c. It numbers the set, because the
// counter of the library belongs to all connections of the process and is not safe for
// concurrent use by two fabrics.
func addSet(c *nftables.Conn, s *nftables.Set, elements []nftables.SetElement) error {
	s.ID = setNumbers.Add(1)
	if s.Anonymous {
		s.Name = "__set%d" // the kernel puts in a number
		if s.IsMap {
			s.Name = "__map%d"
		}
	}
	return c.AddSet(s, elements)
}
