// SPDX-License-Identifier: Apache-2.0

package warmpool_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/warmpool"
)

// incomplete has policies with a nil inside, by the field that CheckPolicy must name.
var incomplete = map[string]warmpool.Policy{
	"policy":                     nil,
	"Bounds.Policy":              warmpool.Bounds{Floor: 3, Ceiling: 7},
	"HoldDown.Policy":            warmpool.HoldDown{},
	"Predictive.Policy":          warmpool.Predictive{},
	"ServeWaiting.Policy":        warmpool.ServeWaiting{},
	"Exhaustion.Policy":          warmpool.Exhaustion{Below: 5},
	"Shadow.Policy":              warmpool.Shadow{Other: warmpool.Band{}},
	"Shadow.Other":               warmpool.Shadow{Policy: warmpool.Band{}},
	"Schedule.Policy":            warmpool.Schedule{},
	"Schedule.Windows[1].Policy": warmpool.Schedule{Policy: warmpool.Band{}, Windows: []warmpool.Window{{Policy: warmpool.Band{}}, {To: time.Hour}}},
}

// TestIncompletePolicies checks that a policy with a nil inside is named by
// CheckPolicy, and panics nowhere.
func TestIncompletePolicies(t *testing.T) {
	snapshots := map[string]warmpool.Snapshot{
		"zero":   {},
		"demand": {Limits: warmpool.Limits{MaxENIs: 3, SlotsPerENI: 9, MaxPods: 20}, Demand: warmpool.Demand{Waiting: 5}, Now: time.Unix(60, 0)},
		"full":   {Limits: warmpool.Limits{MaxENIs: 1, SlotsPerENI: 1}, Subnet: warmpool.Subnet{Exhausted: true}, Now: time.Unix(3600, 0)},
	}
	for field, p := range incomplete {
		if err := warmpool.CheckPolicy(p); err == nil || !strings.Contains(err.Error(), field+" is nil") {
			t.Errorf("CheckPolicy = %v, want %s in the error", err, field)
		}
		for _, outer := range []warmpool.Policy{p, warmpool.HoldDown{Policy: p}, warmpool.AgentPolicy(p)} {
			if warmpool.CheckPolicy(outer) == nil {
				t.Errorf("%s: CheckPolicy accepts it in a %T", field, outer)
			}
			for name, s := range snapshots {
				t.Run(fmt.Sprintf("%s/%T/%s", field, outer, name), func(*testing.T) {
					warmpool.Plan(outer, s)
					if outer != nil {
						outer.Decide(s)
					}
				})
			}
		}
	}
	if err := warmpool.CheckPolicy(warmpool.AgentPolicy(warmpool.Shadow{Policy: warmpool.Band{}, Other: warmpool.Exhaustion{Policy: warmpool.Band{}}})); err != nil {
		t.Errorf("CheckPolicy of a complete policy = %v", err)
	}
}

// TestIncompleteIsComplete checks that every field of type Policy has a row in
// incomplete, except the optional Exhaustion.Tight.
func TestIncompleteIsComplete(t *testing.T) {
	packages, err := parser.ParseDir(token.NewFileSet(), ".", nil, 0) //nolint:staticcheck // build tags do not matter here
	if err != nil {
		t.Fatal(err)
	}
	rows := "Exhaustion.Tight Window.Policy"
	for field := range incomplete {
		rows += " " + field
	}
	ast.Inspect(packages["warmpool"], func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || !spec.Name.IsExported() {
			return true
		}
		if s, ok := spec.Type.(*ast.StructType); ok {
			for _, f := range s.Fields.List {
				if id, ok := f.Type.(*ast.Ident); ok && id.Name == "Policy" {
					for _, name := range f.Names {
						if field := spec.Name.Name + "." + name.Name; !strings.Contains(rows, field) {
							t.Errorf("no row for %s", field)
						}
					}
				}
			}
		}
		return true
	})
}

// TestCorridorWithoutUnit checks that a Supply without a unit has units of one address.
func TestCorridorWithoutUnit(t *testing.T) {
	c := warmpool.Corridor{Min: 10, GrowTo: 12, Max: 20, ShrinkTo: 20}
	if short, over := c.Slots(warmpool.Supply{Total: 4}); short != 8 || over != 0 {
		t.Errorf("Slots = %d, %d, want 8, 0", short, over)
	}
	if short, over := c.Slots(warmpool.Supply{Total: 24, FreeSlots: 9}); short != 0 || over != 4 {
		t.Errorf("Slots = %d, %d, want 0, 4", short, over)
	}
}

func ExampleCheckPolicy() {
	fmt.Println(warmpool.CheckPolicy(warmpool.Bounds{Floor: 3, Policy: warmpool.HoldDown{}}))
	// Output:
	// HoldDown.Policy is nil, want a policy
}
