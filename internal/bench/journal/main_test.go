// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestMain lets the tests' program be what reads a damaged journal.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "-read") {
		if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
			os.Exit(statusRefused)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestRun holds that each contender has its row, and that ours reads no damaged
// journal as another list, and neither crashes nor hangs.
func TestRun(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), []string{"-appends", "20", "-pods", "20", "-files", "28", "-dir", t.TempDir()}, &out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2+len(contenders()) {
		t.Fatalf("report\n%s", out.String())
	}
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "| waljournal ") || !strings.HasSuffix(last, "| 0 | 0 | 0 |") {
		t.Errorf("ours: %s", last)
	}
}
