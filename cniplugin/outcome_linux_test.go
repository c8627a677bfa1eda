// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/servertest"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/internal/steptest"
)

// gc returns the GC of a runtime that has no pod.
func (n *node) gc() invocation {
	return invocation{command: "GC", stdin: n.conf("1.1.0", `"cni.dev/valid-attachments":[]`)}
}

// TestOneOutcome runs commands for one attachment concurrently. Afterwards either
// the pod is wired and holds its addresses, or neither the kernel nor the agent has
// anything of it.
func TestOneOutcome(t *testing.T) {
	const rounds = 25
	for _, layout := range []string{"flat", "per-pod"} {
		t.Run(layout, func(t *testing.T) {
			n := newNode(t, ofLayout(layout))
			add, del := n.add("c1"), n.del("c1")
			bare := del // like containerd's second DEL
			bare.netns = ""
			for _, tc := range []struct {
				name     string
				added    bool // the pod exists before
				commands []invocation
			}{
				{"ADD, DEL", false, []invocation{add, del}},
				{"DEL, ADD of a pod", true, []invocation{del, add}},
				{"ADD, DEL, DEL, ADD", false, []invocation{add, del, bare, add}},
				{"8 ADDs", false, []invocation{add, add, add, add, add, add, add, add}},
				{"DEL, GC", true, []invocation{del, n.gc()}},
				{"ADD, DEL, GC", false, []invocation{add, n.gc(), del}},
			} {
				t.Run(tc.name, func(t *testing.T) {
					newSandbox(t, "c1")
					for range rounds {
						n.runConcurrently(t, tc.added, tc.commands)
					}
				})
			}
		})
	}
}

// runConcurrently executes all invocations at once, and deletes the pod afterwards.
func (n *node) runConcurrently(t *testing.T, added bool, commands []invocation) {
	t.Helper()
	empty := n.state()
	var result []byte
	if added {
		result = n.must(n.add("c1"))
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, i := range commands {
		wg.Go(func() {
			out, status := n.run(i)
			if status != 0 {
				t.Errorf("%s: exit status %d: %s", i.command, status, out)
			}
			if i.command != "ADD" {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if result != nil && !bytes.Equal(result, out) {
				t.Errorf("one ADD printed %s, another %s, want the same", result, out)
			}
			result = out
		})
	}
	wg.Wait()
	if len(n.agent.Held()) > 0 {
		n.mustCheck("c1", result)
		n.must(n.del("c1"))
	}
	if diff := cmp.Diff(empty, n.state()); diff != "" {
		t.Fatalf("left behind: -before +after:\n%s", diff)
	}
}

// stopping is an agent that stops plugin processes with SIGSTOP. It stops the
// plugin after the allocation and then answers, so that the plugin finds the answer
// when it is resumed.
type stopping struct {
	*servertest.Agent
	mu sync.Mutex
	// pids has the process IDs of the plugins to stop, by container ID.
	pids map[string]chan int
}

func (s *stopping) Add(ctx context.Context, req cniplugin.AddRequest) (cniplugin.AddResponse, error) {
	resp, err := s.Agent.Add(ctx, req)
	s.mu.Lock()
	pid, ok := s.pids[req.ContainerID]
	s.mu.Unlock()
	if ok {
		select {
		case p := <-pid:
			_ = unix.Kill(p, unix.SIGSTOP)
		case <-ctx.Done():
		}
	}
	return resp, err
}

// stopped is a plugin process that was stopped after its allocation.
type stopped struct {
	*exec.Cmd
	stdout bytes.Buffer
}

// useStopping replaces the agent by a stopping one.
func (n *node) useStopping() *stopping {
	n.t.Helper()
	s := &stopping{Agent: n.agent, pids: map[string]chan int{}}
	n.stop()
	n.backend = s
	n.start()
	return s
}

// startStopped starts an ADD and waits until it is stopped.
func (n *node) startStopped(s *stopping, i invocation) *stopped {
	n.t.Helper()
	pid := make(chan int, 1)
	s.mu.Lock()
	s.pids[i.id] = pid
	s.mu.Unlock()
	p := &stopped{Cmd: n.cmd(context.WithoutCancel(n.t.Context()), i)}
	p.Stdout = &p.stdout
	if err := p.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = p.Process.Kill() })
	pid <- p.Process.Pid
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, p.Process.Pid, &info, unix.WSTOPPED|unix.WNOWAIT, nil); err != nil {
		n.t.Fatal("wait for the stop:", err)
	}
	s.mu.Lock()
	delete(s.pids, i.id)
	s.mu.Unlock()
	return p
}

