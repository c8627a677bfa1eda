// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin/server"
	"github.com/vpcnet/vpcnet/cniplugin/servertest"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// contender is one way to connect pods to a network, with its own node.
type contender struct {
	name, program, bin string
	// conf is the network configuration. Programs that are no plugin have none.
	conf     map[string]any
	prefixes []netip.Prefix // of the pods' addresses
	node     *fabric.Netns
	made     int    // the number of pods so far
	before   []*pod // pods that stay
	// syncLog lists the calls of fsync and fdatasync of an agent that strace runs.
	syncLog string
	// traces is the directory of the traces of the program, if it is traced.
	traces string
	// stop ends the agent. sweeps counts its sweeps that have not ended.
	stop    func() error
	sweeps  sync.WaitGroup
	mu      sync.Mutex
	waiting bool    // a sweep has not begun
	errs    []error // of sweeps
}

// newContender returns a contender with a new node.
func newContender(name, program, bin string) (*contender, error) {
	node, err := fabric.CreateNetns("/run/netns/" + name)
	if err != nil {
		return nil, err
	}
	return &contender{name: name, program: filepath.Join(bin, program), bin: bin, node: node, stop: func() error { return nil }}, nil
}

// serve starts an agent for vpc-cni that allocates addresses of a secondary ENI. If
// sweep is true the agent sweeps retired links after DEL.
func (c *contender) serve(ctx context.Context, layout datapath.Layout, sweep bool) error {
	dir := filepath.Join("/run", c.name)
	l, err := server.Listen(dir + "/agent.sock")
	if err != nil {
		return err
	}
	srv := &server.Server{Backend: servertest.New(servertest.Config{
		Prefixes: c.prefixes,
		ENI:      "eni-0a", Device: 1, Layout: layout, MTU: 9001, HostLinkPrefix: "eni",
	})}
	if sweep {
		srv.SweepSoon = func() { c.sweepSoon(ctx) }
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, l) }()
	c.stop = func() error { cancel(); return <-done }
	c.conf = map[string]any{
		"cniVersion": "1.0.0", "name": "vpcnet", "type": "vpc-cni",
		"agentSocket": dir + "/agent.sock", "stateDir": dir + "/state",
	}
	return nil
}

// sweepDelay is the time from a DEL to the sweep, as in ipamd.
const sweepDelay = 15 * time.Millisecond

// sweepSoon starts a sweep after sweepDelay, unless one is about to begin.
func (c *contender) sweepSoon(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting {
		return
	}
	c.waiting = true
	c.sweeps.Go(func() {
		time.Sleep(sweepDelay)
		c.sweep(ctx)
	})
}

// sweep deletes retired links.
func (c *contender) sweep(ctx context.Context) {
	c.mu.Lock()
	c.waiting = false
	c.mu.Unlock()
	h, err := datapath.Open(c.node.Path())
	if err == nil {
		err = h.Sweep(ctx)
		h.Close()
	}
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.errs = append(c.errs, err)
	}
}

// waitSweeps waits for the sweeps of the agent and returns their first error.
func (c *contender) waitSweeps() error {
	c.sweeps.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.errs) > 0 {
		return fmt.Errorf("%s: sweep: %w", c.name, c.errs[0])
	}
	return nil
}

// pod is one pod of a contender.
type pod struct {
	c       *contender
	id      string
	addrs   []netip.Addr
	sandbox *fabric.Netns
	result  json.RawMessage // of ADD
}

func (c *contender) newPod() (*pod, error) {
	c.made++
	p := &pod{c: c, id: fmt.Sprintf("%s-%08d", c.name, c.made)}
	for _, prefix := range c.prefixes {
		p.addrs = append(p.addrs, nth(prefix, c.made))
	}
	var err error
	p.sandbox, err = fabric.CreateNetns("/run/netns/" + p.id)
	return p, err
}

// nth returns address number n of a prefix.
func nth(p netip.Prefix, n int) netip.Addr {
	a := p.Addr().AsSlice()
	for i := len(a) - 1; n > 0; i, n = i-1, n>>8 {
		a[i] = byte(n)
	}
	addr, _ := netip.AddrFromSlice(a)
	return addr
}

// fill adds n pods that stay until close.
func (c *contender) fill(ctx context.Context, n int) error {
	for range n {
		p, err := c.newPod()
		if err != nil {
			return err
		}
		c.before = append(c.before, p)
		if _, err := p.call(ctx, "ADD"); err != nil {
			return err
		}
	}
	return nil
}

// close deletes the pods that stay, and the node.
func (c *contender) close() error {
	var errs []error
	for _, p := range c.before {
		errs = append(errs, p.sandbox.Delete())
	}
	return errors.Join(append(errs, c.node.Delete())...)
}

// join returns addresses with commas between them.
func join(addrs []netip.Addr) string {
	var text []string
	for _, a := range addrs {
		text = append(text, a.String())
	}
	return strings.Join(text, ",")
}

// cost is what one command takes.
type cost struct {
	wall     time.Duration // from exec to exit
	cpu      time.Duration // of the process, in user mode and in the kernel
	faults   int64         // page faults
	switches int64         // of its threads
}

// costOf returns the cost of a process that has ended.
func costOf(wall time.Duration, s *os.ProcessState) cost {
	c := cost{wall: wall, cpu: s.UserTime() + s.SystemTime()}
	if u, ok := s.SysUsage().(*syscall.Rusage); ok {
		c.faults, c.switches = u.Minflt+u.Majflt, u.Nvcsw+u.Nivcsw
	}
	return c
}

// call runs the plugin with a verb as a runtime does.
func (p *pod) call(ctx context.Context, verb string) (took cost, err error) {
	conf := map[string]any{}
	for k, v := range p.c.conf {
		conf[k] = v
	}
	if verb == "DEL" && p.result != nil {
		conf["prevResult"] = p.result
	}
	stdin, err := json.Marshal(conf)
	if err != nil {
		return took, err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, p.c.program)
	cmd.Env = []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + p.id, "CNI_NETNS=" + p.sandbox.Path(),
		"CNI_IFNAME=eth0", "CNI_PATH=" + p.c.bin, "FLOOR_ADDRS=" + join(p.addrs),
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	var start time.Time
	err = p.c.node.Do(func() error {
		start = time.Now()
		return cmd.Start()
	})
	if err == nil {
		err = cmd.Wait()
	}
	if cmd.ProcessState != nil {
		took = costOf(time.Since(start), cmd.ProcessState)
	}
	if err != nil {
		return took, fmt.Errorf("%s %s: %w: %s", verb, p.id, err, strings.TrimSpace(stdout.String()+stderr.String()))
	}
	if verb == "ADD" && stdout.Len() > 0 {
		p.result = stdout.Bytes()
	}
	return took, nil
}
