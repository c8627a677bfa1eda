// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni/vpctest"
	"github.com/vpcnet/vpcnet/internal/isolate"
)

// startEnv tells the second process when the first one began, in nanoseconds of Unix
// time, so that the elapsed time includes the build.
const startEnv = "VPCNET_LAB_START"

// inside is the second process, which runs in new namespaces.
func inside(o options) (bool, error) {
	if err := isolate.Init(); err != nil {
		return false, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := pipesToFirst()
	var kept atomic.Bool
	go f.watch(func() {
		if !kept.Load() {
			cancel()
		}
	})
	programs, err := movePrograms(os.Getenv(programsEnv))
	if err != nil {
		return false, err
	}
	w, err := newWorld(ctx, o, programs)
	if err != nil {
		return false, err
	}
	p := newPrinter(os.Stdout, os.Stderr, o.JSON)
	ok := explore(ctx, w, p, os.Stdout)
	if ctx.Err() != nil {
		return false, w.close() // the first process prints the reason
	}
	if !o.Keep {
		return ok, w.close()
	}
	kept.Store(true)
	if err := waitForRemoval(ctx, w, f, ok); err != nil {
		return false, errors.Join(err, w.close())
	}
	return ok, nil
}

// movePrograms moves the programs to the /run of the lab, so that the kernel removes
// them when the lab ends, however it ends.
func movePrograms(dir string) (string, error) {
	const own = "/run/programs"
	if err := os.Mkdir(own, 0o755); err != nil {
		return "", err
	}
	for _, name := range programs() {
		if err := copyProgram(dir+"/"+name, own+"/"+name); err != nil {
			return "", err
		}
	}
	return own, os.RemoveAll(dir)
}

// explore runs the walk through w, prints its report, and reports whether every check
// succeeded.
func explore(ctx context.Context, w *world, p *printer, jsonOut io.Writer) bool {
	k := newWalk(w, p)
	stopped := k.run(ctx)
	ok := k.report.finish(stopped)
	k.report.EC2Calls = w.cloud.Calls()
	k.report.Nodes = w.describe()
	k.report.ElapsedSeconds = elapsed()
	if stopped != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "lab:", stopped)
	}
	k.summary(ok)
	if w.o.JSON {
		e := json.NewEncoder(jsonOut)
		e.SetIndent("", "  ")
		if err := e.Encode(k.report); err != nil {
			fmt.Fprintln(os.Stderr, "lab:", err)
			return false
		}
	}
	return ok
}

// elapsed returns the time since the start of the first process, in seconds.
func elapsed() float64 {
	var start int64
	if _, err := fmt.Sscan(os.Getenv(startEnv), &start); err != nil {
		return 0
	}
	return math.Round(time.Since(time.Unix(0, start)).Seconds()*1000) / 1000
}

// describe returns the nodes as -json prints them.
func (w *world) describe() []nodeReport {
	nodes := make([]nodeReport, 0, len(w.nodes))
	for _, n := range w.nodes {
		r := nodeReport{Name: n.name, InstanceType: w.o.InstanceType, ENIs: []eniReport{}, Pods: []podReport{}}
		for _, e := range n.enis() {
			er := eniReport{
				ID: e.ID, MAC: e.MAC, Device: e.Attachment.Device, Primary: e.Attachment.Device == 0,
				Table: datapath.Table(e.Attachment.Card, e.Attachment.Device), Addresses: []string{e.Addr.String()},
			}
			for _, a := range e.Addrs {
				er.Addresses = append(er.Addresses, a.String())
			}
			for _, p := range e.Prefixes {
				er.Addresses = append(er.Addresses, p.String())
			}
			r.ENIs = append(r.ENIs, er)
		}
		for _, p := range n.pods {
			r.Pods = append(r.Pods, podReport{Name: p.name, IP: p.addr.String(), ENI: p.eni, Node: n.name, IfName: ifName})
		}
		nodes = append(nodes, r)
	}
	return nodes
}

// summary prints all checks in one table, at the end of the walk.
func (k *walk) summary(ok bool) {
	k.p.section("Summary")
	var rows [][]string
	succeeded := 0
	for _, c := range k.report.Checks {
		mark := k.p.style(red, "FAIL")
		if c.OK {
			mark = k.p.style(green, "ok  ")
			succeeded++
		}
		rows = append(rows, []string{"", mark, c.Name})
	}
	fmt.Fprintln(k.p.out)
	k.p.block(columns(rows))
	last := fmt.Sprintf("%d of %d checks succeeded", succeeded, len(k.report.Checks))
	if !ok && succeeded == len(k.report.Checks) {
		last += ", but the lab ended early"
	}
	k.p.text("%s; layout %s, %d nodes, %d pods, %d EC2 calls, %.1f s.", last, k.o.Layout, len(k.nodes), len(k.pods()), total(k.report.EC2Calls), k.report.ElapsedSeconds)
}

// waitForRemoval tells the first process that the lab is kept, and waits until the
// lab is ended.
func waitForRemoval(ctx context.Context, w *world, f *first, ok bool) error {
	lab := keptLab{OK: ok, Dir: w.dir}
	for _, n := range w.nodes {
		lab.Places = append(lab.Places, place{n.name, n.ns.Path()})
		for _, p := range n.pods {
			lab.Places = append(lab.Places, place{p.name, p.ns.Path()})
		}
	}
	for _, h := range []*vpctest.Host{w.vpc.Internet(), w.vpc.Router()} {
		lab.Places = append(lab.Places, place{h.Name(), h.Path()})
	}
	if err := detach(); err != nil {
		return err
	}
	if err := json.NewEncoder(f.kept).Encode(lab); err != nil {
		return err
	}
	<-ctx.Done()
	return w.close()
}
