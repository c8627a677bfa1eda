// SPDX-License-Identifier: Apache-2.0

package server_test

import (
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
		if changed, err := server.WriteConflist(path, c); err != nil || changed != want {
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
	if _, err := server.WriteConflist(path, cniplugin.Conflist{CNIVersions: []string{"0.0.9"}}); err == nil {
		t.Error("WriteConflist accepts version 0.0.9")
	}
}

// TestWriteConflistToOddPaths checks that missing directories are created, and that
// an error names the path and not a temporary file.
func TestWriteConflistToOddPaths(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "net.d", "deep", "10-vpcnet.conflist")
	for i, want := range []bool{true, false} {
		if changed, err := server.WriteConflist(missing, cniplugin.Conflist{}); err != nil || changed != want {
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
		_, err := server.WriteConflist(path, cniplugin.Conflist{})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), ".tmp-") {
			t.Errorf("WriteConflist(%q) = %v, want %q in the error, and no temporary file", path, err, want)
		}
	}
}
