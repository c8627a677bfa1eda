// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"

	"github.com/vpcnet/vpcnet/internal/rtnl"
)

func (vethMode) refuse(Pod, map[string]rtnl.Link) error       { return nil }
func (vethMode) place(ctx context.Context, a *addition) error { return a.placeLinks(ctx) }
func (vethMode) ready(ctx context.Context, a *addition) error { return a.waitPair(ctx) }
func (vethMode) release(context.Context, *deletion) error     { return nil }
