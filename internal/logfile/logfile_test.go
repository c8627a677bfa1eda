// SPDX-License-Identifier: Apache-2.0

package logfile

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// writerEnv makes the test program a process that writes lines: their number and the path.
const writerEnv = "LOGFILE_WRITER"

func TestMain(m *testing.M) {
	if number, path, ok := strings.Cut(os.Getenv(writerEnv), ":"); ok {
		if err := write(number, path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// lines is how many lines a process writes, and smallMax the limit of its files: all lines
// fit into the files that are kept.
const (
	lines    = 500
	smallMax = 200_000
)

func write(number, path string) error {
	l, err := Open(path)
	if err != nil {
		return err
	}
	l.max = smallMax
	for i := range lines {
		if _, err := fmt.Fprintf(l, "%s %d %s\n", number, i, strings.Repeat("x", 180)); err != nil {
			return err
		}
	}
	return l.Close()
}

// TestProcesses lets processes write to one file at the same time. No line may be lost or
// torn, and no file larger than the limit by more than a line of each.
func TestProcesses(t *testing.T) {
	const processes = 8
	path := filepath.Join(t.TempDir(), "deep", "plugin.log")
	var all []*exec.Cmd
	for i := range processes {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), writerEnv+"="+strconv.Itoa(i)+":"+path)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		all = append(all, cmd)
	}
	for _, cmd := range all {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	found, err := filepath.Glob(path + "*")
	if err != nil || len(found) < 3 {
		t.Fatalf("files %v, %v, want several", found, err)
	}
	seen := map[string]bool{}
	for _, f := range found {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > smallMax+processes*200 {
			t.Errorf("%s has %d bytes, want at most about %d", f, len(b), smallMax)
		}
		for line := range strings.Lines(string(b)) {
			if w := strings.Fields(line); len(w) == 3 && len(w[2]) == 180 {
				seen[w[0]+" "+w[1]] = true
			} else {
				t.Errorf("torn line %q", line)
			}
		}
	}
	if len(seen) != processes*lines {
		t.Errorf("%d lines, want %d", len(seen), processes*lines)
	}
}

// TestRotation checks which files are kept, and that a file that another program renamed or
// removed is written anew.
func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ipamd.log")
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.max = 10
	put := func(text string) {
		t.Helper()
		if _, err := l.Write([]byte(text + "\n")); err != nil {
			t.Fatal(err)
		}
	}
	want := func(path, text string) {
		t.Helper()
		if b, err := os.ReadFile(path); string(b) != text {
			t.Errorf("%s has %q, %v, want %q", path, b, err, text)
		}
	}
	for i := range 8 {
		put(fmt.Sprintf("line %d", i))
	}
	want(path, "line 7\n")
	want(path+".1", "line 6\n")
	want(path+".5", "line 2\n")
	if _, err := os.Stat(path + ".6"); err == nil {
		t.Error("a sixth older file is kept")
	}
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	put("after")
	want(path, "after\n")
	want(path+".old", "line 7\n")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	put("long as it is, it has a file of its own")
	want(path, "long as it is, it has a file of its own\n")
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("Open of a directory: %v", err)
	}
	l, err := Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Write([]byte("x\n")); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// TestHandler checks the keys and values of a line.
func TestHandler(t *testing.T) {
	var out strings.Builder
	log := slog.New(NewHandler(&out, slog.LevelDebug))
	log.Debug("pool", "took", 1500*time.Millisecond, slog.Group("g", "retryIn", 2*time.Minute, "level", "x"))
	var got map[string]any
	if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
		t.Fatal(err)
	}
	ts, _ := got["ts"].(string)
	caller, _ := got["caller"].(string)
	if !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`).MatchString(ts) || !regexp.MustCompile(`^logfile/logfile_test\.go:\d+$`).MatchString(caller) {
		t.Errorf("ts %q, caller %q", ts, caller)
	}
	if got["level"] != "debug" || got["msg"] != "pool" || got["took"] != "1.5s" || fmt.Sprint(got["g"]) != "map[level:x retryIn:2m0s]" {
		t.Errorf("line %s", out.String())
	}
	out.Reset()
	slog.New(NewHandler(&out, slog.LevelInfo)).Debug("hidden")
	if out.Len() > 0 {
		t.Errorf("a line below the level: %s", out.String())
	}
}
