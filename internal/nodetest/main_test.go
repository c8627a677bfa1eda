// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import "testing"

func TestMain(m *testing.M) { Main(m, "ownagent") }
