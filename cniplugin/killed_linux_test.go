// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/internal/steptest"
)

// TestKilledAtEveryStep kills the plugin before each step of ADD and DEL. The next
// ADD must succeed, and the next DEL must remove everything.
func TestKilledAtEveryStep(t *testing.T) {
	for _, layout := range []string{"flat", "per-pod"} {
		t.Run(layout, func(t *testing.T) {
			n := newNode(t, ofLayout(layout))
			for _, tc := range []struct {
				name          string
				command       string
				agentAway     bool // no agent runs while the plugin is killed
				again, noName bool // ADD before the last DEL; that DEL has no CNI_NETNS
			}{
				{name: "ADD", command: "ADD"},
				{name: "ADD, ADD", command: "ADD", again: true},
				{name: "DEL", command: "DEL", noName: true},
				{name: "DEL, ADD", command: "DEL", again: true},
				{name: "DEL without agent", command: "DEL", agentAway: true},
				{name: "DEL without agent, ADD", command: "DEL", agentAway: true, again: true},
			} {
				t.Run(tc.name, func(t *testing.T) {
					n.killAtEach(t, func(i int, kill func(invocation) bool) bool {
						id := fmt.Sprint("pod", i)
						newSandbox(t, id)
						defer removeSandbox(t, id)
						victim := n.add(id)
						if tc.command == "DEL" {
							n.must(victim)
							victim = n.del(id)
						}
						if tc.agentAway {
							n.stop()
						}
						killed := kill(victim)
						if tc.agentAway {
							n.start()
						}
						if tc.again {
							n.mustCheck(id, n.must(n.add(id)))
						}
						del := n.del(id)
						if tc.noName {
							del.netns = ""
						}
						n.must(del)
						return killed
					})
				})
			}
		})
	}
}

// killAtEach calls round with a function that executes an invocation and kills it
// before step i. It begins with step 0 and ends with the first i that the
// invocation does not reach.
func (n *node) killAtEach(t *testing.T, round func(i int, kill func(invocation) bool) bool) {
	t.Helper()
	before := n.state()
	const fewest = 6 // lock, agent, kernel, output
	for i := 0; ; i++ {
		var last steptest.Step
		killed := round(i, func(inv invocation) bool {
			return n.trace(t, inv, func(s steptest.Step) bool { last = s; return s.Number < i }).status == -1
		})
		if diff := cmp.Diff(before, n.state()); diff != "" {
			t.Fatalf("killed before step %d, %s: left behind: -before +after:\n%s", i, last.Name, diff)
		}
		if !killed {
			if i < fewest {
				t.Errorf("the invocation has %d steps, want at least %d", i, fewest)
			}
			t.Logf("killed before each of %d steps", i)
			return
		}
	}
}

// mustCheck runs CHECK for a pod for which ADD has printed result.
func (n *node) mustCheck(id string, result []byte) {
	n.t.Helper()
	n.must(invocation{"CHECK", id, sandboxPath(id), "eth0", "", n.conf("1.0.0", `"prevResult":`+string(result))})
}
