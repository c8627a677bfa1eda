// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package server_test

import "errors"

func mkfifo(string) error { return errors.ErrUnsupported }
