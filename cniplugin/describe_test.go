// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin/internal/statedir"
	"github.com/vpcnet/vpcnet/datapath"
)

// TestDescribe compares what `kubectl describe pod` shows for each reason of this
// package, and for failures without a reason, with a golden file. The runtime puts the
// name of the plugin in front of it. The reasons of an agent are those of package
// ipam, see the test of the same name in examples/ipamd.
func TestDescribe(t *testing.T) {
	away := fmt.Errorf("%w: %w", ErrAgentAway, errors.New("dial unix /run/vpcnet/agent.sock: connect: no such file or directory"))
	_, _, foreign := parseResponse([]byte("SSH-2.0-OpenSSH_9\r\n\r\n"))
	lost := &call{conf: config{NetConf: NetConf{StateDir: t.TempDir()}}, plugin: Plugin{Allocator: emptied{}}}
	rows := []struct {
		reason string // the name of its constant, or the failure
		err    error
	}{
		{"ReasonAgentAway", CNIError(away)},
		{"ReasonAgentAway", CNIError(joinBroken(&brokenError{syscall.ECONNRESET}, fmt.Errorf("%w: %w", ErrAgentAway, &brokenError{syscall.ECONNRESET})))},
		{"ReasonAgentTimeout", CNIError(&timeoutError{DefaultSocket, context.DeadlineExceeded})},
		{"ReasonProtocol", CNIError(decode(PathAdd, 404, []byte("404 page not found"), nil))},
		{"ReasonProtocol", CNIError(decode(PathAdd, 200, []byte("{"), new(AddResponse)))},
		{"ReasonProtocol", CNIError(foreign)},
		{"ReasonProtocol", invalidAnswer(datapath.Pod{ContainerID: "c1", IfName: "eth0"}.Validate())},
		{"ReasonAttachmentBusy", lockFailure(fmt.Errorf("lock: %w", statedir.ErrBusy))},
		{"ReasonAddressTaken", datapathFailure(fmt.Errorf("10.0.1.5 leads to eni0a1b: %w", datapath.ErrAddressTaken))},
		{"ReasonAddressLost", lost.confirm(t.Context(), allocation{AddResponse{Addresses: []Address{{}}}, time.Now().Add(-time.Hour)})},
		{"ReasonNotAllocated", CNIError(&AgentError{Code: CodeUnknownContainer, Reason: ReasonNotAllocated, Message: "the attachment holds no address"})},
		{"ReasonNotAllowed", CNIError(&AgentError{Code: CodeAgent, Reason: ReasonNotAllowed, Message: "user 65534 may not call the agent", Details: "want one of the users [0]"})},
		{"ReasonAgentPanic", CNIError(&AgentError{Code: CodeInternal, Reason: ReasonAgentPanic, Message: "the agent panicked: index out of range", Details: "this is a defect of the agent; its log has the stack"})},
		{"state directory", lockFailure(errors.New("open /var/lib/vpcnet/tombstones/lock: read-only file system"))},
		{"sandbox gone", datapathFailure(fmt.Errorf("/run/netns/c1: %w", datapath.ErrNoSandbox))},
		{"interface taken", datapathFailure(fmt.Errorf("eth0: %w", datapath.ErrInterfaceTaken))},
		{"kernel slow", datapathFailure(fmt.Errorf("add route: %w", context.DeadlineExceeded))},
		{"kernel refuses", datapathFailure(fmt.Errorf("create veth pair: %w", syscall.ENOBUFS))},
		{"code alone", CNIError(&AgentError{Code: CodeTryAgainLater})},
		{"another error", CNIError(errors.New("the allocator is on fire"))},
	}
	var got strings.Builder
	seen := map[string]bool{}
	for _, row := range rows {
		text := row.err.Error()
		seen[row.reason] = true
		if clause := repeated(text); clause != "" {
			t.Errorf("%s: %q says %q twice", row.reason, text, clause)
		}
		fmt.Fprintf(&got, "%-21s %s\n", row.reason, strings.ReplaceAll(text, lost.conf.StateDir, "/state"))
	}
	for name, value := range reasons(t) {
		if !seen[name] || !strings.Contains(got.String(), value+": ") {
			t.Errorf("this test has no row for %s", name)
		}
	}
	golden(t, "describe.txt", []byte(got.String()))
}

// emptied is an Allocator that has released every address.
type emptied struct{ Allocator }

func (emptied) Check(context.Context, CheckRequest) (AddResponse, error) {
	return AddResponse{}, &AgentError{Code: CodeUnknownContainer, Reason: ReasonNotAllocated, Message: "the attachment holds no address"}
}

// reasons returns the constants of errors.go that are reasons, by name.
func reasons(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(v.Names[0].Name, "Reason") {
			lit, _ := v.Values[0].(*ast.BasicLit)
			if found[v.Names[0].Name], err = strconv.Unquote(lit.Value); err != nil {
				t.Fatal(err)
			}
		}
		return true
	})
	return found
}

// repeated returns a clause of several words that text has twice, or that is part of
// another clause.
func repeated(text string) string {
	clauses := regexp.MustCompile("[:;] ").Split(text, -1)
	for i, c := range clauses {
		for j, other := range clauses {
			if i != j && strings.Contains(c, " ") && strings.Contains(other, c) {
				return c
			}
		}
	}
	return ""
}

// TestCNIErrorOfNil checks errors that are nil inside.
func TestCNIErrorOfNil(t *testing.T) {
	if e := CNIError(nil); e != nil {
		t.Errorf("CNIError(nil) = %v, want nil", e)
	}
	for _, err := range []error{(*AgentError)(nil), (*Error)(nil)} {
		if e := CNIError(err); e == nil || e.Code != CodeInternal || e.Msg == "" {
			t.Errorf("for %T: %+v, want code %d and a text", err, e, CodeInternal)
		}
		if e := datapathFailure(err); e == nil || e.Code == 0 || e.Msg == "" {
			t.Errorf("for %T of a wiring: %+v, want a code and a text", err, e)
		}
	}
}
