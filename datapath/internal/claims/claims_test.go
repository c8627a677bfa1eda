// SPDX-License-Identifier: Apache-2.0

package claims_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// mainTable is the priority of the kernel's rule for table main.
const mainTable = 32766

// priorities lists all priorities of this package in the order in which the kernel
// evaluates rules.
var priorities = []struct {
	name     string
	priority int
	// owned says that a rule of the node with that priority belongs to datapath.
	owned bool
}{
	{"PriorityInSandbox", claims.PriorityInSandbox, false},
	{"PriorityBranch", claims.PriorityBranch, true},
	{"PriorityForged", claims.PriorityForged, true},
	{"PriorityLocal", claims.PriorityLocal, false},
	{"PriorityToPod", claims.PriorityToPod, true},
	{"PriorityPrimaryMark", claims.PriorityPrimaryMark, true},
	{"PriorityHeld", claims.PriorityHeld, true},
	{"PriorityService", claims.PriorityService, true},
	{"PriorityFromPod", claims.PriorityFromPod, true},
	{"PriorityFromENI", claims.PriorityFromENI, true},
}

// TestPriorities checks that priorities are distinct and in order, that OwnedRule
// knows them, and that the table above contains all of them.
func TestPriorities(t *testing.T) {
	last := 0
	names := map[string]bool{}
	for _, p := range priorities {
		names[p.name] = true
		if p.priority <= last || p.priority >= mainTable {
			t.Errorf("%s is %d, want more than %d and less than %d", p.name, p.priority, last, mainTable)
		}
		last = p.priority
		rule := netstate.Rule{Priority: p.priority, Table: 2, Protocol: claims.RuleProtocol}
		if got := claims.OwnedRule(rule); got != p.owned {
			t.Errorf("OwnedRule with %s = %t, want %t", p.name, got, p.owned)
		}
		rule.Protocol = 4 // static
		if claims.OwnedRule(rule) {
			t.Errorf("OwnedRule with %s and protocol static = true, want false", p.name)
		}
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(names)), constants(t, "Priority")); diff != "" {
		t.Errorf("constants (-table +claims.go):\n%s", diff)
	}
}

// TestDoc checks that section Ownership of datapath's package documentation lists the
// numbers.
func TestDoc(t *testing.T) {
	b, err := os.ReadFile("../../doc.go")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(strings.ReplaceAll(string(b), "\n//", " ")), " ")
	_, section, ok := strings.Cut(text, "# Ownership")
	if !ok {
		t.Fatal("doc.go has no section Ownership")
	}
	list := regexp.MustCompile(`a priority of ([0-9, or]+), and in sandboxes ([0-9]+);`).FindStringSubmatch(section)
	if list == nil {
		t.Fatalf("no list of priorities in %q", section)
	}
	var want []string
	for _, p := range priorities {
		if p.owned {
			want = append(want, strconv.Itoa(p.priority))
		}
	}
	if diff := cmp.Diff(want, regexp.MustCompile("[0-9]+").FindAllString(list[1], -1)); diff != "" {
		t.Errorf("priorities (-claims +doc.go):\n%s", diff)
	}
	if want := strconv.Itoa(claims.PriorityInSandbox); list[2] != want {
		t.Errorf("priority in sandboxes: doc.go says %s, want %s", list[2], want)
	}
	numbers := regexp.MustCompile("[0-9]+").FindAllString(section, -1)
	for name, n := range map[string]int{
		"PriorityLocal": claims.PriorityLocal, "RouteProtocol": claims.RouteProtocol, "TableHeld": claims.TableHeld,
		"LinkGroupRetired": claims.LinkGroupRetired, "LinkGroupWiring": claims.LinkGroupWiring,
	} {
		if !slices.Contains(numbers, strconv.Itoa(n)) {
			t.Errorf("%s is %d, which the section does not contain:\n%s", name, n, section)
		}
	}
}

// TestLinkGroups checks the groups that the section Ownership describes as a range.
func TestLinkGroups(t *testing.T) {
	for _, c := range []struct {
		name             string
		group            int
		ending, changing bool
	}{
		{"default group", 0, false, false},
		{"LinkGroupRetired", claims.LinkGroupRetired, true, true},
		{"LinkGroupEnding", claims.LinkGroupEnding, true, true},
		{"LinkGroupWiring", claims.LinkGroupWiring, false, true},
		{"next group", claims.LinkGroupWiring + 1, false, false},
	} {
		if got := claims.Ending(c.group); got != c.ending {
			t.Errorf("Ending(%s) = %t, want %t", c.name, got, c.ending)
		}
		if got := claims.Changing(c.group); got != c.changing {
			t.Errorf("Changing(%s) = %t, want %t", c.name, got, c.changing)
		}
	}
}

// constants returns the names of the package's constants that begin with prefix, sorted.
func constants(t *testing.T, prefix string) (names []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "claims.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range file.Decls {
		decl, ok := d.(*ast.GenDecl)
		if !ok || decl.Tok != token.CONST {
			continue
		}
		for _, s := range decl.Specs {
			for _, n := range s.(*ast.ValueSpec).Names {
				if strings.HasPrefix(n.Name, prefix) {
					names = append(names, n.Name)
				}
			}
		}
	}
	slices.Sort(names)
	return names
}
