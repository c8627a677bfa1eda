// SPDX-License-Identifier: Apache-2.0

package vpcnet_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "github.com/vpcnet/vpcnet"

// listed is the part of the output of `go list -json` that the tests need.
type listed struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
}

// rules lists, for each library directory, the packages of this module that its
// packages may import in addition to those in the directory, and the foreign modules
// that they must not depend on.
var rules = map[string]struct {
	imports []string
	never   []string
}{
	"warmpool":  {never: []string{"github.com/", "go.etcd.io/", "golang.org/", "gonum.org/"}},
	"eni":       {imports: journals, never: []string{"github.com/vishvananda/", "github.com/google/nftables", "github.com/containernetworking/"}},
	"datapath":  {imports: []string{"internal/nft", "internal/patience", "internal/rtnl"}, never: []string{"github.com/aws/", "github.com/containernetworking/"}},
	"snat":      {imports: []string{"internal/nft", "internal/patience"}, never: []string{"github.com/aws/", "github.com/containernetworking/"}},
	"ipam":      {imports: journals, never: []string{"github.com/aws/", "github.com/vishvananda/", "github.com/google/nftables"}},
	"cniplugin": {imports: []string{"datapath", "internal/logfile"}, never: []string{"github.com/aws/"}},
}

// journals lists the packages that the journals of ipam and eni share. Only the
// journal packages import them, see TestJournalsStayApart.
var journals = []string{"internal/wal", "internal/agentdb"}

// egressImports lists the packages that cniplugin/egress may import in addition to its
// rule. Package cniplugin does not import it.
var egressImports = []string{"snat"}

// agentImports lists the packages that ipam/agent may import in addition to its rule.
var agentImports = []string{"ipam", "warmpool"}

// datapathTestImports lists the packages that datapath/internal/datapathtest, which only
// tests import, may import in addition to its rule.
var datapathTestImports = []string{"internal/fabric", "internal/isolate/isolatetest", "snat"}

// vpctestImports lists the packages that eni/vpctest, which only tests and programs import,
// may import in addition to its rule. It may depend on the libraries of the data plane, but
// not on the AWS SDK, see TestWithoutSDK.
var vpctestImports = []string{"internal/fabric", "internal/fabric/ec2fabric", "internal/fabric/vpcrules", "internal/isolate"}

// hallImports lists the packages that ipam/ipamd, which only programs import, may import
// in addition to its rule. It may depend on all that they depend on.
var hallImports = []string{"cniplugin", "datapath", "eni", "ipam", "snat", "warmpool"}

func TestImportRules(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range list(t, "./...") {
		dir := strings.TrimPrefix(p.ImportPath, module+"/")
		top, _, _ := strings.Cut(dir, "/")
		rule, library := rules[top]
		if !library {
			continue
		}
		seen[top] = true
		allowed := append([]string{top}, rule.imports...)
		if dir == "ipam/agent" {
			allowed = append(allowed, agentImports...)
		}
		if dir == "cniplugin/egress" {
			allowed = append(allowed, egressImports...)
		}
		if dir == "datapath/internal/datapathtest" {
			allowed = append(allowed, datapathTestImports...)
		}
		never := rule.never
		hall := dir == "ipam/ipamd" || strings.HasPrefix(dir, "ipam/ipamd/")
		if hall {
			allowed, never = append(allowed, hallImports...), nil
		}
		if dir == "eni/vpctest" {
			allowed, never = append(allowed, vpctestImports...), nil
		}
		for _, imp := range p.Imports {
			own, ours := strings.CutPrefix(imp, module+"/")
			ownTop, _, _ := strings.Cut(own, "/")
			if ours && !slices.Contains(allowed, ownTop) && !slices.Contains(allowed, own) {
				t.Errorf("%s imports %s; it may import only %v", dir, own, allowed)
			}
			if !hall && strings.HasPrefix(own, "ipam/ipamd") {
				t.Errorf("%s imports %s, want only programs to import it", dir, own)
			}
			if strings.HasPrefix(imp, "k8s.io/") || strings.HasPrefix(imp, "sigs.k8s.io/") {
				t.Errorf("%s imports %s; library packages must not import Kubernetes packages", dir, imp)
			}
		}
		for _, dep := range p.Deps {
			for _, never := range never {
				if strings.HasPrefix(dep, never) && !strings.HasPrefix(dep, module) {
					t.Errorf("%s depends on %s", dir, dep)
				}
			}
		}
	}
	for top := range rules {
		if !seen[top] {
			t.Errorf("no package below %s, want at least one for its rule", top)
		}
	}
}

