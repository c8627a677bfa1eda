// SPDX-License-Identifier: Apache-2.0

package policy

// Plain makes the handle write tables without an owner, as on kernels that have no owners.
func Plain(h *Handle) { h.sys.(*namespace).plain = true }

// IsPlain reports whether the handle writes tables without an owner.
func IsPlain(h *Handle) bool { return h.sys.(*namespace).plain }
