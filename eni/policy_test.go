// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni"
)

// policyFile is the IAM policy of a node's role. `go test ./eni -run TestPolicy -update`
// writes it.
const policyFile = "../examples/deploy/iam-policy.json"

// policyStatement is a statement of an IAM policy:
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements.html.
type policyStatement struct {
	Sid, Effect string
	Action      []string
	Resource    string
}

type policy struct {
	Version   string
	Statement []policyStatement
}

// policyParts are the statements: the features that a node may have, and the actions that
// only they need. All actions of the code are in one of them.
var policyParts = []struct {
	sid     string
	actions []string
}{
	// Every node needs these.
	{"Pods", []string{
		"AssignPrivateIpAddresses", "AttachNetworkInterface", "CreateNetworkInterface", "DeleteNetworkInterface", "DescribeInstanceTypes",
		"DescribeNetworkInterfaces", "DetachNetworkInterface", "ModifyNetworkInterfaceAttribute", "UnassignPrivateIpAddresses",
	}},
	// For the tags with which ENIs are created. The conditions of IAM for tags are not used,
	// so that ENIs that another program made can be adopted.
	{"Tags", []string{"CreateTags"}},
	// ENABLE_IPv6.
	{"IPv6", []string{"AssignIpv6Addresses", "UnassignIpv6Addresses"}},
	// AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG and ENABLE_SUBNET_DISCOVERY.
	{"Placement", []string{"DescribeSecurityGroups", "DescribeSubnets"}},
	// ENABLE_POD_ENI.
	{"PodENI", []string{"AssociateTrunkInterface", "DescribeTrunkInterfaceAssociations", "DisassociateTrunkInterface"}},
	// VPCNET_NODE_PREFIX with VPCNET_VPC_ROUTE_TABLES.
	{"NodePrefix", []string{"CreateRoute", "DescribeRouteTables", "ReplaceRoute"}},
}

// calledActions returns the actions of EC2 that the code calls, by their names in the calls
// of Client.call and Client.callIf.
func calledActions(t *testing.T) []string {
	t.Helper()
	found := map[string]bool{}
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) < 2 {
				return true
			}
			if s, ok := call.Fun.(*ast.SelectorExpr); !ok || s.Sel.Name != "call" && s.Sel.Name != "callIf" {
				return true
			}
			if lit, ok := call.Args[1].(*ast.BasicLit); ok {
				action, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Fatal(err)
				}
				found[action] = true
			}
			return true
		})
	}
	return slices.Sorted(maps.Keys(found))
}

// TestPolicy generates the IAM policy from the calls of the code and compares it with the
// file.
func TestPolicy(t *testing.T) {
	p := policy{Version: "2012-10-17"}
	var listed []string
	for _, part := range policyParts {
		s := policyStatement{Sid: part.sid, Effect: "Allow", Resource: "*"}
		for _, action := range part.actions {
			s.Action, listed = append(s.Action, "ec2:"+action), append(listed, action)
		}
		p.Statement = append(p.Statement, s)
	}
	slices.Sort(listed)
	if diff := cmp.Diff(calledActions(t), listed); diff != "" {
		t.Errorf("actions (-called by the code +listed in policyParts):\n%s", diff)
	}
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got := string(b) + "\n"
	if *update {
		if err := os.WriteFile(policyFile, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(policyFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), rewrite with -update:\n%s", policyFile, diff)
	}
}

// readPolicy returns the actions of each statement of the policy.
func readPolicy(t *testing.T) map[string][]string {
	t.Helper()
	b, err := os.ReadFile(policyFile)
	if err != nil {
		t.Fatal(err)
	}
	var p policy
	if err := json.Unmarshal(b, &p); err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	for _, s := range p.Statement {
		for _, action := range s.Action {
			out[s.Sid] = append(out[s.Sid], strings.TrimPrefix(action, "ec2:"))
		}
	}
	return out
}

// needed returns the permissions that the audit log of EC2 shows the node to have needed.
// Tags in a call need CreateTags.
func (x *faultNode) needed() map[string]bool {
	found := map[string]bool{}
	for _, c := range x.Audit() {
		found[c.Action] = true
		for name := range c.Parameters {
			if strings.HasPrefix(name, "TagSpecification.") {
				found["CreateTags"] = true
			}
		}
	}
	return found
}

// TestPolicySuffices runs an operation for each action of the policy, and checks by the audit
// log of EC2 that the statement of the action, with those for all nodes, has each permission
// that is needed, and that together the operations need each permission of the policy.
func TestPolicySuffices(t *testing.T) {
	statements := readPolicy(t)
	everyNode := slices.Concat(statements["Pods"], statements["Tags"])
	needed := map[string]bool{}
	for sid, actions := range statements {
		for _, action := range actions {
			op, ok := opOf[action]
			if !ok {
				t.Errorf("no operation for %s", action)
				continue
			}
			t.Run(action, inBubble(func(t *testing.T) {
				x := newFaultNode(t, action, op)
				x.ResetCalls()
				if !x.try(op) {
					t.Fatal("the operation fails")
				}
				used := x.needed()
				if !used[action] {
					t.Errorf("the operation does not call %s: %v", action, used)
				}
				for name := range used {
					needed[name] = true
					if !slices.Contains(everyNode, name) && !slices.Contains(actions, name) {
						t.Errorf("statement %s lacks ec2:%s", sid, name)
					}
				}
			}))
		}
	}
	var all []string
	for _, actions := range statements {
		all = append(all, actions...)
	}
	slices.Sort(all)
	if diff := cmp.Diff(all, slices.Sorted(maps.Keys(needed))); diff != "" {
		t.Errorf("permissions (-of the policy +needed):\n%s", diff)
	}
}

// TestPolicyIsMinimal takes each permission of the policy away in turn. The operation that
// needs it fails at once, with an error that names the permission, and succeeds when the
// role has it again. Without DescribeInstanceTypes a node of a new type has fewer ENIs.
func TestPolicyIsMinimal(t *testing.T) {
	for _, actions := range readPolicy(t) {
		for _, action := range actions {
			op := opOf[action]
			t.Run(action, inBubble(func(t *testing.T) {
				x := newFaultNode(t, action, op)
				x.Deny("", action)
				began := time.Now()
				err := op.do(x, t.Context())
				if action == "DescribeInstanceTypes" {
					// The limits of a type that is not known are the least that any type has.
					if err == nil || !strings.Contains(err.Error(), "card 0 takes 2 ENIs") {
						t.Errorf("%v, want the least limits", err)
					}
					return
				}
				if action == "DisassociateTrunkInterface" {
					began = began.Add(time.Minute) // the branch cools before
				}
				if !errors.Is(err, eni.ErrUnauthorized) || !strings.Contains(err.Error(), "ec2:"+action) {
					t.Errorf("%v, want ErrUnauthorized that names ec2:%s", err, action)
				}
				if took := time.Since(began); took > 10*time.Second {
					t.Errorf("the refusal took %v", took)
				}
				x.Allow("", action)
				for range 20 {
					if x.try(op) {
						return
					}
					_ = x.m.Resume(t.Context())
				}
				t.Error("the operation still fails with the permission")
			}))
		}
	}
}
