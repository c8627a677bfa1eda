// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/eni/vpctest"
	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// node is an EC2 instance with its agent and pods.
type node struct {
	*vpctest.Node
	name, zone string
	instance   string // instance ID in EC2
	addr       netip.Addr
	world      *world
	ns         *fabric.Netns
	dir        string // the node's files, which on a real node are below /run, /var and /etc
	pods       []*pod
	agent      *process
}

func (n *node) socket() string       { return filepath.Join(n.dir, "agent.sock") }
func (n *node) statusSocket() string { return filepath.Join(n.dir, "status.sock") }
func (n *node) stateDir() string     { return filepath.Join(n.dir, "state") }
func (n *node) conflist() string     { return filepath.Join(n.dir, "net.d", "10-vpcnet.conflist") }
func (n *node) logFile() string      { return filepath.Join(n.dir, "ipamd.log") }

// enis returns the node's ENIs in EC2, by card and device.
func (n *node) enis() []enitest.ENI { return n.ENIs() }

// link returns the name of an ENI's interface on its node.
func link(e enitest.ENI) string { return vpctest.Link(e) }

// owner returns the ENI that has an address.
func (n *node) owner(a netip.Addr) (enitest.ENI, bool) {
	for _, e := range n.enis() {
		if e.Addr == a || slices.Contains(e.Addrs, a) ||
			slices.ContainsFunc(e.Prefixes, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return e, true
		}
	}
	return enitest.ENI{}, false
}

// process is a running program.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the program has ended
	err  error         // of the program, valid once done is closed
}

// startAgent starts ipamd in the node's network namespace and waits until it
// can serve pods.
func (n *node) startAgent(ctx context.Context) error {
	log, err := os.OpenFile(n.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(n.world.programs, "ipamd"),
		"-layout="+n.world.o.Layout,
		"-socket="+n.socket(), "-status-socket="+n.statusSocket(),
		"-state-dir="+n.stateDir(), "-conflist="+n.conflist(), "-portmap=false",
	)
	cmd.Env = n.world.agentEnv
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that Ctrl-C reaches only the lab
	if err := n.ns.Start(cmd); err != nil {
		return fmt.Errorf("start ipamd on %s: %w", n.name, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	n.agent = p
	return n.waitForAgent(ctx)
}

// agentPatience is how long an agent may take to start.
const agentPatience = 30 * time.Second

// waitForAgent waits until the agent says that it can serve pods and has
// written the CNI configuration.
func (n *node) waitForAgent(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, agentPatience)
	defer cancel()
	client := cniplugin.Client{Socket: n.socket()}
	var last error
	err := poll(ctx, func() (bool, error) {
		select {
		case <-n.agent.done:
			return false, errors.Join(errors.New("the process has ended"), n.agent.err)
		default:
		}
		last = client.Status(ctx)
		if last == nil {
			_, last = os.Stat(n.conflist())
		}
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("ipamd on %s is not ready: %w\n%s", n.name, errors.Join(err, last), tail(n.logFile()))
	}
	return nil
}

// tail returns the end of a log file, for error messages.
func tail(path string) []byte {
	b, _ := os.ReadFile(path) // empty if the file cannot be read
	return b[max(0, len(b)-4000):]
}

// signalAgent sends a signal to the agent and waits for its end.
func (n *node) signalAgent(s os.Signal) error {
	if n.agent == nil {
		return nil
	}
	if err := n.agent.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-n.agent.done:
	case <-time.After(stopTimeout / 2):
		_ = n.agent.cmd.Process.Kill() // an error means that it has just ended
		<-n.agent.done
		if s != syscall.SIGKILL {
			return fmt.Errorf("ipamd on %s did not end within %v of %v", n.name, stopTimeout/2, s)
		}
	}
	n.agent = nil
	return nil
}

// pool asks the agent for its status.
func (n *node) pool(ctx context.Context) (ipamd.Status, error) {
	return ipamd.ReadStatus(ctx, "unix:"+n.statusSocket())
}

// observe reads the node's links, addresses, routes, rules and settings.
func (n *node) observe(ctx context.Context) (netstate.State, error) { return observe(ctx, n.ns) }

func observe(ctx context.Context, ns *fabric.Netns) (netstate.State, error) {
	h, err := datapath.Open(ns.Path())
	if err != nil {
		return netstate.State{}, err
	}
	defer h.Close()
	return h.Observe(ctx)
}

// close ends the agent and removes the pods.
func (n *node) close() error {
	err := n.signalAgent(syscall.SIGTERM)
	for _, p := range n.pods {
		err = errors.Join(err, p.close())
	}
	n.pods = nil
	return errors.Join(err, n.ns.Close())
}

// pollEvery is the pause between two calls of poll's function.
const pollEvery = 20 * time.Millisecond

// poll calls done until it is true, fails, or ctx ends.
func poll(ctx context.Context, done func() (bool, error)) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
