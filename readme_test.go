// SPDX-License-Identifier: Apache-2.0

package vpcnet_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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
	blocks := goBlock.FindAllStringSubmatch(string(readme), -1)
	if len(blocks) < 6 {
		t.Errorf("README.md has %d blocks of Go code, want at least 6, one for each package", len(blocks))
	}
	for _, b := range blocks {
		if !strings.Contains(examples, unindented(b[1])) {
			t.Errorf("example_test.go does not have this code of README.md:\n%s", b[1])
		}
	}
}

// TestDocExamples checks that the Go code in docs is part of a program under examples.
func TestDocExamples(t *testing.T) {
	programs, err := filepath.Glob("examples/*/main.go")
	nested, nestedErr := filepath.Glob("examples/*/*/main.go")
	docs, docsErr := filepath.Glob("docs/*.md")
	if err := errors.Join(err, nestedErr, docsErr); err != nil {
		t.Fatal(err)
	}
	var sources []string
	for _, p := range append(programs, nested...) {
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, unindented(string(text)))
	}
	blocks := 0
	for _, d := range docs {
		text, err := os.ReadFile(d)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range goBlock.FindAllStringSubmatch(string(text), -1) {
			blocks++
			if !slices.ContainsFunc(sources, func(s string) bool { return strings.Contains(s, unindented(b[1])) }) {
				t.Errorf("no program under examples has this code of %s:\n%s", d, b[1])
			}
		}
	}
	if blocks < 4 {
		t.Errorf("docs have %d blocks of Go code, want at least 4", blocks)
	}
}

// goBlock matches a block of Go code in Markdown.
var goBlock = regexp.MustCompile("(?s)```go\n(.*?)```")

func unindented(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = strings.TrimSpace(l)
	}
	return strings.Join(lines, "\n")
}
