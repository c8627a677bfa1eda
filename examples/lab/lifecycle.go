// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/snat"
)

// agentAway is how long traffic runs before the agent is killed, while it is dead,
// and after its restart.
const agentAway = 300 * time.Millisecond

// checkRestart kills and restarts the first node's agent while its pods send
// traffic.
func (k *walk) checkRestart(ctx context.Context) error {
	n := k.nodes[0]
	k.p.section("The agent is killed")
	k.p.text(`The agent does not forward packets, so none may be lost when it ends. Traffic flows between pods of one node, across
		nodes and to the internet, one datagram every %v each, while the agent of %s gets SIGKILL and is started
		again. The new agent reads its journal, asks EC2 and the kernel, and continues.`, streamEvery, n.name)
	before := addresses(n.pods)
	pid := n.agent.cmd.Process.Pid
	streams, err := k.openStreams(ctx)
	if err != nil {
		return err
	}
	done := k.p.progress("killing and restarting ipamd on %s", n.name)
	restarted, err := k.restartUnderLoad(ctx, streams)
	if err != nil {
		done("failed")
		return err
	}
	done("ready again")
	var failed error
	var rows [][]string
	sent := 0
	for _, s := range streams {
		rows = append(rows, []string{s.name, fmt.Sprintf("%d sent", s.sent), fmt.Sprintf("%d lost", s.lost())})
		sent += s.sent
		if s.lost() > 0 || s.sent == 0 {
			failed = errors.Join(failed, fmt.Errorf("%s: %d of %d datagrams lost", s.name, s.lost(), s.sent))
		}
	}
	k.p.block(append([]string{""}, columns(rows)...))
	k.p.text(`Process %d was replaced by %d, which was ready %v after its start.`, pid, n.agent.cmd.Process.Pid, restarted.Round(time.Millisecond))
	next, err := n.addPod(ctx)
	if err != nil {
		failed = errors.Join(failed, fmt.Errorf("after the restart: %w", err))
	} else if slices.Contains(before, next.addr) {
		failed = errors.Join(failed, fmt.Errorf("after the restart the next pod got %v, which another pod has", next.addr))
	}
	pool, err := n.pool(ctx)
	if err != nil {
		return err
	}
	var held []netip.Addr
	for _, a := range pool.Allocations {
		held = append(held, a.Addr)
	}
	for _, a := range before {
		if !slices.Contains(held, a) {
			failed = errors.Join(failed, fmt.Errorf("after the restart the agent does not know %v", a))
		}
	}
	detail := fmt.Sprintf("SIGKILL with %d pods: none of %d datagrams lost, all %d addresses kept", len(before), sent, len(before))
	if next != nil {
		detail += fmt.Sprintf(", the next pod got %v", next.addr)
	}
	k.check("agent-restart-keeps-pods", detail, failed)
	return nil
}

// openStreams opens steady traffic between two pods of the first node, from its
// last pod to another node, and from its first pod to the internet.
func (k *walk) openStreams(ctx context.Context) ([]*stream, error) {
	n := k.nodes[0]
	first, last, other := n.pods[0], n.pods[len(n.pods)-1], k.nodes[1].pods[0]
	var streams []*stream
	for _, s := range []struct {
		from *pod
		name string
		to   netip.AddrPort
	}{
		{first, last.name, last.echo()},
		{last, other.name, other.echo()},
		{other, last.name, last.echo()},
		{first, "the internet", netip.AddrPortFrom(fabric.InternetAddr, fabric.EchoPort)},
	} {
		stream, err := startStream(ctx, s.from.name+" -> "+s.name, s.from.ns, s.to)
		if err != nil {
			return nil, err
		}
		streams = append(streams, stream)
	}
	return streams, nil
}

// restartUnderLoad kills and restarts the first node's agent while the streams
// run. It returns the time from the start of the new agent until it is ready.
func (k *walk) restartUnderLoad(ctx context.Context, streams []*stream) (time.Duration, error) {
	n := k.nodes[0]
	flow, stop := context.WithCancel(ctx)
	defer stop()
	var g errgroup.Group
	for _, s := range streams {
		g.Go(func() error { return s.run(flow) })
	}
	pause := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	var took time.Duration
	err := func() error {
		pause(agentAway)
		if err := n.signalAgent(syscall.SIGKILL); err != nil {
			return err
		}
		pause(agentAway)
		start := time.Now()
		if err := n.startAgent(ctx); err != nil {
			return err
		}
		took = time.Since(start)
		pause(agentAway)
		return ctx.Err()
	}()
	stop()
	return took, errors.Join(err, g.Wait())
}

func addresses(pods []*pod) []netip.Addr {
	var list []netip.Addr
	for _, p := range pods {
		list = append(list, p.addr)
	}
	return list
}

// snapshot describes all state of a node that a pod can change, one item a line.
type snapshot []string

