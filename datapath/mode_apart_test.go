// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// TestModeFields wants every field of Mode to be among those that fields lists, and every
// mode to have a word of its own for aliases.
func TestModeFields(t *testing.T) {
	var m Mode
	if got, want := len(m.fields()), reflect.TypeFor[Mode]().NumField(); got != want {
		t.Errorf("fields has %d of the %d fields of Mode", got, want)
	}
	seen := map[string]bool{vethMode{}.kind(): true}
	for _, f := range m.fields() {
		if kind := f.mode().kind(); seen[kind] {
			t.Errorf("two modes of kind %q", kind)
		} else {
			seen[kind] = true
		}
	}
}

// TestModesApart parses the package and checks that only the files of modes distinguish
// modes: by fields of Mode, by types of modes, or by their words in aliases. A new mode
// then needs one entry in mode.go and files of its own.
func TestModesApart(t *testing.T) {
	// The names of fields of Mode, and of all types and words that stand for one mode.
	fields, words := map[string]bool{}, map[string]bool{"vethMode": true}
	for f := range reflect.TypeFor[Mode]().Fields() {
		fields[f.Name] = true
		words[f.Type.Elem().Name()] = true
	}
	var m Mode
	for _, f := range m.fields() {
		words[strconv.Quote(f.mode().kind())] = true
		words[reflect.TypeOf(f.mode()).Name()] = true
	}
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, name := range names {
		if strings.HasPrefix(name, "mode") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		checked++
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range modeTests(t, name, src, fields, words) {
			t.Errorf("%s: only mode*.go may tell modes apart", found)
		}
	}
	if checked < 10 {
		t.Errorf("only %d files are checked", checked)
	}
}

// TestModesApartFinds checks that modeTests finds each way to distinguish modes.
func TestModesApartFinds(t *testing.T) {
	fields, words := map[string]bool{"Bridge": true}, map[string]bool{"Bridge": true, "bridgeMode": true, `"bridge"`: true}
	for _, body := range []string{
		`return p.Mode.Bridge != nil`, `m := p.Mode; return m.Bridge != nil`, `return p.Mode == Mode{}`, `return (Mode{Bridge: b}) != p.Mode`,
		`switch a.mode { case "bridge": return true }`, `return a.mode == "bridge"`, `_, ok := p.mode().(bridgeMode); return ok`,
		`switch p.mode().(type) { case bridgeMode: return true }`, `var b *Bridge; return b != nil`,
	} {
		src := "package datapath\nfunc f(p Pod, a alias, b any) bool {\n" + body + "\n}\n"
		if len(modeTests(t, "x.go", []byte(src), fields, words)) == 0 {
			t.Errorf("not found: %s", body)
		}
	}
	src := "package datapath\nfunc f(p Pod) string { p.Mode = q.Mode; return p.mode().kind() }\n"
	if found := modeTests(t, "x.go", []byte(src), fields, words); len(found) > 0 {
		t.Errorf("found in code that tells no modes apart: %v", found)
	}
}

// modeTests returns the places of a file that name a single mode, or compare a Mode.
func modeTests(t *testing.T, name string, src []byte, fields, words map[string]bool) (found []string) {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, src, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	add := func(n ast.Node) { found = append(found, fset.Position(n.Pos()).String()) }
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if fields[n.Sel.Name] {
				add(n)
			}
		case *ast.Ident:
			if words[n.Name] {
				add(n)
			}
		case *ast.BasicLit:
			if n.Kind == token.STRING && words[n.Value] {
				add(n)
			}
		case *ast.BinaryExpr:
			if isMode(n.X) || isMode(n.Y) {
				add(n)
			}
		}
		return true
	})
	return found
}

// isMode reports whether e is a literal of a Mode or a field of that name.
func isMode(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.ParenExpr:
		return isMode(e.X)
	case *ast.CompositeLit:
		id, ok := e.Type.(*ast.Ident)
		return ok && id.Name == "Mode"
	case *ast.SelectorExpr:
		return e.Sel.Name == "Mode"
	}
	return false
}
