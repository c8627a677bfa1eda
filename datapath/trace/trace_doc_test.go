// SPDX-License-Identifier: Apache-2.0

package trace_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDocs checks that docs/trace.md lists exactly the faults and notes of this package,
// in the order of fault.go, and that a test expects each of them.
func TestDocs(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "fault.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); ok && (kind.Name == "FaultName" || kind.Name == "NoteName") {
			text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, text)
		}
		return true
	})
	b, err := os.ReadFile("../../docs/trace.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` ").FindAllStringSubmatch(string(b), -1) {
		listed = append(listed, row[1])
	}
	if diff := cmp.Diff(names, listed); diff != "" {
		t.Errorf("docs/trace.md (-code +docs):\n%s", diff)
	}

	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var tests strings.Builder
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		tests.Write(b)
	}
	words := strings.FieldsFunc(tests.String(), func(r rune) bool { return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-", r) })
	for _, n := range names {
		if !slices.Contains(words, n) {
			t.Errorf("no test expects %s", n)
		}
	}
}
