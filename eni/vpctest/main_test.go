// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vpctest_test

import (
	"testing"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// TestMain runs the tests in namespaces of their own.
func TestMain(m *testing.M) { vpctest.Main(m) }
