// SPDX-License-Identifier: Apache-2.0

package vpcnet_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestReadmeExamples holds that the Go code in the README is code that runs: each
// block stands, but for indentation, in example_test.go.
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
		t.Errorf("README.md has %d blocks of Go, want one for each of the six packages", len(blocks))
	}
	for _, b := range blocks {
		if !strings.Contains(examples, unindented(b[1])) {
			t.Errorf("this code of README.md is not in example_test.go:\n%s", b[1])
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