// resume resumes a stopped plugin and returns its standard output and exit status.
func (p *stopped) resume(t *testing.T) (out []byte, status int) {
	t.Helper()
	if err := p.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait()
	return p.stdout.Bytes(), p.ProcessState.ExitCode()
}

// TestBusyAttachment checks other commands while a stopped ADD holds the lock of
// their attachment. Another ADD fails at its deadline with the reason, DEL deletes
// the pod without the lock, and GC leaves the attachment alone. The lock ends with
// the process.
func TestBusyAttachment(t *testing.T) {
	n := newNode(t, ofLayout("flat"))
	s := n.useStopping()
	newSandbox(t, "c1")
	holder := n.startStopped(s, n.add("c1"))

	impatient := n.add("c1")
	impatient.stdin = n.conf("1.0.0", `"timeout":"500ms"`)
	out, status := n.run(impatient)
	expect(t, badInput{code: cniplugin.CodeTryAgainLater, text: cniplugin.ReasonAttachmentBusy}, status, out)
	if calls := n.agent.Calls()["Add"]; calls != 1 {
		t.Errorf("the agent has served %d ADDs, want only that of the holder", calls)
	}
	n.must(n.gc())
	if len(n.agent.Held()) != 1 {
		t.Error("GC has removed an attachment that another command works on")
	}
	if n.collectStone("c1") != 0 {
		t.Error("a tombstone was collected while another command works on its attachment")
	}
	var stderr strings.Builder
	del := n.cmd(t.Context(), n.del("c1"))
	del.Stderr = &stderr
	if err := del.Run(); err != nil || !strings.Contains(stderr.String(), "without the lock") {
		t.Errorf("DEL: %v, %s, want success and a warning", err, &stderr)
	}
	if held := n.agent.Held(); len(held) > 0 {
		t.Errorf("after DEL the agent holds %v, want nothing", held)
	}

	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait()
	n.mustCheck("c1", n.must(impatient))
	n.must(n.del("c1"))
}

// attachment returns the key of a container in the network of the tests.
func attachment(id string) cniplugin.Attachment {
	return cniplugin.Attachment{Network: "vpcnet", ContainerID: id, IfName: "eth0"}
}

// collectStone writes a tombstone for a container, and returns how many tombstones
// the agent collects.
func (n *node) collectStone(id string) int {
	n.t.Helper()
	dir := cniplugin.TombstoneDir(n.stateDir())
	err := cniplugin.WriteTombstone(dir, cniplugin.Tombstone{Attachment: attachment(id), At: time.Now()})
	if err != nil {
		n.t.Fatal(err)
	}
	return n.collect()
}

// code returns the code of a CNI error.
func code(t *testing.T, out []byte) cniplugin.Code {
	t.Helper()
	var e cniplugin.Error
	if err := json.Unmarshal(out, &e); err != nil {
		t.Errorf("%s is not a CNI error: %v", out, err)
	}
	return e.Code
}

