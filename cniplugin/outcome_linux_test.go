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
)

// gc is a GC of a runtime that has no pod.
func (n *node) gc() invocation {
	return invocation{command: "GC", stdin: n.conf("1.1.0", `"cni.dev/valid-attachments":[]`)}
}

// Commands that meet on one attachment have one outcome: the pod is wired and
// holds its addresses, or nothing is left and nothing is held.
func TestOneOutcome(t *testing.T) {
	const rounds = 25
	for _, layout := range []string{"flat", "per-pod"} {
		t.Run(layout, func(t *testing.T) {
			n := newNode(t, ofLayout(layout))
			add, del := n.add("c1"), n.del("c1")
			bare := del // as containerd's second DEL
			bare.netns = ""
			for _, tc := range []struct {
				name   string
				before bool // whether the pod is there already
				at     []invocation
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
						n.meet(t, tc.before, tc.at)
					}
				})
			}
		})
	}
}

// meet executes all invocations at once, and takes the pod down afterwards.
func (n *node) meet(t *testing.T, before bool, at []invocation) {
	t.Helper()
	nothing := n.state()
	var result []byte
	if before {
		result = n.must(n.add("c1"))
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, i := range at {
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
				t.Errorf("one ADD printed %s, another %s", result, out)
			}
			result = out
		})
	}
	wg.Wait()
	if len(n.agent.Held()) > 0 {
		n.mustCheck("c1", result)
		n.must(n.del("c1"))
	}
	if diff := cmp.Diff(nothing, n.state()); diff != "" {
		t.Fatalf("half made: -nothing +there is:\n%s", diff)
	}
}

// stopping is an agent that stops plugins with SIGSTOP when it has allocated
// for them, and answers then: the answer waits for plugins that go on.
type stopping struct {
	*servertest.Agent
	mu   sync.Mutex
	pids map[string]chan int // of containers whose plugins to stop
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

// stopped is a plugin process that stands still after its allocation.
type stopped struct {
	*exec.Cmd
	stdout bytes.Buffer
}

// useStopping makes the agent a stopping one.
func (n *node) useStopping() *stopping {
	n.t.Helper()
	s := &stopping{Agent: n.agent, pids: map[string]chan int{}}
	n.stop()
	n.backend = s
	n.start()
	return s
}

// startStopped starts an ADD and returns when it has been stopped.
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

// goOn continues a stopped plugin and returns what it prints and its status.
func (p *stopped) goOn(t *testing.T) (out []byte, status int) {
	t.Helper()
	if err := p.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait()
	return p.stdout.Bytes(), p.ProcessState.ExitCode()
}

// A stopped command keeps the lock of its attachment: another ADD says so within
// its deadline, DEL and GC do what they can, and the lock ends with the process.
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
		t.Errorf("the agent has seen %d ADDs, want that of the holder only", calls)
	}
	n.must(n.gc()) // leaves it to the holder
	if len(n.agent.Held()) != 1 {
		t.Error("GC has taken an attachment from the command that works on it")
	}
	if n.collectStone("c1") != 0 {
		t.Error("a tombstone was collected beside the command that works on its attachment")
	}
	var stderr strings.Builder
	del := n.cmd(t.Context(), n.del("c1"))
	del.Stderr = &stderr
	if err := del.Run(); err != nil || !strings.Contains(stderr.String(), "without the lock") {
		t.Errorf("DEL: %v, %s", err, &stderr)
	}
	if held := n.agent.Held(); len(held) > 0 {
		t.Errorf("held after DEL: %v", held)
	}

	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait()
	n.mustCheck("c1", n.must(impatient))
	n.must(n.del("c1"))
}

// attachment is the key of a container in the tests' network.
func attachment(id string) cniplugin.Attachment {
	return cniplugin.Attachment{Network: "vpcnet", ContainerID: id, IfName: "eth0"}
}

// collectStone writes a tombstone for a container and returns how many the agent
// collects. The tombstone is gone afterwards.
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
		t.Errorf("%s is no CNI error: %v", out, err)
	}
	return e.Code
}

// An ADD that waits for a free address while a DEL comes and goes gives up the
// address that it gets in the end.
func TestDelBesideWaitingAdd(t *testing.T) {
	n := newNode(t, ofLayout("flat"))
	w := &waiting{Agent: n.agent, asked: make(chan struct{}), free: make(chan struct{})}
	n.stop()
	n.backend = w
	n.start()
	newSandbox(t, "c1")
	ended := make(chan []byte)
	go func() {
		out, _ := n.run(n.add("c1"))
		ended <- out
	}()
	<-w.asked
	n.must(n.del("c1"))
	close(w.free)
	expect(t, badInput{code: cniplugin.CodeTryAgainLater, text: cniplugin.ReasonAddressLost}, 1, <-ended)
	if calls := n.agent.Calls(); calls["Add"] != 1 || len(n.agent.Held()) > 0 {
		t.Errorf("the agent holds %v after %v", n.agent.Held(), calls)
	}
}

// waiting is an agent without a free address until there is one.
type waiting struct {
	*servertest.Agent
	asked, free chan struct{}
}

func (w *waiting) Add(ctx context.Context, req cniplugin.AddRequest) (cniplugin.AddResponse, error) {
	close(w.asked)
	<-w.free
	return w.Agent.Add(ctx, req)
}