// TestKubernetesStaysApart checks that only the modules for Kubernetes import its packages, and
// that the module of the libraries does not require them.
func TestKubernetesStaysApart(t *testing.T) {
	kubernetes := func(path string) bool {
		return strings.HasPrefix(path, "k8s.io/") || strings.HasPrefix(path, "sigs.k8s.io/")
	}
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(path string, e os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path == filepath.Join("internal", "e2e"), path == filepath.Join("examples", "k8s"):
			return filepath.SkipDir
		case e.IsDir() || !strings.HasSuffix(path, ".go"):
			return nil
		}
		file, err := parser.ParseFile(fset, path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, imp := range file.Imports {
			if of, err := strconv.Unquote(imp.Path.Value); err == nil && kubernetes(of) {
				t.Errorf("%s imports %s; want only internal/e2e and examples/k8s to import Kubernetes packages", path, of)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range strings.Fields(string(mod)) {
		if kubernetes(word) {
			t.Errorf("go.mod requires %s", word)
		}
	}
}

// TestJournalsStayApart checks that ipam and eni do not depend on the journals of this
// module, so that programs can use other journals.
func TestJournalsStayApart(t *testing.T) {
	for _, p := range list(t, "./ipam", "./ipam/agent", "./eni") {
		for _, dep := range p.Deps {
			if strings.HasPrefix(dep, "go.etcd.io/") || strings.HasPrefix(dep, module+"/internal/") {
				t.Errorf("%s depends on %s", p.ImportPath, dep)
			}
		}
	}
}

// TestStandardLibraryOnly checks that the packages which tests and calculators of other
// projects use compile the standard library and their own packages only, so that a
// program which uses them builds the AWS SDK only if it imports the SDK itself.
func TestStandardLibraryOnly(t *testing.T) {
	allowed := []string{module + "/eni/instancetype", module + "/eni/enitest"}
	for _, of := range []struct {
		pkg     string
		allowed []string
	}{
		{"eni/instancetype", allowed[:1]},
		{"eni/enitest", allowed},
		{"examples/ec2sim", append(allowed, module+"/examples/ec2sim")},
		{"internal/fabric/vpcrules", []string{module + "/internal/fabric/vpcrules"}},
	} {
		for _, p := range list(t, "-deps", "./"+of.pkg) {
			if !p.Standard && !slices.Contains(of.allowed, p.ImportPath) {
				t.Errorf("%s depends on %s, want only the standard library and %v", of.pkg, p.ImportPath, of.allowed)
			}
		}
	}
}

// TestWithoutSDK checks that programs which import the packages for tests of other projects
// build no package of the AWS SDK unless they import the SDK themselves.
func TestWithoutSDK(t *testing.T) {
	for pkg, want := range map[string]bool{"eni/enitest": false, "eni/instancetype": false, "eni/vpctest": false, "examples/ec2sim": false, "eni": true} {
		var sdk []string
		for _, p := range list(t, "-deps", "./"+pkg) {
			if strings.HasPrefix(p.ImportPath, "github.com/aws/") {
				sdk = append(sdk, p.ImportPath)
			}
		}
		if (len(sdk) > 0) != want {
			t.Errorf("%s depends on %d packages of the AWS SDK, want some: %t; %v", pkg, len(sdk), want, sdk)
		}
	}
}

func list(t *testing.T, patterns ...string) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Standard,Imports,Deps"}, patterns...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// TestNoInit checks that no library package has an init function or reads the
// environment.
func TestNoInit(t *testing.T) {
	for top := range rules {
		for path, file := range sources(t, top) {
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncDecl:
					if n.Recv == nil && n.Name.Name == "init" {
						t.Errorf("%s has an init function", path)
					}
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok && x.Name == "os" && slices.Contains([]string{"Getenv", "LookupEnv", "Environ"}, n.Sel.Name) {
						t.Errorf("%s reads the environment", path)
					}
				}
				return true
			})
		}
	}
}

// TestSDKTypesStayInside checks that only one exported declaration of eni, a
// constructor, names an AWS SDK type.
func TestSDKTypesStayInside(t *testing.T) {
	var exposed []string
	for path, file := range sources(t, "eni") {
		if filepath.Dir(path) != "eni" {
			continue
		}
		sdk := map[string]bool{}
		for _, imp := range file.Imports {
			p, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(p, "github.com/aws/") {
				continue
			}
			name := p[strings.LastIndex(p, "/")+1:]
			if imp.Name != nil {
				name = imp.Name.Name
			}
			sdk[name] = true
		}
		for _, d := range file.Decls {
			exposed = append(exposed, exposes(d, sdk)...)
		}
	}
	if diff := cmp.Diff([]string{"NewClient"}, exposed); diff != "" {
		t.Errorf("exported declarations of eni that name AWS SDK types (-want +got):\n%s", diff)
	}
}

// exposes returns the names of the exported functions, methods, types and values in d
// that name a package in sdk outside of unexported fields.
func exposes(d ast.Decl, sdk map[string]bool) []string {
	names := func(n ast.Node) (found bool) {
		if n == nil {
			return false
		}
		ast.Inspect(n, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Field:
				return !hidden(d, n)
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && sdk[x.Name] {
					found = true
				}
			}
			return true
		})
		return found
	}
	var out []string
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && names(d.Type) {
			out = append(out, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && names(s.Type) {
					out = append(out, s.Name.Name)
				}
			case *ast.ValueSpec:
				if s.Names[0].IsExported() && s.Type != nil && names(s.Type) {
					out = append(out, s.Names[0].Name)
				}
			}
		}
	}
	return out
}

// hidden reports whether f is an unexported field of a struct declared in d. Such
// fields may have any type.
func hidden(d ast.Decl, f *ast.Field) bool {
	if len(f.Names) == 0 || slices.ContainsFunc(f.Names, func(i *ast.Ident) bool { return i.IsExported() }) {
		return false
	}
	inStruct := false
	ast.Inspect(d, func(n ast.Node) bool {
		if s, ok := n.(*ast.StructType); ok && slices.Contains(s.Fields.List, f) {
			inStruct = true
		}
		return !inStruct
	})
	return inStruct
}

// sources parses the Go files below dir, except tests.
func sources(t *testing.T, dir string) map[string]*ast.File {
	t.Helper()
	files := map[string]*ast.File{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		files[path], err = parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestTopLevel checks the list of top-level directories, which is fixed.
func TestTopLevel(t *testing.T) {
	want := []string{"cniplugin", "datapath", "docs", "eni", "examples", "internal", "ipam", "snat", "warmpool"}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			got = append(got, e.Name())
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("top level (-want +got):\n%s", diff)
	}
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mod), "replace") {
		t.Error("go.mod has a replace line, so `go install module/...@latest` fails")
	}
}
