// SPDX-License-Identifier: Apache-2.0

package isolate_test

import (
	"net"
	"os"
	"testing"

	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

func TestMain(m *testing.M) { isolatetest.Test(m) }

func TestNamespacesAreNew(t *testing.T) {
	isolatetest.Require(t)
	if pid := os.Getpid(); pid != 1 {
		t.Errorf("pid = %d, want 1: the PID namespace is not new", pid)
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	if len(links) != 1 || links[0].Flags&net.FlagUp == 0 {
		t.Errorf("links = %v, want only lo, up", links)
	}
	if uid := os.Getuid(); uid != 0 {
		t.Errorf("uid = %d, want 0 in the namespace", uid)
	}
	if self, err := os.Readlink("/proc/self"); err != nil || self != "1" {
		t.Errorf("/proc/self = %q, want 1: /proc shows another PID namespace (error: %v)", self, err)
	}
	if entries, err := os.ReadDir("/run"); err != nil || len(entries) != 1 {
		t.Errorf("/run has %v, want only netns (error: %v)", entries, err)
	}
}
