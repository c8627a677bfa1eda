// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/cniplugin"
)

func TestConflist(t *testing.T) {
	c := cniplugin.Conflist{
		Conf: cniplugin.NetConf{Name: "aws-cni", AgentSocket: "/run/agent.sock", MTU: 1500, LogFile: "/var/log/vpc-cni.log"},
		Chained: []json.RawMessage{
			json.RawMessage(`{"type":"portmap","capabilities":{"portMappings":true},"snat":true}`),
			json.RawMessage(`{"type":"bandwidth","capabilities":{"bandwidth":true}}`),
		},
	}
	path := filepath.Join(t.TempDir(), "10-vpcnet.conflist")
	for i, want := range []bool{true, false} {
		if changed, err := c.WriteFile(path); err != nil || changed != want {
			t.Fatalf("WriteFile %d = %v, %v, want %v", i, changed, err, want)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/10-vpcnet.conflist")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	list, err := libcni.ConfListFromFile(path)
	if err != nil {
		t.Fatal("the CNI library refuses it:", err)
	}
	if list.CNIVersion != "1.1.0" || list.Name != "aws-cni" || len(list.Plugins) != 3 {
		t.Errorf("the CNI library reads %s %s with %d plugins", list.CNIVersion, list.Name, len(list.Plugins))
	}
}

func TestConflistRefuses(t *testing.T) {
	for text, c := range map[string]cniplugin.Conflist{
		`cniVersion "0.2.0"`:          {CNIVersions: []string{"1.0.0", "0.2.0"}},
		`invalid name "a b"`:          {Conf: cniplugin.NetConf{Name: "a b"}},
		`invalid mtu "1"`:             {Conf: cniplugin.NetConf{MTU: 1}},
		"chained plugin 1 is no JSON": {Chained: []json.RawMessage{json.RawMessage(`{"name":"portmap"}`)}},
	} {
		if _, err := c.JSON(); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("error = %v, want %q in it", err, text)
		}
	}
}
