// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"testing"
	"time"
)

// TestLenientConfig reads what DEL and GC need from invalid configurations.
func TestLenientConfig(t *testing.T) {
	type fields struct {
		version, name, socket, dir, prefix, prev string
		timeout                                  time.Duration
	}
	for _, c := range []struct {
		name, data string
		want       fields
	}{
		{"all", `{"cniVersion":"0.4.0","name":"n","agentSocket":"/a","stateDir":"/s","vethPrefix":"pod","timeout":"5s","prevResult":{},"mtu":"x"}`,
			fields{"0.4.0", "n", "/a", "/s", "pod", "{}", 5 * time.Second}},
		{"keys in another case", `{"NAME":"n","agentsocket":"/a","StateDir":"/s"}`, fields{version: newestVersion, name: "n", socket: "/a", dir: "/s"}},
		{"nothing valid", `{"cniVersion":"2","name":"a/b","agentSocket":"a","stateDir":"s","vethPrefix":"too-long","timeout":"-5s"}`, fields{version: newestVersion}},
		{"wrong types", `{"cniVersion":2,"name":[],"agentSocket":{},"stateDir":true,"vethPrefix":7,"timeout":5}`, fields{version: newestVersion}},
		{"cut off", `{"name":"n","agentSocket":"/a","stateDir":"/s`, fields{version: newestVersion, name: "n", socket: "/a"}},
		{"list", `{"name":"n","plugins":[{"agentSocket":"/a"},{"agentSocket":"/b","stateDir":"/s"}]}`, fields{version: newestVersion, name: "n", socket: "/a", dir: "/s"}},
		{"no object", `"name"`, fields{version: newestVersion}},
		{"empty", "", fields{version: newestVersion}},
	} {
		got := lenientConfig([]byte(c.data))
		is := fields{got.CNIVersion, got.Name, got.AgentSocket, got.StateDir, got.VethPrefix, string(got.PrevResult), got.Timeout}
		if is != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, is, c.want)
		}
	}
}
