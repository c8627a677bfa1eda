// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	cniversion "github.com/containernetworking/cni/pkg/version"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// pod is a sandbox with the interface that ADD made.
type pod struct {
	w         *world
	name      string
	container string
	ns        *fabric.Netns
	link      string // the name of its host link
	addr      netip.Addr
	stopEcho  func()
	// running means that ADD has succeeded and DEL has not begun. The world's mutex
	// guards running and addr.
	running bool
}

const ifName = "eth0"

// newPod creates a sandbox.
func (w *world) newPod(name string, rng *rand.Rand) (*pod, error) {
	id := make([]byte, 32)
	for i := range id {
		id[i] = byte(rng.Uint32())
	}
	p := &pod{w: w, name: name, container: hex.EncodeToString(id)}
	p.link = datapath.HostLinkName(datapath.DefaultHostLinkPrefix, p.container, ifName)
	var err error
	if p.ns, err = fabric.CreateNetns(filepath.Join("/run/netns", name)); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pods[name] = p
	return p, nil
}

// remove deletes the sandbox without a DEL.
func (p *pod) remove() error {
	p.markEnded()
	if p.stopEcho != nil {
		p.stopEcho()
		p.stopEcho = nil
	}
	err := p.ns.Delete()
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	delete(p.w.pods, p.name)
	p.w.ended[p.link] = time.Now()
	return err
}

// markEnded records that the pod no longer runs.
func (p *pod) markEnded() {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.running = false
}

// add runs ADD. If it succeeds, the pod runs.
func (p *pod) add(ctx context.Context, h *hazard) error {
	var res types.Result
	err := p.cni(h, func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) (err error) {
		res, err = cni.AddNetworkList(ctx, list, rt)
		return err
	})
	if err != nil {
		return err
	}
	r, err := types100.NewResultFromResult(res)
	if err != nil {
		return err
	}
	if len(r.IPs) == 0 {
		return errors.New("the result has no address")
	}
	addr, _ := netip.AddrFromSlice(r.IPs[0].Address.IP)
	return p.start(ctx, addr.Unmap())
}

// addAbandoned runs ADD for a runtime that has given up the pod, and ignores the
// result.
func (p *pod) addAbandoned(ctx context.Context, h *hazard) error {
	return p.cni(h, func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
		_, err := cni.AddNetworkList(ctx, list, rt)
		return err
	})
}

// start starts the pod's server, which answers at [fabric.EchoPort], and records that
// the pod runs. It records a violation if the pod may not have its address.
func (p *pod) start(ctx context.Context, addr netip.Addr) (err error) {
	if p.stopEcho, err = p.ns.Echo(ctx, netip.AddrPortFrom(netip.IPv4Unspecified(), fabric.EchoPort)); err != nil {
		return err
	}
	got := podState{Name: p.name, Addr: addr, Link: p.link}
	found := givenTwice(p.w.running(), got)
	p.w.mu.Lock()
	p.addr, p.running = addr, true
	p.w.mu.Unlock()
	// The address may have been unassigned before the pod counted as running.
	found = append(found, (observation{Instance: p.w.instance, Pods: []podState{got}, ENIs: p.w.enis()}).released()...)
	p.w.recordViolations(found...)
	return nil
}

// del runs DEL.
func (p *pod) del(ctx context.Context, h *hazard) error {
	p.markEnded()
	return p.cni(h, func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
		return cni.DelNetworkList(ctx, list, rt)
	})
}

// check runs CHECK.
func (p *pod) check(ctx context.Context) error {
	return p.cni(nil, func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
		return cni.CheckNetworkList(ctx, list, rt)
	})
}

func (p *pod) cni(h *hazard, do func(*libcni.CNIConfig, *libcni.NetworkConfigList, *libcni.RuntimeConf) error) error {
	list, err := libcni.ConfListFromFile(p.w.conflist())
	if err != nil {
		return err
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{p.w.o.programs}, filepath.Join(p.w.dir, "cni-cache"), runner{&cniversion.PluginDecoder{}, p.w.ns, h})
	return do(cni, list, &libcni.RuntimeConf{
		ContainerID: p.container, NetNS: p.ns.Path(), IfName: ifName,
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "crash"}, {"K8S_POD_NAME", p.name}},
	})
}

// hazard is a signal that a plugin's process gets. A nil hazard means none.
type hazard struct {
	after  time.Duration
	signal syscall.Signal // SIGKILL or SIGSTOP
	// stopped is closed when the process has stopped, or has ended before that. The
	// process is resumed when resume is closed.
	stopped, resume chan struct{}
}

// runner executes plugins in the node's network namespace. It is an [invoke.Exec].
type runner struct {
	*cniversion.PluginDecoder
	ns     *fabric.Netns
	hazard *hazard
}

var _ invoke.Exec = runner{}

// FindInPath implements [invoke.Exec].
func (r runner) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

// errKilled means that the plugin's process was killed.
var errKilled = errors.New("the plugin was killed")

// ExecPlugin implements [invoke.Exec].
func (r runner) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environ, bytes.NewReader(stdin), &out, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := r.ns.Start(cmd); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	injected := r.hazard.inject(cmd, ended)
	err := cmd.Wait()
	close(ended)
	killed := <-injected
	switch {
	case err == nil:
		return out.Bytes(), nil
	case killed:
		return nil, errKilled
	}
	var answer types.Error
	if jsonErr := json.Unmarshal(out.Bytes(), &answer); jsonErr != nil {
		return nil, fmt.Errorf("%w: %s%s", err, out.Bytes(), stderr.Bytes())
	}
	return nil, &answer
}

// inject sends the signal to the process. After the process has ended, the channel
// gets whether the signal killed it.
func (h *hazard) inject(cmd *exec.Cmd, ended chan struct{}) <-chan bool {
	killed := make(chan bool, 1)
	if h == nil {
		killed <- false
		return killed
	}
	go func() {
		select {
		case <-time.After(h.after):
			_ = cmd.Process.Signal(h.signal) // an error means that it has ended
		case <-ended:
		}
		if h.signal == syscall.SIGSTOP {
			close(h.stopped)
			<-h.resume
			_ = cmd.Process.Signal(syscall.SIGCONT)
		}
		<-ended
		killed <- cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() && h.signal == syscall.SIGKILL
	}()
	return killed
}

// reason returns the reason at the beginning of a CNI error, or its code if it has no
// reason. For other errors it returns the beginning of their text.
func reason(err error) string {
	if errors.Is(err, errKilled) {
		return "killed"
	}
	e := (*types.Error)(nil)
	if !errors.As(err, &e) {
		text := err.Error()
		return "other: " + text[:min(len(text), 60)]
	}
	word, _, found := strings.Cut(e.Msg, ": ")
	if found && !strings.ContainsAny(word, " \"") {
		return word
	}
	return fmt.Sprintf("code %d", e.Code)
}