// TestDelBesideWaitingAdd runs a DEL while an ADD waits for a free address. The ADD
// must release the address that it gets afterwards.
func TestDelBesideWaitingAdd(t *testing.T) {
	n := newNode(t, ofLayout("flat"))
	w := &waiting{Agent: n.agent, called: make(chan struct{}), free: make(chan struct{})}
	n.stop()
	n.backend = w
	n.start()
	newSandbox(t, "c1")
	ended := make(chan []byte)
	go func() {
		out, _ := n.run(n.add("c1"))
		ended <- out
	}()
	<-w.called
	n.must(n.del("c1"))
	close(w.free)
	expect(t, badInput{code: cniplugin.CodeTryAgainLater, text: cniplugin.ReasonAddressLost}, 1, <-ended)
	if calls := n.agent.Calls(); calls["Add"] != 1 || len(n.agent.Held()) > 0 {
		t.Errorf("the agent holds %v after the calls %v, want nothing after one Add", n.agent.Held(), calls)
	}
}

// waiting is an agent that has no free address until free is closed.
type waiting struct {
	*servertest.Agent
	called, free chan struct{}
}

func (w *waiting) Add(ctx context.Context, req cniplugin.AddRequest) (cniplugin.AddResponse, error) {
	close(w.called)
	<-w.free
	return w.Agent.Add(ctx, req)
}

// late is an ADD that is resumed when its addresses have a new owner.
type late struct {
	id, owner string
	resume    func() ([]byte, int)
	// maySucceed means that the ADD may have ended before the DEL, or may allocate
	// after it.
	maySucceed bool
	result     []byte // of the new owner's ADD
}

// TestLateAdd resumes ADDs that were stopped after their allocation. Meanwhile
// their attachments have been deleted, and their addresses belong to other pods.
// The ADDs must fail and must not change those pods, whether those are wired or
// not.
func TestLateAdd(t *testing.T) {
	const pods = 40
	for _, layout := range []string{"flat", "per-pod"} {
		t.Run(layout, func(t *testing.T) {
			n := newNode(t, ofLayout(layout))
			s := n.useStopping()
			var all []*late
			for i := range pods {
				l := &late{id: fmt.Sprint("late", i), owner: fmt.Sprint("owner", i)}
				newSandbox(t, l.id)
				newSandbox(t, l.owner)
				p := n.startStopped(s, n.add(l.id))
				l.resume = func() ([]byte, int) { return p.resume(t) }
				all = append(all, l)
			}
			n.overtake(t, all, func(i int) bool { return i%2 == 0 })
		})
	}
}

// overtake deletes the attachments of stopped ADDs, gives their addresses to new
// owners, wires some of these, resumes the ADDs, and checks that the new owners are
// unchanged.
func (n *node) overtake(t *testing.T, all []*late, wired func(i int) bool) {
	t.Helper()
	n.together(all, func(i int, l *late) { // each DEL waits for the lock
		if i%4 == 3 && !l.maySucceed { // no DEL: the agent finds that the sandbox is gone
			if _, err := n.agent.Del(t.Context(), cniplugin.DelRequest{Attachment: attachment(l.id)}); err != nil {
				t.Error(err)
			}
			return
		}
		del := n.del(l.id)
		if i%4 < 2 {
			del.netns = "" // like containerd's second DEL
		}
		n.must(del)
		for len(n.agent.Held()[attachment(l.id)]) > 0 { // the answer of the agent may come too late on a busy machine
			n.must(del)
		}
	})
	if held := n.agent.Held(); len(held) > 0 {
		t.Fatalf("after DEL the agent holds %v, want nothing", held)
	}
	for i, l := range all {
		if wired(i) {
			l.result = n.must(n.add(l.owner))
		} else if _, err := n.agent.Add(t.Context(), cniplugin.AddRequest{Attachment: attachment(l.owner)}); err != nil {
			t.Fatal(err)
		}
	}
	n.together(all, func(_ int, l *late) {
		out, status := l.resume()
		_, held := n.agent.Held()[attachment(l.id)]
		_, err := net.InterfaceByName(datapath.Pod{ContainerID: l.id, IfName: "eth0"}.HostLink())
		if wired := err == nil; wired != held || held && status != 0 {
			t.Errorf("late ADD %s: exit status %d, held: %v, wired: %v; want the last two equal, and false after a failure", l.id, status, held, wired)
		}
		switch {
		case status != 0 && code(t, out) != cniplugin.CodeTryAgainLater, status == 0 && !l.maySucceed:
			t.Errorf("late ADD %s: exit status %d: %s, want code %d", l.id, status, out, cniplugin.CodeTryAgainLater)
		case held:
			n.mustCheck(l.id, out)
		}
	})
	for i, l := range all {
		if !wired(i) {
			l.result = n.must(n.add(l.owner))
		}
		n.mustCheck(l.owner, l.result)
	}
	n.together(all, func(_ int, l *late) { n.must(n.del(l.owner)) })
	n.together(all, func(_ int, l *late) { n.must(n.del(l.id)) })
}

