// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/vpcnet/vpcnet/internal/isolate"
)

const (
	// programsEnv has the directory of the programs, for the second process.
	programsEnv = "VPCNET_LAB_PROGRAMS"
	// keptEnv marks the processes of a lab that was started with -keep. -rm finds
	// the lab by it.
	keptEnv = "VPCNET_LAB_KEEP=1"
	// stopTimeout is how long a lab may take to stop.
	stopTimeout = 10 * time.Second
)

// launch builds the programs and starts this program again in new namespaces. It
// waits until that process ends or, with -keep, until the lab is complete.
func launch(o options, args []string) (bool, error) {
	began := time.Now()
	if err := isolate.Available(); err != nil {
		return false, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	dir, err := os.MkdirTemp("", "vpcnet-lab-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	p := newPrinter(os.Stdout, os.Stderr, o.JSON)
	if err := findPrograms(ctx, dir, p); err != nil {
		return false, err
	}
	cmd, err := isolate.Command(args...)
	if err != nil {
		return false, err
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(cmd.Env, programsEnv+"="+dir, fmt.Sprintf("%s=%d", startEnv, began.UnixNano()))
	if o.Keep {
		outlive(cmd)
	}
	s, err := startSecond(cmd)
	if err != nil {
		return false, err
	}
	return s.wait(ctx, p)
}

// second is the running second process. It has a pipe in each direction. On one it
// sends a description of a kept lab, and it stops when the other one is closed.
type second struct {
	cmd   *exec.Cmd
	alive io.Closer
	ended chan error
	kept  chan keptLab
}

// keptLab describes a lab that keeps running. The second process sends it.
type keptLab struct {
	OK     bool
	Dir    string // the directory of the nodes' files
	Places []place
}

// place is a network namespace that the user can enter.
type place struct{ Name, Netns string }

func startSecond(cmd *exec.Cmd) (*second, error) {
	keptR, keptW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	aliveR, aliveW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, keptR.Close(), keptW.Close())
	}
	cmd.ExtraFiles = []*os.File{keptW, aliveR}
	s := &second{cmd: cmd, alive: aliveW, ended: make(chan error, 1), kept: make(chan keptLab, 1)}
	started := make(chan error)
	go func() {
		// The thread must stay, because the kernel ends the child with the thread that
		// started it.
		runtime.LockOSThread()
		err := cmd.Start()
		keptW.Close()
		aliveR.Close()
		started <- err
		if err == nil {
			s.ended <- cmd.Wait()
		}
	}()
	go func() {
		defer keptR.Close()
		var lab keptLab
		if json.NewDecoder(keptR).Decode(&lab) == nil {
			s.kept <- lab
		}
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(err, aliveW.Close())
	}
	return s, nil
}

// wait waits until the second process ends or its lab is kept. If ctx ends first, it
// stops the second process.
func (s *second) wait(ctx context.Context, p *printer) (bool, error) {
	select {
	case lab := <-s.kept:
		p.keptLab(lab, s.cmd.Process.Pid)
		return lab.OK, nil
	case err := <-s.ended:
		return s.exited(ctx, err)
	case <-ctx.Done():
	}
	s.alive.Close() // because the signal may not have reached the second process
	select {
	case err := <-s.ended:
		return s.exited(ctx, err)
	case <-time.After(stopTimeout):
		return false, errors.Join(fmt.Errorf("interrupted; the lab did not stop within %v and was killed", stopTimeout), s.cmd.Process.Kill())
	}
}

// exited returns the outcome of the lab for the error of the second process.
func (s *second) exited(ctx context.Context, err error) (bool, error) {
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return false, errors.New("interrupted; everything is removed")
	case err == nil:
		return true, nil
	case errors.As(err, &exit) && exit.ExitCode() == statusFail:
		return false, nil // the second process has printed the reason
	}
	return false, fmt.Errorf("second process of the lab: %w", err)
}

// keptLab prints how to enter and how to remove a kept lab.
func (p *printer) keptLab(lab keptLab, pid int) {
	enter := fmt.Sprintf("nsenter -t %d -m -p", pid)
	if os.Geteuid() != 0 {
		enter = fmt.Sprintf("nsenter -t %d -U --preserve-credentials -m -p", pid)
	}
	var rows [][]string
	for _, at := range lab.Places {
		rows = append(rows, []string{"", at.Name, enter + " nsenter --net=" + at.Netns + " sh"})
	}
	fmt.Fprintf(p.status, "\nThe lab keeps running. To enter a node or a pod:\n\n%s\n", strings.Join(columns(rows), "\n"))
	fmt.Fprintf(p.status, "\nInside, the nodes' files (agent logs, sockets, CNI configurations) are in %s.\n", lab.Dir)
	fmt.Fprintf(p.status, "To remove the lab:\n\n  go run ./examples/lab -rm\n")
}

// first has the second process's ends of the pipes to the first process.
type first struct {
	kept  *os.File
	alive *os.File
}

// pipesToFirst returns the pipes that startSecond has passed to this process.
func pipesToFirst() *first {
	return &first{kept: os.NewFile(3, "kept"), alive: os.NewFile(4, "alive")}
}

// watch calls stop when the first process ends or closes the pipe.
func (f *first) watch(stop func()) {
	_, _ = io.Copy(io.Discard, f.alive) // the first process sends no data
	stop()
}
