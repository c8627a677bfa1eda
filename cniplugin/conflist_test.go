// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/cniplugin"
)

func TestConflist(t *testing.T) {
	c := cniplugin.Conflist{
		Conf: cniplugin.NetConf{PluginConf: types.PluginConf{Name: "aws-cni"}, AgentSocket: "/run/agent.sock", MTU: 1500, LogFile: "/var/log/vpc-cni.log"},
		Chained: []json.RawMessage{
			json.RawMessage(`{"type":"portmap","capabilities":{"portMappings":true},"snat":true}`),
			json.RawMessage(`{"type":"bandwidth","capabilities":{"bandwidth":true}}`),
		},
	}
	got, err := c.JSON()
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
	list, err := libcni.ConfListFromBytes(got)
	if err != nil {
		t.Fatal("the CNI library refuses the list:", err)
	}
	if list.CNIVersion != "1.1.0" || list.Name != "aws-cni" || len(list.Plugins) != 3 {
		t.Errorf("the CNI library reads %s %s with %d plugins, want 1.1.0 aws-cni with 3", list.CNIVersion, list.Name, len(list.Plugins))
	}
}

func TestConflistRefuses(t *testing.T) {
	for text, c := range map[string]cniplugin.Conflist{
		`cniVersion "0.0.9"`:             {CNIVersions: []string{"1.0.0", "0.0.9"}},
		`invalid name "a b"`:             {Conf: cniplugin.NetConf{PluginConf: types.PluginConf{Name: "a b"}}},
		`invalid mtu "1"`:                {Conf: cniplugin.NetConf{MTU: 1}},
		"chained plugin 1 is not a JSON": {Chained: []json.RawMessage{json.RawMessage(`{"name":"portmap"}`)}},
	} {
		if _, err := c.JSON(); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("error = %v, want %q in it", err, text)
		}
	}
}
