// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/server"
)

func TestWriteConflist(t *testing.T) {
	c := cniplugin.Conflist{Conf: cniplugin.NetConf{PluginConf: types.PluginConf{Name: "aws-cni"}}}
	path := filepath.Join(t.TempDir(), "10-vpcnet.conflist")
	for i, want := range []bool{true, false} {
		if changed, err := server.WriteConflist(path, "", c); err != nil || changed != want {
			t.Fatalf("WriteConflist %d = %v, %v, want %v", i, changed, err, want)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := c.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("the file has\n%s, want\n%s", got, want)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory has %v, %v, want only the list", entries, err)
	}
	if _, err := server.WriteConflist(path, "", cniplugin.Conflist{CNIVersions: []string{"0.0.9"}}); err == nil {
		t.Error("WriteConflist accepts version 0.0.9")
	}
}

// TestWriteConflistToOddPaths checks that missing directories are created, and that
// an error names the path and not a temporary file.
func TestWriteConflistToOddPaths(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "net.d", "deep", "10-vpcnet.conflist")
	for i, want := range []bool{true, false} {
		if changed, err := server.WriteConflist(missing, "", cniplugin.Conflist{}); err != nil || changed != want {
			t.Errorf("WriteConflist %d = %v, %v, want %v", i, changed, err, want)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := mkfifo(fifo); err != nil {
		t.Skip(err)
	}
	long := filepath.Join(dir, strings.Repeat("n", 300))
	for path, want := range map[string]string{
		"": "the path is empty", dir: dir + ": it is not a regular file", fifo: fifo + ": it is not a regular file",
		filepath.Join(file, "x"): file, long: long, "/proc/10-vpcnet.conflist": "write /proc/10-vpcnet.conflist: ",
	} {
		_, err := server.WriteConflist(path, "", cniplugin.Conflist{})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), ".tmp-") {
			t.Errorf("WriteConflist(%q) = %v, want %q in the error, and no temporary file", path, err, want)
		}
	}
}

// TestConflistRecord writes a list again and again, as agents with other configurations
// do, and ends between the record and the list. An edited list stays as it is.
func TestConflistRecord(t *testing.T) {
	dir := t.TempDir()
	state, path := filepath.Join(dir, "state"), filepath.Join(dir, "net.d", "10-vpcnet.conflist")
	list := func(mtu int) cniplugin.Conflist { return cniplugin.Conflist{Conf: cniplugin.NetConf{MTU: mtu}} }
	write := func(path string, mtu int, changed bool, want error) {
		t.Helper()
		got, err := server.WriteConflist(path, state, list(mtu))
		if got != changed || !errors.Is(err, want) {
			t.Fatalf("WriteConflist(%s, mtu %d) = %v, %v, want %v, %v", path, mtu, got, err, changed, want)
		}
	}
	content := func(path string) string {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	edit := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(path, 1400, true, nil)
	write(path, 1400, false, nil)
	first := content(path)
	write(path, 1500, true, nil)
	second := content(path)

	// The record has both lists until the next call, so the end of a process after the
	// record and before the list does no harm.
	edit(first)
	write(path, 1500, true, nil)
	if got := content(path); got != second {
		t.Fatalf("list %s, want %s", got, second)
	}

	const edited = `{"cniVersion":"1.0.0","name":"vpcnet","plugins":[{"type":"vpc-cni"},{"type":"mine"}]}`
	edit(edited)
	write(path, 1400, false, server.ErrConflistEdited)
	if got := content(path); got != edited {
		t.Errorf("the edited list has become %s", got)
	}
	if at, err := server.RemoveConflist("", state); at != path || !errors.Is(err, server.ErrConflistEdited) {
		t.Errorf("RemoveConflist = %s, %v, want the edited list to stay", at, err)
	}

	// Without the edit, or without the list, the agent's is written again.
	edit(second)
	write(path, 1400, true, nil)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(path, 1400, true, nil)

	// A list at another path replaces that at the old one.
	other := filepath.Join(dir, "net.d", "05-vpcnet.conflist")
	write(other, 1400, true, nil)
	if _, err := os.Stat(path); err == nil {
		t.Error("there are two lists after a change of the path")
	}
	if at, err := server.RemoveConflist("", state); at != other || err != nil {
		t.Errorf("RemoveConflist = %s, %v, want %s", at, err, other)
	}
	if _, err := os.Stat(other); err == nil {
		t.Error("the list is still there")
	}
	if at, err := server.RemoveConflist("", state); at != "" || err != nil {
		t.Errorf("second RemoveConflist = %s, %v, want nothing", at, err)
	}

	// A list without a record is that of another program, unless it is the same.
	edit(edited)
	write(path, 1400, false, server.ErrConflistEdited)
	edit(second)
	write(path, 1500, false, nil)
	write(path, 1400, true, nil)

	// So is one with a damaged record.
	damage := func() {
		t.Helper()
		if err := os.WriteFile(filepath.Join(state, "conflist.json"), []byte(`{"path":"/e#`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	damage()
	if _, err := server.RemoveConflist("", state); err == nil {
		t.Error("RemoveConflist says nothing of a damaged record")
	}
	write(path, 1500, false, server.ErrConflistEdited)
	write(path, 1400, false, nil)
	damage()
	edit(edited)
	write(path, 1400, false, server.ErrConflistEdited)
}
