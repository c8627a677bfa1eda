// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/servertest"
)

// processNode is a node with an agent in a separate process, which is killed at the
// end of the test.
type processNode struct {
	*node
	process *exec.Cmd
	stdout  *bufio.Reader
}

func newProcessNode(t *testing.T) *processNode {
	t.Helper()
	n := &processNode{node: newNode(t, ofLayout("per-pod"))}
	n.node.stop()
	t.Cleanup(func() {
		if n.process != nil {
			n.kill()
		}
	})
	return n
}

// serve starts the agent and waits until it answers.
func (n *processNode) serve(env ...string) {
	n.t.Helper()
	n.process = exec.Command("/proc/self/exe")
	n.process.Env = append(append(os.Environ(), agentEnv+"="+n.socket()), env...)
	n.process.Stderr = os.Stderr
	stdout, err := n.process.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	n.stdout = bufio.NewReader(stdout)
	if err := n.process.Start(); err != nil {
		n.t.Fatal(err)
	}
	if err := n.client().Status(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
}

func (n *processNode) client() cniplugin.Client {
	return cniplugin.Client{Socket: n.socket(), Wait: time.Minute}
}

func (n *processNode) signal(s unix.Signal) {
	n.t.Helper()
	if err := n.process.Process.Signal(s); err != nil {
		n.t.Error(err)
	}
}

func (n *processNode) kill() {
	n.t.Helper()
	n.signal(unix.SIGKILL)
	_ = n.process.Wait()
	n.process = nil
}

// holds reports whether a container holds addresses of the agent process.
func (n *processNode) holds(id string) bool {
	n.t.Helper()
	_, err := n.client().Check(n.t.Context(), cniplugin.CheckRequest{Attachment: attachment(id)})
	return err == nil
}

// tombstones removes all tombstones and returns their number.
func (n *processNode) tombstones() int {
	n.t.Helper()
	found, err := filepath.Glob(cniplugin.TombstoneDir(n.stateDir()) + "/*.json")
	if err != nil {
		n.t.Fatal(err)
	}
	for _, f := range found {
		if err := os.Remove(f); err != nil {
			n.t.Error(err)
		}
	}
	return len(found)
}

// within executes an invocation, and fails the test if that takes longer than most
// in three attempts: on a busy machine the start of a process may take a second.
func (n *processNode) within(most time.Duration, i invocation) (out []byte, status int) {
	n.t.Helper()
	for range 3 {
		start := time.Now()
		out, status = n.run(i)
		took := time.Since(start)
		n.t.Logf("%s took %v, at most %v", i.command, took.Round(time.Millisecond), most)
		if took <= most {
			return out, status
		}
	}
	n.t.Errorf("%s took longer than %v three times", i.command, most)
	return out, status
}

// TestStoppedAgent checks commands while the agent is stopped, and so accepts calls
// and answers none. They end at their deadline, and DEL after some seconds.
func TestStoppedAgent(t *testing.T) {
	const timeout = time.Second
	n := newProcessNode(t)
	n.serve()
	newSandbox(t, "c1")
	newSandbox(t, "c2")
	result := string(n.must(n.add("c1")))
	with := func(i invocation, version string, fields ...string) invocation {
		i.stdin = n.conf(version, append(fields, `"timeout":"1s"`)...)
		return i
	}
	timedOut := func(i invocation, want cniplugin.Code) {
		t.Helper()
		out, status := n.within(timeout+time.Second, i)
		expect(t, badInput{code: want, text: cniplugin.ReasonAgentTimeout}, status, out)
	}
	before, err := kernelState()
	if err != nil {
		t.Fatal(err)
	}
	n.signal(unix.SIGSTOP)

	timedOut(with(n.add("c2"), "1.0.0"), cniplugin.CodeTryAgainLater)
	if got := n.tombstones(); got != 1 {
		t.Errorf("ADD has left %d tombstones, want 1", got)
	}
	check := invocation{"CHECK", "c1", sandboxPath("c1"), "eth0", "", ""}
	timedOut(with(check, "1.0.0", `"prevResult":`+result), cniplugin.CodeTryAgainLater)
	timedOut(with(n.gc(), "1.1.0", `"cni.dev/valid-attachments":[]`), cniplugin.CodeTryAgainLater)
	timedOut(with(invocation{command: "STATUS"}, "1.1.0"), cniplugin.CodeNotAvailable)
	if now, err := kernelState(); err != nil || strings.Join(now, "\n") != strings.Join(before, "\n") {
		t.Errorf("the kernel has %q, %v, want it unchanged %q", now, err, before)
	}

	// The first DEL must ask the agent for the addresses; the second one has them from
	// the result.
	if out, status := n.within(1100*time.Millisecond+time.Second, n.del("c2")); status != 0 {
		t.Errorf("DEL: %s", out)
	}
	del := n.del("c1")
	del.stdin = n.conf("1.0.0", `"prevResult":`+result)
	if out, status := n.within(3*time.Second+time.Second, del); status != 0 {
		t.Errorf("DEL: %s", out)
	}
	if got := n.tombstones(); got != 2 {
		t.Errorf("DELs have left %d tombstones, want 2", got)
	}

	// An agent that is resumed does not carry out the calls of plugins that have ended.
	n.signal(unix.SIGCONT)
	if n.holds("c2") || !n.holds("c1") {
		t.Errorf("c1 holds addresses: %v, c2: %v; want true, false as when the agent was stopped", n.holds("c1"), n.holds("c2"))
	}
}

// stuckDel is an agent that answers GC, but not Check and Del.
type stuckDel struct {
	*servertest.Agent
	stuck chan struct{}
}

func (a *stuckDel) Check(context.Context, cniplugin.CheckRequest) (cniplugin.AddResponse, error) {
	<-a.stuck
	return cniplugin.AddResponse{}, io.EOF
}

func (a *stuckDel) Del(context.Context, cniplugin.DelRequest) (cniplugin.DelResponse, error) {
	<-a.stuck
	return cniplugin.DelResponse{}, io.EOF
}

// TestGCStuckAgent checks that a GC of many attachments waits for a stuck agent
// only once.
func TestGCStuckAgent(t *testing.T) {
	n := newNode(t, ofLayout("per-pod"))
	const pods = 8
	for _, id := range strings.Fields("a b c d e f g h") {
		newSandbox(t, id)
		n.must(n.add(id))
	}
	a := &stuckDel{n.agent, make(chan struct{})}
	n.stop()
	n.backend = a
	n.start()
	start := time.Now()
	n.must(n.gc())
	// One lookup of 1 s, eight releases of 0.1 s, and a second for a busy machine.
	const most = time.Second + pods*100*time.Millisecond + time.Second
	if took := time.Since(start); took > most {
		t.Errorf("GC took %v, want at most %v", took, most)
	}
	close(a.stuck)
	if got := n.collect(); got != pods {
		t.Errorf("%d tombstones, want %d", got, pods)
	}
}

// TestKilledAgent checks that an agent that is killed during an ADD and started
// again answers that ADD.
func TestKilledAgent(t *testing.T) {
	n := newProcessNode(t)
	n.serve(hangEnv + "=1")
	newSandbox(t, "c1")
	type end struct {
		out    []byte
		status int
	}
	ended := make(chan end, 1)
	go func() {
		out, status := n.run(n.add("c1"))
		ended <- end{out, status}
	}()
	if line, err := n.stdout.ReadString('\n'); err != nil {
		t.Fatal(line, err)
	}
	n.kill()
	n.serve()
	e := <-ended
	if e.status != 0 {
		t.Fatalf("ADD: %s", e.out)
	}
	n.mustCheck("c1", e.out)
	n.must(n.del("c1"))
}

// TestKilledAgentStaysAway checks that an ADD leaves a tombstone if the agent is
// killed during it and stays away, because the agent may have allocated addresses.
func TestKilledAgentStaysAway(t *testing.T) {
	n := newProcessNode(t)
	n.serve(hangEnv + "=1")
	newSandbox(t, "c1")
	add := n.add("c1")
	add.stdin = n.conf("1.0.0", `"timeout":"2s"`)
	ended := make(chan []byte, 1)
	go func() {
		out, _ := n.run(add)
		ended <- out
	}()
	if line, err := n.stdout.ReadString('\n'); err != nil {
		t.Fatal(line, err)
	}
	n.kill()
	expect(t, badInput{code: cniplugin.CodeTryAgainLater, text: cniplugin.ReasonAgentAway}, 1, <-ended)
	if got := n.tombstones(); got != 1 {
		t.Errorf("%d tombstones, want 1", got)
	}
}

// TestWaitForAgent checks that ADD and STATUS wait for an agent that restarts, and
// ADD for as long as its deadline allows.
func TestWaitForAgent(t *testing.T) {
	n := newProcessNode(t)
	newSandbox(t, "c1")
	ended := make(chan int)
	start := func(i invocation) {
		go func() {
			out, status := n.run(i)
			if status != 0 {
				t.Errorf("%s: %s", i.command, out)
			}
			ended <- status
		}()
	}
	// The agent accepts two connections and ends without an answer.
	l, err := net.Listen("unix", n.socket())
	if err != nil {
		t.Fatal(err)
	}
	start(n.add("c1"))
	start(invocation{command: "STATUS", stdin: n.conf("1.1.0")})
	var calls []io.Closer
	for range 2 {
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		calls = append(calls, conn)
	}
	l.Close()
	for _, c := range calls {
		c.Close()
	}
	n.serve()
	<-ended
	<-ended
	n.must(n.del("c1"))

	if testing.Short() {
		t.Skip("an agent that is away for longer than CHECK and GC wait takes eleven seconds")
	}
	n.kill()
	start(n.add("c1"))
	time.Sleep(11 * time.Second)
	n.serve()
	<-ended
	n.must(n.del("c1"))
}
