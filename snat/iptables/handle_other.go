// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package iptables

import "context"

func open(context.Context, Config) (system, error) { return nil, ErrNotSupported }
