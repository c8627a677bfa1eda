// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/cniplugin"
)

// TestOddLogFiles checks that a log that is no file neither blocks a command nor
// makes it fail.
func TestOddLogFiles(t *testing.T) {
	dir := t.TempDir()
	unread, read := filepath.Join(dir, "unread"), filepath.Join(dir, "read")
	for _, path := range []string{unread, read} {
		if err := unix.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	reader, err := os.OpenFile(read, os.O_RDWR, 0) // it has a reader that never reads
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		path string
		logs bool // the log goes there, and not to standard error
	}{
		{unread, false}, {read, false}, {loop, false}, {dir, false}, {"/dev/null", true}, {filepath.Join(dir, "new"), true},
		{filepath.Join(dir, strings.Repeat("n", 300)), false}, {"/proc/version/x", false},
	} {
		m := new(minimal)
		var stderr bytes.Buffer
		env := map[string]string{"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0"}
		conf, err := json.Marshal(map[string]string{"cniVersion": "1.0.0", "name": "n", "stateDir": t.TempDir(), "pluginLogFile": tc.path})
		if err != nil {
			t.Fatal(err)
		}
		status := cniplugin.Plugin{Allocator: minimalAllocator{m}, Wiring: minimalWiring{m}}.Main(t.Context(), cniplugin.Invocation{
			Getenv: func(k string) string { return env[k] }, Stdin: bytes.NewReader(conf), Stderr: &stderr,
		})
		if status != 0 || (stderr.Len() == 0) != tc.logs {
			t.Errorf("log file %s: exit status %d, standard error %q", tc.path, status, &stderr)
		}
	}
}

// endless is a reader that never ends.
type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}

// TestOddInvocations checks the zero value of an Invocation, and an input without end.
func TestOddInvocations(t *testing.T) {
	if status := (cniplugin.Plugin{}).Main(t.Context(), cniplugin.Invocation{}); status != 0 {
		t.Errorf("without an environment: exit status %d, want 0", status)
	}
	getenv := func(string) string { return "STATUS" }
	if status := (cniplugin.Plugin{}).Main(t.Context(), cniplugin.Invocation{Getenv: getenv}); status != 1 {
		t.Errorf("without a configuration: exit status %d, want 1", status)
	}
	var stdout bytes.Buffer
	status := cniplugin.Plugin{}.Main(t.Context(), cniplugin.Invocation{Getenv: getenv, Stdin: endless{}, Stdout: &stdout})
	expect(t, badInput{code: cniplugin.CodeIOFailure, text: "more than 16777216 bytes"}, status, stdout.Bytes())
}

// FuzzMain checks that whatever the environment and the configuration are, the plugin
// ends, and prints nothing or a result or an error that can be read.
func FuzzMain(f *testing.F) {
	for _, command := range commands {
		f.Add(command, "c1", "/proc/version", "eth0", "K8S_POD_NAME=web", []byte(`{"cniVersion":"1.1.0","name":"n","prevResult":{"ips":[{"interface":-1}]},"cni.dev/valid-attachments":[]}`))
		f.Add(command, "c1", "", "eth%d", "=", []byte(`{"name":"n","prevResult":{"ip4":{"ip":"10.0.0.1/8","routes":[{}]}}}`))
	}
	state, err := os.MkdirTemp("", "vpcnet")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { os.RemoveAll(state) })
	f.Fuzz(func(t *testing.T, command, id, netns, ifName, args string, stdin []byte) {
		// No file outside of the test's own directory may be written.
		var fields map[string]json.RawMessage
		if json.Unmarshal(stdin, &fields) == nil && fields != nil {
			for key := range fields {
				if k := strings.ToLower(key); k == "statedir" || k == "pluginlogfile" {
					delete(fields, key)
				}
			}
			fields["stateDir"] = json.RawMessage(`"` + state + `"`)
			stdin, _ = json.Marshal(fields)
		}
		env := map[string]string{"CNI_COMMAND": command, "CNI_CONTAINERID": id, "CNI_NETNS": netns, "CNI_IFNAME": ifName, "CNI_ARGS": args}
		var stdout, stderr bytes.Buffer
		m := new(minimal)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		status := cniplugin.Plugin{Allocator: minimalAllocator{m}, Wiring: minimalWiring{m}}.Main(ctx, cniplugin.Invocation{
			Getenv: func(k string) string { return env[k] }, Stdin: bytes.NewReader(stdin), Stdout: &stdout, Stderr: &stderr,
		})
		if status == 0 {
			if stdout.Len() > 0 && !json.Valid(stdout.Bytes()) {
				t.Errorf("output %q is not JSON", &stdout)
			}
			return
		}
		var got struct {
			CNIVersion string
			Code       uint
			Msg        string
		}
		if err := json.Unmarshal(stdout.Bytes(), &got); err != nil || got.CNIVersion == "" || got.Code == 0 || got.Msg == "" {
			t.Errorf("exit status %d, output %q, want a CNI error", status, &stdout)
		}
		if strings.Contains(got.Msg, "panicked") {
			t.Errorf("panic: %s", &stderr)
		}
	})
}
