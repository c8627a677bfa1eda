// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"flag"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

// TestScripts runs the plugin's binary by scripts, which set its environment and
// configuration, and check its standard output and the state of the node. In
// addition to the commands of testscript, scripts have:
//
//	agent start|stop|collect         starts or stops the agent, or collects tombstones
//	agent fail [CODE REASON MESSAGE] makes every call fail; without arguments, succeed
//	held                             prints the addresses that attachments hold
//	kernel                           counts the objects that the kernel has got since the start
//	flushroutes NAME                 deletes the routes of a sandbox
//	sandbox NAME...                  creates network namespaces at /run/netns
//	rmsandbox NAME...                removes them
//
// A script fails if the state of the node at its end differs from the start.
func TestScripts(t *testing.T) {
	isolatetest.Require(t)
	for _, layout := range []string{"flat", "per-pod"} {
		t.Run(layout, func(t *testing.T) {
			files, err := filepath.Glob("testdata/script/*.txtar")
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range files {
				t.Run(filepath.Base(file), func(t *testing.T) { runScript(t, file, layout) })
			}
		})
	}
}

// serially runs scripts one after the other, because they share one node.
type serially struct{ *testing.T }

func (s serially) Parallel()                          {}
func (s serially) Verbose() bool                      { return testing.Verbose() }
func (s serially) Run(_ string, f func(testscript.T)) { f(s) }

func runScript(t *testing.T, file, layout string) {
	n := newNode(t, ofLayout(layout))
	before, err := kernelState()
	if err != nil {
		t.Fatal(err)
	}
	testscript.RunT(serially{t}, testscript.Params{
		Files:         []string{file},
		UpdateScripts: flag.Lookup("update").Value.String() == "true",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", filepath.Dir(n.plugin)+":"+env.Getenv("PATH"))
			return nil
		},
		Condition: func(cond string) (bool, error) { return cond == layout, nil },
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"agent": func(ts *testscript.TestScript, _ bool, args []string) { agentCommand(ts, n, args) },
			"flushroutes": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(flushRoutes(sandboxPath(args[0])))
			},
			"held":    func(ts *testscript.TestScript, _ bool, _ []string) { printHeld(ts, n) },
			"kernel":  func(ts *testscript.TestScript, _ bool, _ []string) { printKernel(ts, n, before) },
			"sandbox": func(_ *testscript.TestScript, _ bool, args []string) { each(args, func(s string) { newSandbox(t, s) }) },
			"rmsandbox": func(_ *testscript.TestScript, _ bool, args []string) {
				each(args, func(s string) { removeSandbox(t, s) })
			},
		},
	})
}

func each(args []string, f func(string)) {
	for _, a := range args {
		f(a)
	}
}

func agentCommand(ts *testscript.TestScript, n *node, args []string) {
	switch {
	case slices.Equal(args, []string{"start"}):
		n.start()
	case slices.Equal(args, []string{"stop"}):
		n.stop()
	case slices.Equal(args, []string{"collect"}):
		fmt.Fprintf(ts.Stdout(), "collected %d\n", n.collect())
	case slices.Equal(args, []string{"fail"}):
		n.agent.Fail(nil)
	case len(args) == 4 && args[0] == "fail":
		var code cniplugin.Code
		if _, err := fmt.Sscan(args[1], &code); err != nil {
			ts.Fatalf("code: %v", err)
		}
		n.agent.Fail(&cniplugin.AgentError{Code: code, Reason: args[2], Message: args[3]})
	default:
		ts.Fatalf("usage: agent start|stop|collect|fail [CODE REASON MESSAGE]")
	}
}

func printHeld(ts *testscript.TestScript, n *node) {
	var lines []string
	out := ts.Stdout()
	for a, addrs := range n.agent.Held() {
		lines = append(lines, fmt.Sprintf("%s %v\n", a, addrs))
	}
	for _, l := range slices.Sorted(slices.Values(lines)) {
		fmt.Fprint(out, l)
	}
}

// printKernel prints how many objects of each kind are new, as "link 1".
func printKernel(ts *testscript.TestScript, n *node, before []string) {
	n.sweeps.Wait()
	now, err := kernelState()
	if err != nil {
		ts.Fatalf("%v", err)
	}
	count := map[string]int{}
	out := ts.Stdout()
	for _, line := range now {
		if i := slices.Index(before, line); i >= 0 {
			continue
		}
		var kind string
		fmt.Sscan(line, &kind)
		count[kind]++
	}
	for _, kind := range slices.Sorted(maps.Keys(count)) {
		fmt.Fprintf(out, "%s %d\n", kind, count[kind])
	}
}
