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
	// programsEnv tells the second process where the programs are.
	programsEnv = "VPCNET_LAB_PROGRAMS"
	// keptEnv marks the first process of a lab that -keep may leave running;
	// -rm finds it by this.
	keptEnv = "VPCNET_LAB_KEEP=1"
	// patience is how long a lab that was told to stop may take.
	patience = 10 * time.Second
)

// launch builds what the lab runs, starts this program again in namespaces of
// its own, and waits for it to end or, with -keep, to stand.
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

// second is the running second process. A pipe in each direction joins it to
// the first: by one it says that a kept lab stands, and when the other closes
// it stops.
type second struct {
	cmd    *exec.Cmd
	alive  io.Closer
	ended  chan error
	stands chan standing
}

// standing is what the second process says of a kept lab.
type standing struct {
	OK     bool
	Dir    string // of the nodes' files
	Places []place
}

// place is a network namespace that a person can enter.
type place struct{ Name, Netns string }

func startSecond(cmd *exec.Cmd) (*second, error) {
	standR, standW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	aliveR, aliveW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, standR.Close(), standW.Close())
	}
	cmd.ExtraFiles = []*os.File{standW, aliveR}
	s := &second{cmd: cmd, alive: aliveW, ended: make(chan error, 1), stands: make(chan standing, 1)}
	started := make(chan error)
	go func() {
		// The kernel ends the child with the thread that started it.
		runtime.LockOSThread()
		err := cmd.Start()
		standW.Close()
		aliveR.Close()
		started <- err
		if err == nil {
			s.ended <- cmd.Wait()
		}
	}()
	go func() {
		defer standR.Close()
		var it standing
		if json.NewDecoder(standR).Decode(&it) == nil {
			s.stands <- it
		}
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(err, aliveW.Close())
	}
	return s, nil
}

// wait returns when the second process has ended, stands, or had to be ended
// because ctx is over.
func (s *second) wait(ctx context.Context, p *printer) (bool, error) {
	select {
	case it := <-s.stands:
		p.standing(it, s.cmd.Process.Pid)
		return it.OK, nil
	case err := <-s.ended:
		return s.exited(ctx, err)
	case <-ctx.Done():
	}
	s.alive.Close() // a signal may not have reached it
	select {
	case err := <-s.ended:
		return s.exited(ctx, err)
	case <-time.After(patience):
		return false, errors.Join(fmt.Errorf("interrupted; the lab did not stop within %v and was killed", patience), s.cmd.Process.Kill())
	}
}

// exited makes an outcome of how the second process ended.
func (s *second) exited(ctx context.Context, err error) (bool, error) {
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return false, errors.New("interrupted; everything is removed")
	case err == nil:
		return true, nil
	case errors.As(err, &exit) && exit.ExitCode() == statusFail:
		return false, nil // it has said why
	}
	return false, fmt.Errorf("the lab's process: %w", err)
}

// standing prints how to enter and how to remove a lab that stays.
func (p *printer) standing(it standing, pid int) {
	enter := fmt.Sprintf("nsenter -t %d -m -p", pid)
	if os.Geteuid() != 0 {
		enter = fmt.Sprintf("nsenter -t %d -U --preserve-credentials -m -p", pid)
	}
	var rows [][]string
	for _, at := range it.Places {
		rows = append(rows, []string{"", at.Name, enter + " nsenter --net=" + at.Netns + " sh"})
	}
	fmt.Fprintf(p.status, "\nThe lab stays. To enter a node or a pod:\n\n%s\n", strings.Join(columns(rows), "\n"))
	fmt.Fprintf(p.status, "\nThe nodes' files (agent logs, sockets, CNI configurations) are in %s there.\n", it.Dir)
	fmt.Fprintf(p.status, "To remove the lab:\n\n  go run ./examples/lab -rm\n")
}

// first is the second process's end of the pipes to the first.
type first struct {
	stand *os.File
	alive *os.File
}

// toFirst returns the pipes that startSecond handed over.
func toFirst() *first {
	return &first{stand: os.NewFile(3, "stand"), alive: os.NewFile(4, "alive")}
}

// watch calls stop when the first process goes away or closes the pipe.
func (f *first) watch(stop func()) {
	_, _ = io.Copy(io.Discard, f.alive) // nothing ever comes but the end
	stop()
}
