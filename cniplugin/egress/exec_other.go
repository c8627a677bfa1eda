// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package egress

import "syscall"

func endsWithParent() *syscall.SysProcAttr { return nil }
