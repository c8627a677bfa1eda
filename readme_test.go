// SPDX-License-Identifier: Apache-2.0

package vpcnet_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestReadmeExamples checks that the Go code in the README runs: each block is also in
// example_test.go, except for indentation.
func TestReadmeExamples(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	examples := unindented(string(source))
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	if len(blocks) < 6 {
		t.Errorf("README.md has %d blocks of Go code, want at least 6, one for each package", len(blocks))
	}
	for _, b := range blocks {
		if !strings.Contains(examples, unindented(b[1])) {
			t.Errorf("example_test.go does not have this code of README.md:\n%s", b[1])
		}
	}
}

func unindented(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = strings.TrimSpace(l)
	}
	return strings.Join(lines, "\n")
}
