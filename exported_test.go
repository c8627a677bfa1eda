// SPDX-License-Identifier: Apache-2.0

package vpcnet_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestExportedHaveUsers checks that each exported name has a user: another package of this
// module with its tests, a program, or an Example. A package that other modules cannot import
// also has its own external tests as users, and one that helps tests all of its tests. Names
// are functions, types, methods, constants, variables and the fields of structs. Some need no
// user of their own:
//
//   - a type that is part of a used declaration;
//   - a constant of a used type, or of a group of constants of which another one is used;
//   - a sentinel error, because the set of them is closed;
//   - a method that satisfies an interface of this module, of the standard library or of a
//     package that the method's package imports;
//   - a field of a JSON format, whose user is the program at the other end: a field with a json
//     tag, and a field of a value that a package or a program, but not a test, gives to package
//     encoding/json, also inside of other values.
func TestExportedHaveUsers(t *testing.T) {
	m := loadModule(t)
	for _, p := range m.packages {
		m.collectUses(p)
	}
	m.collectNested(t)
	m.spread()
	var unused []string
	for _, p := range m.packages {
		unused = append(unused, m.unused(p)...)
	}
	for _, name := range unused {
		t.Errorf("%s has no user in another package, a program or an Example", name)
	}
}

// importable reports whether other modules can import a package as a library.
func importable(path string) bool {
	dir := strings.TrimPrefix(path, module)
	return dir != "" && !strings.HasPrefix(dir, "/examples/") && !slices.Contains(strings.Split(dir, "/"), "internal")
}

// source is a package of this module.
type source struct {
	ImportPath, Dir                                    string
	Imports, TestImports, XTestImports                 []string
	GoFiles, CgoFiles, TestGoFiles, XTestGoFiles, Deps []string

	files []*ast.File // those without tests
	types *types.Package
	info  *types.Info
}

// checkedModule is the module with its types. Objects are identified by their positions,
// because a package and its test variant declare the same ones twice.
type checkedModule struct {
	fset     *token.FileSet
	packages []*source
	byPath   map[string]*source
	foreign  types.Importer
	// used has the objects with users. queue has the used objects with types still to walk.
	used map[token.Pos]bool
	// json has the types that are JSON formats.
	json  map[token.Pos]bool
	queue []types.Object
	// interfaces are those that this module declares or writes as literals.
	interfaces []*types.Interface
	// groups has the constants of each declaration with several ones.
	groups map[token.Pos][]token.Pos
}

