// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestMain makes the test binary the program that reads a damaged journal.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "-read") {
		if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
			os.Exit(statusRefused)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestRun checks that the report has a row for each contender, and that waljournal
// reads no damaged journal as different events, and neither crashes nor hangs.
func TestRun(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), []string{"-appends", "20", "-pods", "20", "-files", "28", "-dir", t.TempDir()}, &out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2+len(contenders()) {
		t.Fatalf("report has %d lines, want %d\n%s", len(lines), 2+len(contenders()), out.String())
	}
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "| waljournal ") || !strings.HasSuffix(last, "| 0 | 0 | 0 |") {
		t.Errorf("last row is %q, want waljournal with 0 different events, crashes and hangs", last)
	}
}
