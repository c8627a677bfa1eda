// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/internal/fabric"
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
		"-layout="+w.o.layout, "-socket="+w.socket(), "-introspection-bind-address=unix:"+w.statusSocket(),
		"-state-dir="+w.stateDir(), "-conflist="+w.conflist(), "-cluster-name=crash",
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
	if _, err := s.node(); err != nil {
		return fmt.Errorf("the agent has not observed its ENIs yet: %w", err)
	}
	_, err = os.Stat(w.conflist())
	return err
}

// status is the part of the agent's status that the loop reads.
type status struct {
	Network struct {
		Layout          datapath.Layout `json:"layout"`
		HostLinkPrefix  string          `json:"hostLinkPrefix"`
		ServicePrefixes []netip.Prefix  `json:"servicePrefixes"`
		InUse           []netip.Addr    `json:"inUse"`
	} `json:"network"`
	ENIs []struct {
		ID     string         `json:"id"`
		MAC    string         `json:"mac"`
		Card   int            `json:"card"`
		Device int            `json:"device"`
		Addrs  []netip.Prefix `json:"addrs"`
		Blocks []struct {
			Prefix netip.Prefix `json:"prefix"`
		} `json:"blocks"`
	} `json:"enis"`
	Allocations []struct {
		Addr netip.Addr `json:"addr"`
		Link string     `json:"link"`
	} `json:"allocations"`

	quarantined []netip.Addr
}

// status asks the agent for its status.
func (w *world) status(ctx context.Context) (s status, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", w.statusSocket())
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://ipamd/v1/status", nil)
	if err != nil {
		return s, err
	}
	res, err := client.Do(req)
	if err != nil {
		return s, err
	}
	defer res.Body.Close()
	var raw json.RawMessage
	if err := json.NewDecoder(res.Body).Decode(&raw); err != nil {
		return s, err
	}
	var tree any
	if err := errors.Join(json.Unmarshal(raw, &s), json.Unmarshal(raw, &tree)); err != nil {
		return s, err
	}
	s.quarantined = quarantined(tree, false)
	return s, nil
}

// quarantined returns the addresses below any key that contains "quarantin".
func quarantined(tree any, below bool) (all []netip.Addr) {
	switch x := tree.(type) {
	case map[string]any:
		for key, v := range x {
			all = append(all, quarantined(v, below || strings.Contains(strings.ToLower(key), "quarantin"))...)
		}
	case []any:
		for _, v := range x {
			all = append(all, quarantined(v, below)...)
		}
	case string:
		if a, err := netip.ParseAddr(x); err == nil && below {
			all = append(all, a)
		}
	}
	return all
}

// node returns the node's network as the agent desires it. Its ENIs are sorted by ID,
// as the chains in nftables are.
func (s status) node() (datapath.Node, error) {
	n := datapath.Node{
		Layout: s.Network.Layout, HostLinkPrefix: s.Network.HostLinkPrefix,
		ServicePrefixes: s.Network.ServicePrefixes, InUse: s.Network.InUse,
	}
	for _, e := range s.ENIs {
		mac, err := net.ParseMAC(e.MAC)
		if err != nil {
			return n, fmt.Errorf("status: MAC of %s: %w", e.ID, err)
		}
		x := datapath.ENI{ID: e.ID, MAC: mac, Card: e.Card, Device: e.Device, Addrs: e.Addrs}
		for _, b := range e.Blocks {
			x.Sources = append(x.Sources, b.Prefix)
		}
		n.ENIs = append(n.ENIs, x)
	}
	slices.SortFunc(n.ENIs, func(a, b datapath.ENI) int { return strings.Compare(a.ID, b.ID) })
	return n, nil
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