// together calls f for all of them concurrently.
func (n *node) together(all []*late, f func(int, *late)) {
	var wg sync.WaitGroup
	for i, l := range all {
		wg.Go(func() { f(i, l) })
	}
	wg.Wait()
}

// TestLateAddAtEveryStep is TestLateAdd with ADDs that are stopped before each of
// their steps. An ADD that is stopped before it asks for addresses may get some
// after the DEL, and one that has printed its result succeeds.
func TestLateAddAtEveryStep(t *testing.T) {
	for _, layout := range []string{"flat", "per-pod"} {
		t.Run(layout, func(t *testing.T) {
			n := newNode(t, ofLayout(layout))
			var all []*late
			const each = 2 // for each step two ADDs: the new owner of one is wired, that of the other is not
			for more := true; more; {
				l := &late{id: fmt.Sprint("late", len(all)), owner: fmt.Sprint("owner", len(all))}
				newSandbox(t, l.id)
				newSandbox(t, l.owner)
				if more = n.stopAtStep(t, l, len(all)/each); more {
					all = append(all, l)
				}
			}
			t.Logf("stopped before each of %d steps", len(all)/each)
			n.overtake(t, all, func(i int) bool { return i%each == 0 })
		})
	}
}

// stopAtStep starts an ADD and stops it before the step with the given number. If
// the ADD has no such step, stopAtStep deletes the pod and returns false.
func (n *node) stopAtStep(t *testing.T, l *late, number int) bool {
	t.Helper()
	reached, resume, ended := make(chan bool), make(chan struct{}), make(chan traced)
	go func() {
		ended <- n.trace(t, n.add(l.id), func(s steptest.Step) bool {
			if s.Number >= number && !s.Locked { // with the lock of the rules it would block every DEL
				number = 1 << 30
				reached <- true
				<-resume
			}
			return true
		})
	}()
	select {
	case <-reached:
		l.maySucceed = true
		l.resume = func() ([]byte, int) {
			close(resume)
			end := <-ended
			return end.stdout, end.status
		}
		return true
	case <-ended:
		n.must(n.del(l.id))
		return false
	}
}

// TestAddressTaken checks that ADD fails if its address leads to another pod, and
// releases the address.
func TestAddressTaken(t *testing.T) {
	for _, layout := range []string{"flat", "per-pod"} {
		t.Run(layout, func(t *testing.T) {
			n := newNode(t, ofLayout(layout))
			newSandbox(t, "c1")
			newSandbox(t, "c2")
			result := n.must(n.add("c1"))
			resp, err := n.agent.Check(t.Context(), cniplugin.CheckRequest{Attachment: attachment("c1")})
			if err != nil {
				t.Fatal(err)
			}
			n.stop()
			n.backend = &fixedAgent{n.agent, resp}
			n.start()
			out, status := n.run(n.add("c2"))
			expect(t, badInput{code: cniplugin.CodeTryAgainLater, text: cniplugin.ReasonAddressTaken}, status, out)
			if held := n.agent.Held()[attachment("c2")]; held != nil {
				t.Errorf("c2 holds %v, want nothing", held)
			}
			n.mustCheck("c1", result)
			n.must(n.del("c2"))
			n.mustCheck("c1", result)
			n.must(n.del("c1"))
		})
	}
}
