// SPDX-License-Identifier: Apache-2.0

package uml_test

import (
	"os/exec"
	"path/filepath"
	"testing"
)

func TestDatapath(t *testing.T) {
	if _, err := exec.LookPath("linux.uml"); err != nil {
		t.Skipf("needs User-Mode Linux: %v (Debian package user-mode-linux)", err)
	}
	// Without the race detector, whose memory does not fit in there.
	exe := filepath.Join(t.TempDir(), "datapath.test")
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", exe, "../../datapath").CombinedOutput(); err != nil {
		t.Fatalf("go test -c: %v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), "../../.ci/uml", "env", "VPCNET_UML=1", exe, "-test.v", "-test.timeout=90s", "-test.run=^TestOtherKinds$")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("in User-Mode Linux: %v\n%s", err, out)
	}
	t.Logf("in User-Mode Linux:\n%s", out)
}