// snapshot reads the node's links, addresses, neighbours, routes, rules,
// settings and nftables elements, its pool, and the files that the plugin
// writes.
func (n *node) snapshot(ctx context.Context) (snapshot, error) {
	state, err := n.observe(ctx)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(state.String(), "\n")
	out, err := snat.Open(n.ns.Path())
	if err != nil {
		return nil, err
	}
	defer out.Close()
	rules, err := out.Observe(ctx)
	if err != nil {
		return nil, err
	}
	lines = append(lines, strings.Split(rules.String(), "\n")...)
	pool, err := n.pool(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range pool.ENIs {
		for _, b := range e.Blocks {
			lines = append(lines, fmt.Sprintf("pool: %s of %s: %d used, %d cooling, %d free", b.Prefix, e.ID, b.Used, b.Cooling, b.Free))
		}
	}
	for _, a := range pool.Allocations {
		lines = append(lines, fmt.Sprintf("pool: %s is allocated", a.Addr))
	}
	files, err := filesBelow(n.dir, "cni-cache", "state/tombstones")
	return append(lines, files...), err
}

// filesBelow lists the files below some directories of dir.
func filesBelow(dir string, names ...string) ([]string, error) {
	var lines []string
	for _, name := range names {
		var walk func(path string) error
		walk = func(path string) error {
			entries, err := os.ReadDir(path)
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			for _, e := range entries {
				if e.IsDir() {
					err = errors.Join(err, walk(path+"/"+e.Name()))
					continue
				}
				lines = append(lines, "file: "+strings.TrimPrefix(path, dir+"/")+"/"+e.Name())
			}
			return err
		}
		if err := walk(dir + "/" + name); err != nil {
			return nil, err
		}
	}
	return lines, nil
}

// minus returns the lines of s that are not in o.
func (s snapshot) minus(o snapshot) []string {
	var lines []string
	for _, line := range s {
		if !slices.Contains(o, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// checkDelete adds a pod to each node, deletes it, and compares the state of the node
// before and after.
func (k *walk) checkDelete(ctx context.Context) error {
	k.p.section("A pod ends")
	k.p.text(`Each node gets one more pod, which sends some packets and is deleted again. After the cooldown of its address, %v, the
		state of the node must be as before: links, addresses, neighbours, routes, rules, settings, nftables elements,
		the agent's pool, and the plugin's files.`, cooldown)
	done := k.p.progress("adding and deleting pods")
	added := make([][]string, len(k.nodes))
	compared, failed := make([]int, len(k.nodes)), make([]error, len(k.nodes))
	var g errgroup.Group
	for i, n := range k.nodes {
		g.Go(func() (err error) {
			if added[i], compared[i], err = k.addAndDelete(ctx, n); err != nil {
				failed[i] = fmt.Errorf("%s: %w", n.name, err)
			}
			return nil
		})
	}
	err := g.Wait()
	done("")
	if ctx.Err() != nil {
		return ctx.Err()
	}
	k.p.text("The pod had added on %s:", k.nodes[0].name)
	k.p.block(added[0])
	lines := 0
	for _, n := range compared {
		lines += n
	}
	k.check("delete-leaves-nothing", fmt.Sprintf("after DEL the state of each of %d nodes is as before ADD, %d lines compared", len(k.nodes), lines), errors.Join(append(failed, err)...))
	return nil
}

// addAndDelete adds and deletes a pod. It returns the lines that the pod added to the
// node, and the number of lines that were compared afterwards.
func (k *walk) addAndDelete(ctx context.Context, n *node) (added []string, compared int, err error) {
	before, err := k.idleSnapshot(ctx, n)
	if err != nil {
		return nil, 0, err
	}
	p, err := n.addPod(ctx)
	if err != nil {
		return nil, 0, err
	}
	if err := ping(ctx, p.ns, fabric.InternetAddr); err != nil {
		return nil, 0, err
	}
	during, err := n.snapshot(ctx)
	if err != nil {
		return nil, 0, err
	}
	added = during.minus(before)
	if len(added) == 0 {
		return nil, 0, errors.New("the pod added nothing to the node, so the check shows nothing")
	}
	if err := p.delete(ctx); err != nil {
		return added, 0, err
	}
	if err := p.repeatDelete(ctx); err != nil {
		return added, 0, fmt.Errorf("repeated DEL: %w", err)
	}
	waited, cancel := context.WithTimeout(ctx, k.patience)
	defer cancel()
	var after snapshot
	err = poll(waited, func() (bool, error) {
		after, err = k.idleSnapshot(ctx, n)
		return slices.Equal(before, after), err
	})
	if left, missing := after.minus(before), before.minus(after); err != nil && len(left)+len(missing) > 0 {
		err = fmt.Errorf("left over: %q; missing: %q", left, missing)
	}
	return added, len(after), err
}

// repeatDelete runs another DEL, without a sandbox.
func (p *pod) repeatDelete(ctx context.Context) error {
	list, rt, err := p.config()
	if err != nil {
		return err
	}
	rt.NetNS = ""
	return p.node.ns.Do(func() error { return p.cni().DelNetworkList(ctx, list, rt) })
}

// idleSnapshot waits until no address of the node is cooling and no call to EC2 is
// running, and then takes a snapshot.
func (k *walk) idleSnapshot(ctx context.Context, n *node) (snapshot, error) {
	waited, cancel := context.WithTimeout(ctx, k.patience)
	defer cancel()
	err := poll(waited, func() (bool, error) {
		s, err := n.pool(waited)
		if err != nil {
			return false, err
		}
		cooling := 0
		for _, e := range s.ENIs {
			for _, b := range e.Blocks {
				cooling += b.Cooling
			}
		}
		return cooling == 0 && len(s.InFlight) == 0, nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s has cooling addresses or running EC2 calls after %v: %w", n.name, k.patience, err)
	}
	return n.snapshot(ctx)
}
