// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/fabric/ec2fabric"
	"github.com/vpcnet/vpcnet/snat"
)

// world is a VPC with one node.
type world struct {
	o        options
	began    time.Time
	dir      string // directory of the node's files
	cloud    *enitest.Cloud
	net      *fabric.Fabric
	follower *ec2fabric.Follower
	instance string
	addr     netip.Addr // primary address of the node
	ns       *fabric.Netns
	kernel   *datapath.Handle
	nat      *snat.Handle
	agent    *daemon
	tally    *tally
	events   *events

	// repairing is odd while the node's network waits for a repair.
	repairing atomic.Int64

	mu         sync.Mutex
	pods       map[string]*pod      // by name
	ended      map[string]time.Time // end of deleted pods, by host link
	idle       map[string]time.Time // first observation of detached ENIs, by ID
	violations []violation
	// onViolation is called after a violation is recorded. Optional.
	onViolation func()
}

const (
	region   = "us-east-1"
	nodeName = "node-1"
)

var (
	vpcPrefix    = netip.MustParsePrefix("10.0.0.0/16")
	subnetPrefix = netip.MustParsePrefix("10.0.0.0/22")
)

// delays are much shorter than those of EC2.
var delays = enitest.Delays{Attach: 200 * time.Millisecond, Detach: 200 * time.Millisecond, Call: 10 * time.Millisecond}

// newWorld builds the VPC and starts the agent. The caller must close the world.
func newWorld(ctx context.Context, o options, t *tally) (*world, error) {
	dir, err := os.MkdirTemp("/run", "crash-")
	if err != nil {
		return nil, err
	}
	w := &world{
		o: o, began: time.Now(), dir: dir, tally: t, events: &events{began: time.Now()},
		pods: map[string]*pod{}, ended: map[string]time.Time{}, idle: map[string]time.Time{},
	}
	if err := w.build(ctx); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *world) build(ctx context.Context) error {
	w.cloud = enitest.New(enitest.Config{Region: region, Delays: delays})
	var err error
	if w.net, err = fabric.New(ctx, fabric.Config{VPC: []netip.Prefix{vpcPrefix}}); err != nil {
		return err
	}
	if w.follower, err = ec2fabric.Follow(w.net, w.cloud); err != nil {
		return err
	}
	w.cloud.OnChange(w.watchEC2)
	vpc, err := w.cloud.AddVPC(enitest.VPCInput{Prefixes: []netip.Prefix{vpcPrefix}})
	if err != nil {
		return err
	}
	subnet, err := w.cloud.AddSubnet(enitest.SubnetInput{VPC: vpc.ID, Zone: region + "a", Prefix: subnetPrefix, MapPublic: true})
	if err != nil {
		return err
	}
	// The peer network sends requests to the pods.
	all := enitest.GroupRule{Protocol: "-1", From: -1, To: -1, Prefix: netip.MustParsePrefix("0.0.0.0/0")}
	if err := w.cloud.AddGroupRules(w.cloud.SecurityGroups()[0].ID, all); err != nil {
		return err
	}
	i, err := w.cloud.RunInstance(enitest.InstanceInput{Subnet: subnet.ID, Type: w.o.node.instanceType, Tags: map[string]string{"Name": nodeName}})
	if err != nil {
		return err
	}
	w.instance = i.ID
	if err := w.net.Boot(ctx, nodeName); err != nil {
		return err
	}
	w.ns = w.net.Instance(nodeName)
	for _, e := range w.cloud.ENIs() {
		w.addr = e.Addr // the primary ENI is the only one at this time
	}
	if w.kernel, err = datapath.Open(w.ns.Path()); err != nil {
		return err
	}
	if w.nat, err = snat.Open(w.ns.Path()); err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(w.stateDir(), 0o700), os.MkdirAll(w.copiesDir(), 0o700)); err != nil {
		return err
	}
	w.agent = &daemon{command: w.agentCommand, start: w.ns.Start, onEnd: w.agentEnded}
	if err := w.agent.run(); err != nil {
		return err
	}
	return w.follower.Err()
}

func (w *world) socket() string       { return filepath.Join(w.dir, "agent.sock") }
func (w *world) statusSocket() string { return filepath.Join(w.dir, "status.sock") }
func (w *world) stateDir() string     { return filepath.Join(w.dir, "state") }
func (w *world) copiesDir() string    { return filepath.Join(w.dir, "copies") }
func (w *world) conflist() string     { return filepath.Join(w.dir, "net.d", "10-vpcnet.conflist") }
func (w *world) logFile() string      { return filepath.Join(w.dir, "ipamd.log") }

// close ends every process and removes every namespace and file.
func (w *world) close() error {
	var err error
	if w.agent != nil {
		w.agent.kill()
	}
	w.mu.Lock()
	pods := w.pods
	w.pods = nil
	w.mu.Unlock()
	for _, p := range pods {
		err = errors.Join(err, p.remove())
	}
	if w.kernel != nil {
		err = errors.Join(err, w.kernel.Close())
	}
	if w.nat != nil {
		err = errors.Join(err, w.nat.Close())
	}
	if w.net != nil {
		err = errors.Join(err, w.net.Close())
	}
	return errors.Join(err, os.RemoveAll(w.dir))
}

// recordViolations records violations that occur during the faults.
func (w *world) recordViolations(all ...violation) {
	if len(all) == 0 {
		return
	}
	for _, v := range all {
		w.events.add("VIOLATION %s", v)
	}
	w.mu.Lock()
	w.violations = append(w.violations, all...)
	call := w.onViolation
	w.mu.Unlock()
	if call != nil {
		call()
	}
}

// hasViolations reports whether violations are recorded.
func (w *world) hasViolations() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.violations) > 0
}

// takeViolations returns the recorded violations and removes them.
func (w *world) takeViolations() []violation {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.violations
	w.violations = nil
	return all
}

// watchEC2 records a violation if a change in EC2 takes an address from a running pod.
func (w *world) watchEC2(e enitest.Event) {
	var taken []netip.Prefix
	switch {
	case e.Op == enitest.Unassigned:
		taken = e.Changed
	case e.Op == enitest.Detached && e.Instance == w.instance:
		taken = blocks(e.ENI)
	}
	w.recordViolations(takenFrom(w.running(), taken, fmt.Sprintf("%s is %s in EC2", e.ENI.ID, e.Op))...)
}

func blocks(e enitest.ENI) []netip.Prefix {
	all := append([]netip.Prefix(nil), e.Prefixes...)
	for _, a := range e.Addrs {
		all = append(all, netip.PrefixFrom(a, a.BitLen()))
	}
	return all
}

// running returns the running pods of the runtime.
func (w *world) running() []podState {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []podState
	for _, p := range w.pods {
		if p.running {
			all = append(all, podState{Name: p.name, Addr: p.addr, Link: p.link})
		}
	}
	return all
}

// events stores the latest events, which are printed after a violation.
type events struct {
	began time.Time

	mu   sync.Mutex
	last []string
}

const maxEvents = 150

func (e *events) add(format string, args ...any) {
	line := fmt.Sprintf("%8.3fs  ", time.Since(e.began).Seconds()) + fmt.Sprintf(format, args...)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last = append(e.last[max(0, len(e.last)-maxEvents+1):], line)
}

func (e *events) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.last, "\n")
}
