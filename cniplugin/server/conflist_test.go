// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/server"
)

func TestWriteConflist(t *testing.T) {
	c := cniplugin.Conflist{Conf: cniplugin.NetConf{Name: "aws-cni"}}
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
	if _, err := server.WriteConflist(path, cniplugin.Conflist{CNIVersions: []string{"0.2.0"}}); err == nil {
		t.Error("WriteConflist accepts version 0.2.0")
	}
}
