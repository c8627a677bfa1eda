// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/internal/filedamage"
	"github.com/vpcnet/vpcnet/ipam"
)

// add returns the event of the i-th ADD.
func add(i int) ipam.Event {
	return ipam.Event{
		Kind: ipam.EventAllocated, At: time.Unix(1_700_000_000+int64(i), 0).UTC(),
		Attachment: ipam.Attachment{Network: "vpcnet", ContainerID: fmt.Sprintf("%064x", i), IfName: "eth0"},
		Addrs:      []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})},
		Pod:        ipam.PodRef{Namespace: "default", Name: fmt.Sprintf("web-6d5f8c9b7-%05d", i)},
		Netns:      fmt.Sprintf("/var/run/netns/cni-%08x-1111-2222-3333-444444444444", i),
	}
}

// fill creates a directory with the journal of n pods, and returns it with the events
// of the journal. The caller must remove the directory, also after an error.
func fill(c contender, s settings, n int) (dir string, events []ipam.Event, err error) {
	if dir, err = os.MkdirTemp(s.dir, "journal-"); err != nil {
		return "", nil, err
	}
	j, err := c.open(dir)
	if err != nil {
		return dir, nil, err
	}
	for i := range n {
		e := add(i)
		events = append(events, e)
		if err := j.Append([]ipam.Event{e}); err != nil {
			return dir, nil, err
		}
	}
	return dir, events, j.Close()
}

// appends returns the median time of an append to a journal of 100 pods.
func appends(ctx context.Context, c contender, s settings, disk time.Duration) (time.Duration, error) {
	dir, _, err := fill(c, s, 100)
	defer os.RemoveAll(dir)
	if err != nil {
		return 0, err
	}
	j, err := c.open(dir)
	if err != nil {
		return 0, err
	}
	n := s.appends
	if disk > 0 && c.syncs > 0 {
		n = min(n, 200)
	}
	took := make([]time.Duration, 0, n)
	for i := range n {
		e := []ipam.Event{add(100 + i)}
		start := time.Now()
		if err := j.Append(e); err != nil {
			return 0, errors.Join(err, j.Close())
		}
		for range c.syncs {
			sleep(disk)
		}
		took = append(took, time.Since(start))
		if ctx.Err() != nil {
			return 0, errors.Join(ctx.Err(), j.Close())
		}
	}
	return median(took), j.Close()
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2].Round(100 * time.Nanosecond)
}

// restart returns the median time of opening and loading a journal.
func restart(c contender, s settings) (time.Duration, error) {
	dir, want, err := fill(c, s, s.pods)
	defer os.RemoveAll(dir)
	if err != nil {
		return 0, err
	}
	var took []time.Duration
	for range 21 {
		start := time.Now()
		j, err := c.open(dir)
		if err != nil {
			return 0, err
		}
		events, err := j.Load()
		took = append(took, time.Since(start))
		if err := errors.Join(err, j.Close()); err != nil {
			return 0, err
		}
		if len(events) != len(want) {
			return 0, fmt.Errorf("journal has %d events, want %d", len(events), len(want))
		}
	}
	return median(took), nil
}

// outcome is the result of reading a damaged journal.
type outcome int

const (
	same    outcome = iota // all events
	refused                // an error
	other                  // other events and no error
	crashed
	hung
)

// statusRefused is the exit status of a process that reports an error for a journal.
const statusRefused = 1

// damaged damages one file in each of s.files copies of a journal, reads the copies,
// and counts the outcomes.
func damaged(ctx context.Context, c contender, s settings) (count [hung + 1]int, err error) {
	dir, events, err := fill(c, s, 60)
	defer os.RemoveAll(dir)
	if err != nil {
		return count, err
	}
	names, err := nonEmptyFiles(dir)
	if err != nil {
		return count, err
	}
	kinds := filedamage.Kinds()
	for i := range s.files {
		r := rand.New(rand.NewPCG(uint64(i), 1))
		name := names[i/len(kinds)%len(names)]
		got, err := readDamaged(ctx, c, dir, func(to string) error { return kinds[i%len(kinds)].Apply(r, filepath.Join(to, name)) }, text(events))
		if err != nil {
			return count, err
		}
		count[got]++
	}
	return count, nil
}

// nonEmptyFiles returns the names of the files in dir that are not empty. It omits
// the sealed file of version 1, which contains no events.
func nonEmptyFiles(dir string) (names []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "agent.db" {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Size() == 0 {
			return err
		}
		name, err := filepath.Rel(dir, path)
		names = append(names, name)
		return err
	})
	return names, err
}

// readDamaged damages a copy of dir and reads it in another process, which should
// print want.
func readDamaged(ctx context.Context, c contender, dir string, damage func(dir string) error, want string) (outcome, error) {
	to, err := os.MkdirTemp(filepath.Dir(dir), "damaged-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(to)
	if err := errors.Join(os.CopyFS(to, os.DirFS(dir)), damage(to)); err != nil {
		return 0, err
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	within, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(within, self, "-read", c.name, "-dir", to)
	got, err := cmd.Output()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case within.Err() != nil:
		return hung, nil
	case err == nil && string(got) == want:
		return same, nil
	case err == nil:
		return other, nil
	case errors.As(err, &exit) && exit.ExitCode() == statusRefused:
		return refused, nil
	case errors.As(err, &exit):
		return crashed, nil
	}
	return 0, err
}

// read prints the events of a journal.
func read(name, dir string, out io.Writer) error {
	for _, c := range contenders() {
		if c.name != name {
			continue
		}
		j, err := c.open(dir)
		if err != nil {
			return err
		}
		events, err := j.Load()
		if err == nil {
			fmt.Fprint(out, text(events))
		}
		return errors.Join(err, j.Close())
	}
	return fmt.Errorf("%q is not the name of a contender", name)
}

func text(events []ipam.Event) string {
	var b strings.Builder
	for _, e := range events {
		fmt.Fprintf(&b, "%+v\n", e)
	}
	return b.String()
}
