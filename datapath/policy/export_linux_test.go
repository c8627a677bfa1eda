// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"

	"github.com/vpcnet/vpcnet/internal/nft"
)

// Plain makes the handle write tables without an owner, as on kernels that have no owners.
func Plain(h *Handle) { h.sys.(*namespace).plain = true }

// IsPlain reports whether the handle writes tables without an owner.
func IsPlain(h *Handle) bool { return h.sys.(*namespace).plain }

// Begin carries out only the first of the two transactions that lead from what the handle has
// applied to s.
func Begin(h *Handle, s State) error {
	n := h.sys.(*namespace)
	return n.keeper.Exclusively(context.Background(), tableName, func(x *nft.Held) error {
		have, _ := x.Applied()
		want := s.table()
		want.Owned = !n.plain
		return x.Replace(have, prepared(have, want))
	})
}
