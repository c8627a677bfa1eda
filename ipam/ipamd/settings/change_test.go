// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// settingsOf returns the settings of a program with the given variables.
func settingsOf(t *testing.T, vars map[string]string) *Settings {
	t.Helper()
	s, err := Parse(nil, env(vars), io.Discard)
	if err == nil {
		_, err = s.Agent()
	}
	if err != nil {
		t.Fatal(err)
	}
	return &s
}

// TestSince checks which changes are live and which wait.
func TestSince(t *testing.T) {
	networks := filepath.Join(t.TempDir(), "networks.json")
	write := func(subnet string) {
		if err := os.WriteFile(networks, []byte(`{"default":{"subnets":["`+subnet+`"]}}`), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	type vars = map[string]string
	for name, c := range map[string]struct {
		start, latest, now vars
		want               Changes
	}{
		"nothing":                {vars{}, vars{}, vars{}, Changes{}},
		"a target":               {vars{"WARM_IP_TARGET": "1"}, vars{"WARM_IP_TARGET": "2"}, vars{"WARM_IP_TARGET": "1"}, Changes{Live: []string{"WARM_IP_TARGET"}}},
		"the same as the latest": {vars{}, vars{"WARM_IP_TARGET": "2"}, vars{"WARM_IP_TARGET": "2"}, Changes{}},
		"auto is another policy": {vars{}, vars{}, vars{"WARM_ENI_TARGET": "1"}, Changes{Live: []string{"VPCNET_WARM_POLICY"}}},
		"layout":                 {vars{}, vars{"VPCNET_LAYOUT": "per-pod"}, vars{"VPCNET_LAYOUT": "per-pod"}, Changes{Waiting: map[string]Effect{"VPCNET_LAYOUT": Drain}}},
		"layout as at the start": {vars{}, vars{"VPCNET_LAYOUT": "per-pod"}, vars{}, Changes{}},
		"name of the cluster":    {vars{}, vars{}, vars{"CLUSTER_NAME": "x", "MAX_ENI": "2"}, Changes{Live: []string{"MAX_ENI"}, Waiting: map[string]Effect{"CLUSTER_NAME": Restart}}},
		"subnets of pods that are on the primary ENI": {vars{}, vars{}, vars{"AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true", "VPCNET_POD_SUBNETS": "subnet-1"},
			Changes{Waiting: map[string]Effect{"AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": Drain, "VPCNET_POD_SUBNETS": Drain}}},
	} {
		got := settingsOf(t, c.now).since(settingsOf(t, c.start), settingsOf(t, c.latest))
		if diff := cmp.Diff(c.want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	custom := vars{"AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true", "VPCNET_POD_NETWORKS": networks}
	write("subnet-1")
	before := settingsOf(t, custom)
	write("subnet-2")
	if diff := cmp.Diff(Changes{Live: []string{"VPCNET_POD_NETWORKS"}}, settingsOf(t, custom).since(before, before), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("other content of the file of networks (-want +got):\n%s", diff)
	}
}

// TestEffects checks that the effect of each setting is what Reconfigure makes of it.
func TestEffects(t *testing.T) {
	ofProgram := []string{
		"VPCNET_CONFIG", "VPCNET_NETWORK_POLICIES", "VPCNET_STATUS_SOCKET", "INTROSPECTION_BIND_ADDRESS", "DISABLE_INTROSPECTION", "VPCNET_METRICS_BIND_ADDRESS", "DISABLE_METRICS",
		"AWS_VPC_K8S_CNI_LOG_FILE", "AWS_VPC_K8S_CNI_LOGLEVEL", "DISABLE_TCP_EARLY_DEMUX", "VPCNET_PREFLIGHT", "VPCNET_ROOT",
	}
	networks := filepath.Join(t.TempDir(), "networks.json")
	if err := os.WriteFile(networks, []byte(`{"blue":{"subnets":["subnet-1"]},"default":{"subnets":["subnet-2"]}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, o := range settingsOf(t, nil).options() {
		if slices.Contains(ofProgram, o.env) {
			continue
		}
		start, now := map[string]string{}, map[string]string{o.env: examples[o.env]}
		switch o.env {
		case "ENABLE_IPv4":
			start["ENABLE_IPv6"] = "true"
		case "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG":
			now["VPCNET_POD_SUBNETS"] = "subnet-1"
		case "VPCNET_POD_NETWORKS":
			start["AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG"], start["VPCNET_POD_SUBNETS"] = "true", "subnet-1"
			now["VPCNET_POD_SUBNETS"], now["VPCNET_POD_NETWORKS"] = "", networks
		case "VPCNET_POD_NETWORK":
			start["AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG"], start["VPCNET_POD_NETWORKS"] = "true", networks
		case "VPCNET_POD_SUBNETS":
			start["AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG"], start["VPCNET_POD_SUBNETS"] = "true", "subnet-9"
		case "VPCNET_WARM_POLICY":
			now[o.env] = "cilium"
		case "WARM_IP_TARGET", "MINIMUM_IP_TARGET", "WARM_PREFIX_TARGET":
			start["WARM_ENI_TARGET"] = "1"
		}
		for name, v := range start {
			if _, ok := now[name]; !ok {
				now[name] = v
			}
		}
		config := func(vars map[string]string) ipamd.Config {
			cfg, err := settingsOf(t, vars).Agent()
			if err != nil {
				t.Fatal(err)
			}
			return cfg
		}
		a, err := ipamd.New(config(start))
		if err != nil {
			t.Fatal(err)
		}
		waiting, err := a.Reconfigure(t.Context(), config(now))
		if err != nil || (len(waiting) > 0) != (o.effect() != Live) {
			t.Errorf("%s is %s, and of the fields %v wait (%v)", o.env, o.effect(), waiting, err)
		}
	}
}
