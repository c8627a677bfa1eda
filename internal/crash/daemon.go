// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// daemon keeps one process running, as systemd or Kubernetes would: if the process
// ends by itself, daemon starts it again.
type daemon struct {
	command func() (*exec.Cmd, error)
	start   func(*exec.Cmd) error
	onEnd   func(error) // called when the process has ended by itself

	mu        sync.Mutex
	cmd       *exec.Cmd
	done      chan struct{} // closed when cmd has ended
	shouldRun bool
}

// restartPause is the pause before a process that ended by itself is started again.
const restartPause = 500 * time.Millisecond

// run starts the process unless it is running.
func (d *daemon) run() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shouldRun = true
	if d.cmd != nil {
		return nil
	}
	cmd, err := d.command()
	if err != nil {
		return err
	}
	if err := d.start(cmd); err != nil {
		return err
	}
	d.cmd, d.done = cmd, make(chan struct{})
	go d.watch(cmd, d.done)
	return nil
}

func (d *daemon) watch(cmd *exec.Cmd, done chan struct{}) {
	err := cmd.Wait()
	d.mu.Lock()
	unexpected := d.shouldRun
	d.cmd = nil
	d.mu.Unlock()
	close(done)
	if !unexpected {
		return
	}
	d.onEnd(err)
	time.Sleep(restartPause)
	d.mu.Lock()
	restart := d.shouldRun
	d.mu.Unlock()
	if restart {
		_ = d.run() // ignores errors, because the same command has run before
	}
}

// kill ends the process with SIGKILL and waits until it has ended.
func (d *daemon) kill() { d.end(syscall.SIGKILL) }

// end sends a signal, waits for the end of the process, and reports whether that
// took less than 15 s.
func (d *daemon) end(s syscall.Signal) bool {
	d.mu.Lock()
	d.shouldRun = false
	cmd, done := d.cmd, d.done
	d.mu.Unlock()
	if cmd == nil {
		return true
	}
	_ = cmd.Process.Signal(s) // an error means that it has ended
	select {
	case <-done:
		return true
	case <-time.After(15 * time.Second):
		_ = cmd.Process.Kill()
		<-done
		return false
	}
}

// agentCommand returns the command of ipamd, with its files in the world's directory.
func (w *world) agentCommand() (*exec.Cmd, error) {
	log, err := os.OpenFile(w.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(w.o.programs, "ipamd"),
		"-layout="+w.o.layout, "-socket="+w.socket(), "-status-socket="+w.statusSocket(),
		"-state-dir="+w.stateDir(), "-conflist="+w.conflist(), "-portmap=false", "-cluster-name=crash",
		"-ec2-endpoint=http://"+fabric.EC2Addr.String(), fmt.Sprintf("-ip-cooldown-period=%d", int(w.o.node.cooldown.Seconds())),
	)
	cmd.Args = append(cmd.Args, w.o.node.flags...)
	cmd.Env = []string{"AWS_ACCESS_KEY_ID=crash", "AWS_SECRET_ACCESS_KEY=crash", "PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that Ctrl-C reaches only the loop
	return cmd, nil
}

func (w *world) agentEnded(err error) {
	w.recordViolations(violation{agentEnded, fmt.Sprintf("%v: %s", err, w.lastLogged())})
}

// ready returns nil if the agent serves pods and has written the CNI configuration.
func (w *world) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := (cniplugin.Client{Socket: w.socket()}).Status(ctx); err != nil {
		return err
	}
	s, err := w.status(ctx)
	if err != nil {
		return err
	}
	if _, err := s.Node(); err != nil {
		return fmt.Errorf("the agent has not observed its ENIs yet: %w", err)
	}
	_, err = os.Stat(w.conflist())
	return err
}

// status asks the agent for its status.
func (w *world) status(ctx context.Context) (ipamd.Status, error) {
	return ipamd.ReadStatus(ctx, "unix:"+w.statusSocket())
}

// logged returns the end of the agent's log, without the lines about the STATUS
// calls of the loop.
func (w *world) logged(most int) string {
	b, _ := os.ReadFile(w.logFile()) // empty if the file cannot be read
	var lines []byte
	for line := range bytes.Lines(b) {
		if !bytes.Contains(line, []byte(`"call":"/v1/status"`)) {
			lines = append(lines, line...)
		}
	}
	return string(lines[max(0, len(lines)-most):])
}

// lastLogged returns the last line of the agent's log. If the log ends with a panic,
// it returns the first line of the panic.
func (w *world) lastLogged() string {
	last := ""
	for line := range strings.Lines(w.logged(20000)) {
		line = strings.TrimSpace(line)
		panics := strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") || strings.HasPrefix(line, "unexpected fault")
		if panics || strings.HasPrefix(line, "{") {
			last = line
		}
	}
	return last
}
