// SPDX-License-Identifier: Apache-2.0

// Package isolatetest runs the tests of a package in new namespaces, with package
// isolate. It is a package of its own so that programs that use package isolate do
// not link package testing.
package isolatetest

import (
	"os"
	"testing"

	"github.com/vpcnet/vpcnet/internal/isolate"
)

// Test runs the tests of m in new namespaces and exits. If the system does not
// permit new namespaces it runs the tests in the current ones, and [Require] skips
// the tests that need new ones.
func Test(m *testing.M) { os.Exit(isolate.Main(m.Run)) }

// Require skips t and logs the reason unless [Test] runs the tests in new
// namespaces.
func Require(t testing.TB) {
	t.Helper()
	if isolate.Inside() {
		return
	}
	err := isolate.Available()
	if err == nil {
		t.Fatal("isolatetest: TestMain of this package must call isolatetest.Test")
	}
	t.Skipf("needs new namespaces: %v", err)
}