// loadModule parses all packages of the module and checks the types of those that are no
// tests.
func loadModule(t *testing.T) *checkedModule {
	t.Helper()
	m := &checkedModule{fset: token.NewFileSet(), byPath: map[string]*source{}, used: map[token.Pos]bool{}, json: map[token.Pos]bool{}, groups: map[token.Pos][]token.Pos{}}
	goList(t, func(dec *json.Decoder) error {
		p := &source{}
		if err := dec.Decode(p); err != nil {
			return err
		}
		m.packages, m.byPath[p.ImportPath] = append(m.packages, p), p
		return nil
	}, "./...")
	exports := map[string]string{}
	goList(t, func(dec *json.Decoder) error {
		var p struct{ ImportPath, Export string }
		err := dec.Decode(&p)
		exports[p.ImportPath] = p.Export
		return err
	}, append([]string{"-deps", "-export"}, m.foreignImports()...)...)
	m.foreign = importer.ForCompiler(m.fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	for _, p := range m.packages {
		if _, err := m.Import(p.ImportPath); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// goList runs go list and calls decode for each package.
func goList(t *testing.T, decode func(*json.Decoder) error, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		if err := decode(dec); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// foreignImports lists the packages of other modules that packages and tests import.
func (m *checkedModule) foreignImports() []string {
	all := map[string]bool{}
	for _, p := range m.packages {
		for _, path := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if m.byPath[path] == nil && path != "C" && path != "unsafe" {
				all[path] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// Import implements types.Importer.
func (m *checkedModule) Import(path string) (*types.Package, error) {
	p := m.byPath[path]
	switch {
	case path == "unsafe":
		return types.Unsafe, nil
	case p == nil:
		return m.foreign.Import(path)
	case p.types != nil:
		return p.types, nil
	}
	var err error
	if p.files, err = m.parse(p, p.GoFiles); err != nil {
		return nil, err
	}
	cfg := types.Config{Importer: m}
	p.info = newInfo()
	p.types, err = cfg.Check(path, m.fset, p.files, p.info)
	return p.types, err
}

func newInfo() *types.Info {
	return &types.Info{Uses: map[*ast.Ident]types.Object{}, Types: map[ast.Expr]types.TypeAndValue{}, Selections: map[*ast.SelectorExpr]*types.Selection{}}
}

func (m *checkedModule) parse(p *source, names []string) (files []*ast.File, err error) {
	for _, name := range names {
		f, err := parser.ParseFile(m.fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// collectUses records the uses of exported objects in a package and in its tests.
func (m *checkedModule) collectUses(p *source) {
	for _, f := range p.files {
		m.collect(p, f, p.info, false)
		m.collectGroups(f)
	}
	inner, _ := m.parse(p, p.TestGoFiles)
	m.collectTests(p, slices.Concat(p.files, inner), inner, strings.HasSuffix(p.ImportPath, "test") && !importable(p.ImportPath))
	outer, _ := m.parse(p, p.XTestGoFiles)
	m.collectTests(p, outer, outer, !importable(p.ImportPath))
}

// collectGroups records which constants a file declares together.
func (m *checkedModule) collectGroups(f *ast.File) {
	for _, d := range f.Decls {
		group, ok := d.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		var all []token.Pos
		for _, s := range group.Specs {
			for _, name := range s.(*ast.ValueSpec).Names {
				all = append(all, name.Pos())
			}
		}
		for _, pos := range all {
			m.groups[pos] = all
		}
	}
}

// collectTests records the uses in test files. If own is set, those of the package itself count. Errors are ignored: they come from names of
// in-package test files, which are not part of the package that an external test sees here.
func (m *checkedModule) collectTests(p *source, all, tests []*ast.File, own bool) {
	if len(tests) == 0 {
		return
	}
	cfg := types.Config{Importer: m, Error: func(error) {}}
	info := newInfo()
	_, _ = cfg.Check(p.ImportPath, m.fset, all, info)
	for _, f := range tests {
		m.collect(p, f, info, own || examplesOnly(f))
	}
}

// examplesOnly reports whether a test file has Examples and no other tests.
func examplesOnly(f *ast.File) (found bool) {
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Recv != nil {
			continue
		}
		for _, prefix := range []string{"Test", "Benchmark", "Fuzz"} {
			if strings.HasPrefix(fn.Name.Name, prefix) {
				return false
			}
		}
		found = found || strings.HasPrefix(fn.Name.Name, "Example")
	}
	return found
}

// collect records the uses in a file. If own is set, those of the file's own package count
// too; otherwise they count in Examples only.
func (m *checkedModule) collect(p *source, f *ast.File, info *types.Info, own bool) {
	test := strings.HasSuffix(m.fset.File(f.Pos()).Name(), "_test.go")
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		own := own || test && ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Example")
		use := func(o types.Object) {
			if o == nil || o.Pkg() == nil || m.byPath[o.Pkg().Path()] == nil {
				return
			}
			if own || o.Pkg().Path() != p.ImportPath {
				m.use(o)
			}
		}
		ast.Inspect(d, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Ident:
				use(info.Uses[n])
			case *ast.CompositeLit:
				m.useLiteral(info.TypeOf(n), n, use)
			case *ast.CallExpr:
				useConversion(info, n, use)
				if !test {
					m.collectJSON(info, n)
				}
			case *ast.InterfaceType:
				if i, ok := info.TypeOf(n).(*types.Interface); ok && !test {
					m.interfaces = append(m.interfaces, i)
				}
			}
			return true
		})
	}
}

// useLiteral records the fields of a literal without keys.
func (m *checkedModule) useLiteral(typ types.Type, lit *ast.CompositeLit, use func(types.Object)) {
	if typ == nil || len(lit.Elts) == 0 {
		return
	}
	s, ok := types.Unalias(typ).Underlying().(*types.Struct)
	if _, keyed := lit.Elts[0].(*ast.KeyValueExpr); !ok || keyed {
		return
	}
	for f := range s.Fields() {
		use(f)
	}
}

// useConversion records the fields of both types of a conversion between structs.
func useConversion(info *types.Info, call *ast.CallExpr, use func(types.Object)) {
	if tv := info.Types[call.Fun]; !tv.IsType() || len(call.Args) != 1 {
		return
	}
	for _, typ := range []types.Type{info.TypeOf(call.Fun), info.TypeOf(call.Args[0])} {
		if typ == nil {
			continue
		}
		if s, ok := types.Unalias(typ).Underlying().(*types.Struct); ok {
			for f := range s.Fields() {
				use(f)
			}
		}
	}
}

// collectJSON records as used the fields of a value that is passed to package encoding/json.
func (m *checkedModule) collectJSON(info *types.Info, call *ast.CallExpr) {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return
	}
	if f := info.Uses[sel.Sel]; f == nil || f.Pkg() == nil || f.Pkg().Path() != "encoding/json" {
		return
	}
	for _, arg := range call.Args {
		if t := info.TypeOf(arg); t != nil {
			m.useJSON(t)
		}
	}
}

// useJSON records as used the fields of the structs in a type, which are a JSON format.
func (m *checkedModule) useJSON(t types.Type) {
	switch t := types.Unalias(t).(type) {
	case *types.Named:
		if o := t.Obj(); o.Pkg() != nil && m.byPath[o.Pkg().Path()] != nil && !m.json[o.Pos()] {
			m.json[o.Pos()] = true
			m.useJSON(t.Underlying())
		}
	case *types.Pointer:
		m.useJSON(t.Elem())
	case *types.Slice:
		m.useJSON(t.Elem())
	case *types.Array:
		m.useJSON(t.Elem())
	case *types.Map:
		m.useJSON(t.Elem())
	case *types.Struct:
		for i := range t.NumFields() {
			f := t.Field(i)
			if f.Exported() && reflect.StructTag(t.Tag(i)).Get("json") != "-" {
				m.use(f)
				m.useJSON(f.Type())
			}
		}
	}
}

// collectNested records the uses in programs that are modules of their own. Their types are
// not checked: a selector and the key of a literal use every name like it of the packages that
// their file imports.
func (m *checkedModule) collectNested(t *testing.T) {
	nested, err := filepath.Glob("examples/*/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, mod := range nested {
		for _, f := range sources(t, filepath.Dir(mod)) {
			var imported []*types.Package
			for _, spec := range f.Imports {
				if p := m.byPath[strings.Trim(spec.Path.Value, `"`)]; p != nil {
					imported = append(imported, p.types)
				}
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.SelectorExpr:
					m.useName(imported, n.Sel.Name)
				case *ast.KeyValueExpr:
					if key, ok := n.Key.(*ast.Ident); ok {
						m.useName(imported, key.Name)
					}
				}
				return true
			})
		}
	}
}

// useName records as used what has a name in one of the packages, also as a method.
func (m *checkedModule) useName(in []*types.Package, name string) {
	for _, p := range in {
		if o := p.Scope().Lookup(name); o != nil {
			m.use(o)
		}
		for _, of := range p.Scope().Names() {
			tn, ok := p.Scope().Lookup(of).(*types.TypeName)
			if !ok {
				continue
			}
			if o, _, _ := types.LookupFieldOrMethod(tn.Type(), true, p, name); o != nil && o.Pkg() != nil && m.byPath[o.Pkg().Path()] != nil {
				m.use(o)
			}
		}
	}
}

// use records that an object has a user.
func (m *checkedModule) use(o types.Object) {
	if !m.used[o.Pos()] {
		m.used[o.Pos()] = true
		m.queue = append(m.queue, o)
	}
}

// spread records as used the types in the declarations of used objects.
func (m *checkedModule) spread() {
	for len(m.queue) > 0 {
		o := m.queue[0]
		m.queue = m.queue[1:]
		if tn, ok := o.(*types.TypeName); ok {
			if n, ok := types.Unalias(tn.Type()).(*types.Named); ok {
				m.walk(n.Underlying())
			}
			continue
		}
		m.walk(o.Type())
	}
}

// walk records the named types in a type.
func (m *checkedModule) walk(t types.Type) {
	switch t := t.(type) {
	case *types.Alias:
		m.useType(t.Obj())
		m.walk(types.Unalias(t))
	case *types.Named:
		m.useType(t.Obj())
		for arg := range t.TypeArgs().Types() {
			m.walk(arg)
		}
	case *types.Pointer:
		m.walk(t.Elem())
	case *types.Slice:
		m.walk(t.Elem())
	case *types.Array:
		m.walk(t.Elem())
	case *types.Chan:
		m.walk(t.Elem())
	case *types.Map:
		m.walk(t.Key())
		m.walk(t.Elem())
	case *types.Signature:
		for v := range t.Params().Variables() {
			m.walk(v.Type())
		}
		for v := range t.Results().Variables() {
			m.walk(v.Type())
		}
	case *types.Interface:
		for f := range t.ExplicitMethods() {
			m.walk(f.Type())
		}
	case *types.Struct:
		for f := range t.Fields() {
			if f.Exported() {
				m.walk(f.Type())
			}
		}
	}
}

func (m *checkedModule) useType(o *types.TypeName) {
	if o.Pkg() != nil && m.byPath[o.Pkg().Path()] != nil {
		m.use(o)
	}
}

// unused lists the exported names of a package without users.
func (m *checkedModule) unused(p *source) (out []string) {
	prefix := strings.TrimPrefix(p.ImportPath, module+"/") + "."
	scope := p.types.Scope()
	for _, name := range scope.Names() {
		o := scope.Lookup(name)
		if !o.Exported() {
			continue
		}
		if !m.used[o.Pos()] && !m.closedSet(o) {
			out = append(out, prefix+name)
			continue
		}
		if tn, ok := o.(*types.TypeName); ok {
			for _, member := range m.unusedMembers(p, tn) {
				out = append(out, prefix+name+"."+member)
			}
		}
	}
	return out
}

// closedSet reports whether an object is a constant of a used type or group, or a sentinel
// error.
func (m *checkedModule) closedSet(o types.Object) bool {
	n, ok := types.Unalias(o.Type()).(*types.Named)
	switch o.(type) {
	case *types.Const:
		return ok && m.used[n.Obj().Pos()] || slices.ContainsFunc(m.groups[o.Pos()], func(pos token.Pos) bool { return m.used[pos] })
	case *types.Var:
		return ok && n.Obj().Name() == "error" && strings.HasPrefix(o.Name(), "Err")
	}
	return false
}

// unusedMembers lists the exported fields and methods of a type without users.
func (m *checkedModule) unusedMembers(p *source, tn *types.TypeName) (out []string) {
	n, ok := tn.Type().(*types.Named)
	if !ok {
		return nil
	}
	if s, ok := n.Underlying().(*types.Struct); ok {
		for i := range s.NumFields() {
			f := s.Field(i)
			tag, wire := reflect.StructTag(s.Tag(i)).Lookup("json")
			wire = wire && tag != "-"
			if f.Exported() && !f.Embedded() && !wire && !m.used[f.Pos()] {
				out = append(out, f.Name())
			}
		}
	}
	for f := range n.Methods() {
		if f.Exported() && !m.used[f.Pos()] && !m.satisfies(p, n, f.Name()) {
			out = append(out, f.Name())
		}
	}
	return out
}

// satisfies reports whether a method of a type is part of an interface that the type
// implements.
func (m *checkedModule) satisfies(p *source, n *types.Named, method string) bool {
	if slices.Contains([]string{"Is", "As", "Unwrap"}, method) {
		return true // package errors asks for them with interface literals
	}
	candidates := m.interfaces
	for _, imp := range append(p.types.Imports(), m.standard()...) {
		for _, name := range imp.Scope().Names() {
			if tn, ok := imp.Scope().Lookup(name).(*types.TypeName); ok && tn.Exported() {
				if i, ok := tn.Type().Underlying().(*types.Interface); ok {
					candidates = append(candidates, i)
				}
			}
		}
	}
	candidates = append(candidates, types.Universe.Lookup("error").Type().Underlying().(*types.Interface))
	return slices.ContainsFunc(candidates, func(i *types.Interface) bool {
		has := false
		for f := range i.Methods() {
			has = has || f.Name() == method
		}
		return has && (types.Implements(n, i) || types.Implements(types.NewPointer(n), i))
	})
}

// standard returns packages with interfaces that types satisfy without importing them.
func (m *checkedModule) standard() (out []*types.Package) {
	for _, path := range []string{"encoding", "encoding/json", "flag", "fmt", "io", "log/slog", "net", "sort"} {
		if p, err := m.foreign.Import(path); err == nil {
			out = append(out, p)
		}
	}
	return out
}
