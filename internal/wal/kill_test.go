// SPDX-License-Identifier: Apache-2.0

package wal_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
	"github.com/vpcnet/vpcnet/internal/wal"
)

// writerEnv makes the test program write to the log in the directory that it
// names. syncEnv makes that log wait for the disk.
const (
	writerEnv = "WAL_TEST_WRITER"
	syncEnv   = "WAL_TEST_SYNC"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerEnv); dir != "" {
		fmt.Fprintln(os.Stderr, write(dir))
		os.Exit(1)
	}
	isolatetest.Test(m)
}

// replaceEvery is how often the writer replaces the list.
const replaceEvery = 7

// item returns the n-th item of the writer. Some items are many pages long, so
// that a process can be killed in the middle of a write.
func item(n int) string {
	return fmt.Sprint(n, " ", strings.Repeat("x", n*n*977%300_000>>(n%5*3)))
}

// list returns the content of the log after n items.
func list(n int) (out []string) {
	for i := max(1, n-n%replaceEvery); i <= n; i++ {
		out = append(out, item(i))
	}
	return out
}

// write continues the list in dir, and prints the number of each item when its
// append or replace has returned.
func write(dir string) error {
	cfg := config()
	cfg.Sync = os.Getenv(syncEnv) != ""
	l, r, err := wal.Open(context.Background(), dir, cfg)
	if err != nil || r.Why != nil {
		return fmt.Errorf("%w, report %+v", err, r)
	}
	have, err := l.Load()
	if err != nil {
		return err
	}
	n := 0
	if len(have) > 0 {
		first, _, _ := strings.Cut(string(have[len(have)-1]), " ")
		if n, err = strconv.Atoi(first); err != nil {
			return err
		}
	}
	for n++; ; n++ {
		if n%replaceEvery == 0 {
			err = l.Replace(items(item(n)))
		} else {
			err = l.Append(items(item(n)))
		}
		if err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// TestKill kills a writer many times, at random points. The log then has all
// acknowledged items and at most one more, and is never reported as damaged.
func TestKill(t *testing.T) {
	for name, c := range map[string]struct {
		sync  string
		kills int
	}{"": {"", 150}, "sync": {"1", 40}} {
		t.Run("mode "+name, func(t *testing.T) {
			dir, acked := t.TempDir(), 0
			for i := range c.kills {
				acked = max(acked, kill(t, dir, c.sync, rand.N(40)))
				cfg := config()
				cfg.Sync = c.sync != ""
				l, r := mustOpen(t, dir, cfg)
				got := mustLoad(t, l)
				if r.Why != nil || !slices.Equal(got, list(acked)) && !slices.Equal(got, list(acked+1)) {
					t.Fatalf("kill %d: report %+v, %d items after %d were acknowledged", i, r, len(got), acked)
				}
				if slices.Equal(got, list(acked+1)) {
					acked++
				}
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("%d items survived %d kills", acked, c.kills)
		})
	}
}

// kill starts a writer, kills it after some acknowledged items, and returns the
// number of the last one.
func kill(t *testing.T, dir, sync string, after int) (last int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), writerEnv+"="+dir, syncEnv+"="+sync)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	for n := 0; ; n++ {
		if n == after {
			_ = cmd.Process.Kill()
		}
		line, err := lines.ReadString('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if last, err = strconv.Atoi(strings.TrimSpace(line)); err != nil {
			t.Fatal(err)
		}
	}
	_ = cmd.Wait()
	if stderr.Len() > 0 {
		t.Fatalf("the writer: %s", stderr.String())
	}
	return last
}
