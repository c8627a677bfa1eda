// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/vpcnet/vpcnet/internal/steptest"
)

// traced is the outcome of a traced plugin.
type traced struct {
	stdout []byte
	status int // -1: killed
}

// trace executes the plugin and calls at before each of its steps, beginning with
// step 0. All threads of the plugin are stopped during the call. trace kills the
// plugin when at returns false.
func (n *node) trace(t *testing.T, i invocation, at func(steptest.Step) bool) traced {
	t.Helper()
	dir := t.TempDir()
	type outcome struct {
		traced
		err error
	}
	ended := make(chan outcome)
	go func() {
		runtime.LockOSThread() // the tracer is a thread; it ends with the goroutine
		end, err := n.traceLocked(dir, i, at)
		ended <- outcome{end, err}
	}()
	o := <-ended
	if o.err != nil {
		t.Fatalf("trace %s %s: %v", i.command, i.id, o.err)
	}
	return o.traced
}

func (n *node) traceLocked(dir string, i invocation, at func(steptest.Step) bool) (end traced, err error) {
	var files []*os.File
	for _, f := range []struct {
		name, content string
	}{{"stdin", i.stdin}, {"stdout", ""}, {"stderr", ""}} {
		path := filepath.Join(dir, f.name)
		if err := os.WriteFile(path, []byte(f.content), 0o600); err != nil {
			return end, err
		}
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return end, err
		}
		defer file.Close()
		files = append(files, file)
	}
	// The plugin gets its own process group, so that the tracer can wait for just the
	// threads of the plugin.
	p, err := os.StartProcess(n.plugin, []string{n.plugin}, &os.ProcAttr{
		Env: n.cmd(n.t.Context(), i).Env, Files: files, Sys: &syscall.SysProcAttr{Ptrace: true, Setpgid: true},
	})
	if err != nil {
		return end, err
	}
	defer func() { _ = p.Release() }()
	end.status, err = steptest.Follow(p.Pid, at)
	if err != nil {
		return end, errors.Join(err, p.Kill())
	}
	end.stdout, err = os.ReadFile(files[1].Name())
	return end, err
}