// late is one ADD that goes on when its addresses have a new owner.
type late struct {
	id, owner string
	goOn      func() ([]byte, int)
	// mayEnd is set where it may have ended before the DEL, or begun after it.
	mayEnd bool
	result []byte // of the new owner's ADD
}

// An ADD that was stopped after its allocation, deleted meanwhile, and goes on
// when its addresses have another pod, fails and leaves that pod alone, whether
// that pod is wired by then or not.
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
				l.goOn = func() ([]byte, int) { return p.goOn(t) }
				all = append(all, l)
			}
			n.overtake(t, all, func(i int) bool { return i%2 == 0 })
		})
	}
}

// overtake deletes the attachments of stopped ADDs, gives their addresses to
// others, some of which are wired, lets the ADDs go on, and looks after the new
// owners.
func (n *node) overtake(t *testing.T, all []*late, wired func(i int) bool) {
	t.Helper()
	n.together(all, func(i int, l *late) { // each DEL waits for the lock
		if i%4 == 3 && !l.mayEnd { // instead the agent finds that the sandbox has gone
			if err := n.agent.Del(t.Context(), cniplugin.DelRequest{Attachment: attachment(l.id)}); err != nil {
				t.Error(err)
			}
			return
		}
		del := n.del(l.id)
		if i%4 < 2 {
			del.netns = "" // as containerd's second DEL
		}
		n.must(del)
		for len(n.agent.Held()[attachment(l.id)]) > 0 { // on a busy machine the agent may answer too late
			n.must(del)
		}
	})
	if held := n.agent.Held(); len(held) > 0 {
		t.Fatalf("after DEL the agent has %v", held)
	}
	for i, l := range all {
		if wired(i) {
			l.result = n.must(n.add(l.owner))
		} else if _, err := n.agent.Add(t.Context(), cniplugin.AddRequest{Attachment: attachment(l.owner)}); err != nil {
			t.Fatal(err)
		}
	}
	n.together(all, func(_ int, l *late) {
		out, status := l.goOn()
		_, held := n.agent.Held()[attachment(l.id)]
		_, err := net.InterfaceByName(datapath.Pod{ContainerID: l.id, IfName: "eth0"}.HostLink())
		if wired := err == nil; wired != held || held && status != 0 {
			t.Errorf("late ADD %s: exit status %d, held: %v, wired: %v", l.id, status, held, wired)
		}
		switch {
		case status != 0 && code(t, out) != cniplugin.CodeTryAgainLater, status == 0 && !l.mayEnd:
			t.Errorf("late ADD %s: exit status %d: %s", l.id, status, out)
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

// together calls f for all at once.
func (n *node) together(all []*late, f func(int, *late)) {
	var wg sync.WaitGroup
	for i, l := range all {
		wg.Go(func() { f(i, l) })
	}
	wg.Wait()
}

// The same for an ADD that is stopped before any of its steps: one that had not
// asked for addresses before the DEL may get some afterwards, and one that had
// printed its result ends.
func TestLateAddAtEveryStep(t *testing.T) {
	for _, layout := range []string{"flat", "per-pod"} {
		t.Run(layout, func(t *testing.T) {
			n := newNode(t, ofLayout(layout))
			var all []*late
			const each = 2 // one that will meet a wired owner, and one that will not
			for more := true; more; {
				l := &late{id: fmt.Sprint("late", len(all)), owner: fmt.Sprint("owner", len(all))}
				newSandbox(t, l.id)
				newSandbox(t, l.owner)
				if more = n.hold(t, l, len(all)/each); more {
					all = append(all, l)
				}
			}
			t.Logf("stopped before each of %d steps", len(all)/each)
			n.overtake(t, all, func(i int) bool { return i%each == 0 })
		})
	}
}

// hold starts an ADD and returns when it stands before a step of that number. It
// takes it down again if the ADD has no such step.
func (n *node) hold(t *testing.T, l *late, number int) bool {
	t.Helper()
	reached, goOn, ended := make(chan bool), make(chan struct{}), make(chan traced)
	go func() {
		ended <- n.trace(t, n.add(l.id), func(s step) bool {
			if s.number >= number && !s.locked { // with the lock it keeps every DEL waiting
				number = 1 << 30
				reached <- true
				<-goOn
			}
			return true
		})
	}()
	select {
	case <-reached:
		l.mayEnd = true
		l.goOn = func() ([]byte, int) {
			close(goOn)
			end := <-ended
			return end.stdout, end.status
		}
		return true
	case <-ended:
		n.must(n.del(l.id))
		return false
	}
}

// An address that leads to another pod is not wired, and goes back to the agent.
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
			n.backend = &oddAgent{n.agent, resp}
			n.start()
			out, status := n.run(n.add("c2"))
			expect(t, badInput{code: cniplugin.CodeTryAgainLater, text: cniplugin.ReasonAddressTaken}, status, out)
			if held := n.agent.Held()[attachment("c2")]; held != nil {
				t.Errorf("the agent has not been given back %v", held)
			}
			n.mustCheck("c1", result)
			n.must(n.del("c2"))
			n.mustCheck("c1", result)
			n.must(n.del("c1"))
		})
	}
}
