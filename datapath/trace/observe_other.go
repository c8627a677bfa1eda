// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package trace

import (
	"context"

	"github.com/vpcnet/vpcnet/datapath"
)

// Confirm returns [datapath.ErrNotSupported].
func Confirm(context.Context, string, Path) ([]Fault, error) {
	return nil, datapath.ErrNotSupported
}

// Observe returns [datapath.ErrNotSupported].
func Observe(context.Context, string, string) (View, error) {
	return View{}, datapath.ErrNotSupported
}
