// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/warmpool"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func noEnv(string) string { return "" }

func env(m map[string]string) func(string) string { return func(k string) string { return m[k] } }

func TestHelp(t *testing.T) {
	const golden = "testdata/help.txt"
	var out bytes.Buffer
	if _, err := Parse([]string{"--help"}, noEnv, &out); !errors.Is(err, flag.ErrHelp) {
		t.Fatalf("Parse(--help) = %v, want flag.ErrHelp", err)
	}
	if *update {
		if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("help (-want +got), rewrite with -update:\n%s", diff)
	}
}

// examples has a valid value, other than the default, for every variable.
var examples = map[string]string{
	"VPCNET_WARM_POLICY":                 "band",
	"WARM_ENI_TARGET":                    "2",
	"WARM_IP_TARGET":                     "3",
	"MINIMUM_IP_TARGET":                  "4",
	"WARM_PREFIX_TARGET":                 "5",
	"ENABLE_IPv4":                        "false",
	"ENABLE_IPv6":                        "true",
	"ENABLE_PREFIX_DELEGATION":           "true",
	"MAX_ENI":                            "6",
	"VPCNET_MAX_PODS":                    "7",
	"IP_COOLDOWN_PERIOD":                 "8",
	"AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true",
	"VPCNET_POD_NETWORKS":                "/tmp/networks.json",
	"VPCNET_POD_NETWORK":                 "blue",
	"VPCNET_POD_SUBNETS":                 "subnet-1,subnet-2",
	"VPCNET_POD_SECURITY_GROUPS":         "sg-1",
	"ENABLE_SUBNET_DISCOVERY":            "true",
	"ENABLE_MULTI_NIC":                   "true",
	"ENABLE_POD_ENI":                     "true",
	"POD_SECURITY_GROUP_ENFORCING_MODE":  "standard",
	"VPCNET_BRANCH_ENI_COOLDOWN":         "30",
	"VPCNET_NETWORK_POLICIES":            "/tmp/policies.json",
	"NETWORK_POLICY_ENFORCING_MODE":      "none",
	"VPCNET_NETWORK_POLICY_LOG_LIMIT":    "5",
	"VPCNET_WHOLE_ENIS":                  "2",
	"VPCNET_NODE_PREFIX":                 "100.65.129.0/24",
	"VPCNET_BRIDGE":                      "br0",
	"VPCNET_VPC_ROUTE_TABLES":            "rtb-1",
	"VPCNET_LAYOUT":                      "per-pod",
	"AWS_VPC_ENI_MTU":                    "1500",
	"POD_MTU":                            "1400",
	"AWS_VPC_K8S_CNI_VETHPREFIX":         "veth",
	"AWS_EXTERNAL_SERVICE_CIDRS":         "100.64.0.0/10",
	"VPCNET_REFUSE_METADATA":             "true",
	"VPCNET_ACCELERATE":                  "true",
	"AWS_VPC_K8S_CNI_EXTERNALSNAT":       "true",
	"AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS": "10.1.2.3/8, 172.16.0.0/12",
	"AWS_VPC_K8S_CNI_RANDOMIZESNAT":      "none",
	"VPCNET_SNAT_BACKEND":                "iptables",
	"AWS_VPC_CNI_NODE_PORT_SUPPORT":      "false",
	"CLUSTER_NAME":                       "prod",
	"ADDITIONAL_ENI_TAGS":                `{"team":"net"}`,
	"AWS_ENDPOINT_URL_EC2":               "http://127.0.0.1:1",
	"AWS_EC2_METADATA_SERVICE_ENDPOINT":  "http://127.0.0.1:2",
	"HTTP_TIMEOUT":                       "9",
	"VPCNET_CONFIG":                      "testdata/empty.conf",
	"VPCNET_SOCKET":                      "/tmp/a.sock",
	"VPCNET_STATE_DIR":                   "/tmp/a",
	"VPCNET_CONFLIST":                    "/tmp/a.conflist",
	"VPCNET_CONFLIST_FORMAT":             "aws",
	"HOST_CNI_BIN_PATH":                  "/usr/lib/cni",
	"VPCNET_PORTMAP":                     "false",
	"ENABLE_BANDWIDTH_PLUGIN":            "true",
	"DISABLE_POD_V6":                     "true",
	"ENABLE_V6_EGRESS":                   "true",
	"ENABLE_V4_EGRESS":                   "false",
	"AWS_VPC_K8S_PLUGIN_LOG_FILE":        "/var/log/aws-routed-eni/plugin.log",
	"AWS_VPC_K8S_PLUGIN_LOG_LEVEL":       "DEBUG",
	"VPCNET_STATUS_SOCKET":               "/tmp/status.sock",
	"INTROSPECTION_BIND_ADDRESS":         "127.0.0.1:61680",
	"DISABLE_INTROSPECTION":              "true",
	"VPCNET_METRICS_BIND_ADDRESS":        "127.0.0.1:61678",
	"DISABLE_METRICS":                    "true",
	"AWS_VPC_K8S_CNI_LOG_FILE":           "/var/log/aws-routed-eni/ipamd.log",
	"DISABLE_TCP_EARLY_DEMUX":            "true",
	"VPCNET_PREFLIGHT":                   "write",
	"VPCNET_ROOT":                        "/mnt",
	"AWS_VPC_K8S_CNI_LOGLEVEL":           "DEBUG",
}

// TestOptionsComplete checks the table of options. Each option has its own flag,
// variable and help. Each changes exactly one setting, equally by flag and by
// variable. Each setting has an option.
func TestOptionsComplete(t *testing.T) {
	d := defaults()
	names, reached := map[string]bool{}, map[string]string{}
	for _, o := range d.options() {
		if o.group == "" || o.help == "" || !strings.HasSuffix(o.help, ".") {
			t.Errorf("-%s: group %q, help %q; want both, and a full stop at the end", o.name, o.group, o.help)
		}
		if names[o.name] || names[o.env] {
			t.Errorf("-%s or %s appears twice", o.name, o.env)
		}
		names[o.name], names[o.env] = true, true
		text, ok := examples[o.env]
		if !ok {
			t.Errorf("%s: this test has no example value", o.env)
			continue
		}
		byEnv, err := Parse(nil, env(map[string]string{o.env: text}), io.Discard)
		if err != nil {
			t.Errorf("%s=%s: %v", o.env, text, err)
		}
		byFlag, err := Parse([]string{"-" + o.name + "=" + text}, noEnv, io.Discard)
		if err != nil {
			t.Errorf("-%s=%s: %v", o.name, text, err)
		}
		if diff := cmp.Diff(byEnv, byFlag, allFields); diff != "" {
			t.Errorf("-%s and %s differ (-variable +flag):\n%s", o.name, o.env, diff)
		}
		for _, field := range changed(defaults(), byEnv) {
			if by := reached[field]; by != "" {
				t.Errorf("both %s and %s change setting %s", by, o.env, field)
			}
			reached[field] = o.env
		}
	}
	for _, field := range fields() {
		if reached[field] == "" && !ownFields[field] {
			t.Errorf("no option changes setting %s", field)
		}
	}
}

// ownFields are fields that programs set themselves, or that settings of other names set.
var ownFields = map[string]bool{"Policy": true, "Subnets": true, "Groups": true, "NoPrimaryPods": true, "Families": true, "MaxENIs": true, "Cooldown": true, "Demand": true, "Handler": true, "Hooks": true, "Logger": true, "Policies": true}

// fields returns the names of the settings, with the fields of the embedded configuration.
func fields() (out []string) {
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Settings]()) {
		if !f.Anonymous && !notSettings[f.Name] && (f.IsExported() || len(f.Index) == 1) {
			out = append(out, f.Name)
		}
	}
	return out
}

// notSettings are the fields that describe where settings come from.
var notSettings = map[string]bool{"given": true, "networks": true, "warnings": true}

var allFields = cmp.Options{cmp.AllowUnexported(Settings{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}

// changed returns the names of the settings in which before and after differ.
func changed(before, after Settings) []string {
	var c comparison
	cmp.Equal(before, after, allFields, cmp.Reporter(&c))
	return c.differ
}

// comparison is a cmp.Reporter that collects the settings that differ.
type comparison struct {
	path   []string // the fields on the way to the present value
	differ []string
}

func (c *comparison) PushStep(s cmp.PathStep) {
	name := ""
	if f, ok := s.(cmp.StructField); ok {
		name = f.Name()
	}
	c.path = append(c.path, name)
}

func (c *comparison) PopStep() { c.path = c.path[:len(c.path)-1] }

func (c *comparison) Report(r cmp.Result) {
	if r.Equal() || len(c.path) < 2 {
		return
	}
	name := c.path[1]
	if name == "Config" && len(c.path) > 2 {
		name = c.path[2]
	}
	if !notSettings[name] && !slices.Contains(c.differ, name) {
		c.differ = append(c.differ, name)
	}
}

func TestFlagWinsOverVariable(t *testing.T) {
	s, err := Parse([]string{"--warm-ip-target", "7"}, env(map[string]string{"WARM_IP_TARGET": "3", "IP_COOLDOWN_PERIOD": ""}), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if s.WarmIPTarget != 7 || s.cooldownPeriod != 30*time.Second {
		t.Errorf("WarmIPTarget, Cooldown = %d, %v, want 7, 30s", s.WarmIPTarget, s.cooldownPeriod)
	}
}

func TestAutoPolicy(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, policyBand},
		{[]string{"-max-eni=2"}, policyBand},
		{[]string{"-warm-eni-target=1"}, policyAWS},
		{[]string{"-minimum-ip-target=9"}, policyAWS},
		{[]string{"-warm-eni-target=1", "-warm-policy=band"}, policyBand},
	} {
		s, err := Parse(c.args, noEnv, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.policyName(); got != c.want {
			t.Errorf("%v: policy %q, want %q", c.args, got, c.want)
		}
	}
}

// TestPolicies checks that every policy of package warmpool can be chosen.
func TestPolicies(t *testing.T) {
	for name := range warmpool.PolicyNames() {
		s, err := Parse([]string{"-warm-policy=" + name + ":with-hold-down=5m"}, noEnv, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.policy()
		if _, wrapped := p.(warmpool.HoldDown); err != nil || !wrapped {
			t.Errorf("%s: %T, %v, want the policy in a HoldDown", name, p, err)
		}
	}
	s, err := Parse([]string{"-warm-ip-target=7"}, noEnv, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := s.policy(); err != nil || p != (warmpool.AWS{WarmENITarget: 1, WarmIPTarget: 7}) {
		t.Errorf("policy %+v, %v, want the targets of amazon-vpc-cni-k8s", p, err)
	}
}

func TestMistakes(t *testing.T) {
	for _, c := range []struct {
		args []string
		env  map[string]string
		want string // part of the message
	}{
		{args: []string{"-warm-eni"}, want: "flag provided but not defined: -warm-eni"},
		{args: []string{"start"}, want: `unexpected argument "start"`},
		{args: []string{"-warm-policy=nobody"}, want: `unknown policy "nobody", want one of band, aws`},
		{args: []string{"-warm-policy=band:lo=3"}, want: `policy band has no setting "lo", want one of low`},
		{env: map[string]string{"VPCNET_WARM_POLICY": "cilium:8"}, want: `"8" is not of the form key=value`},
		{args: []string{"-warm-eni-target=-2"}, want: "want a whole number from -1 to"},
		{env: map[string]string{"WARM_IP_TARGET": "many"}, want: `environment variable WARM_IP_TARGET="many": want a whole number`},
		{env: map[string]string{"ENABLE_PREFIX_DELEGATION": "yes"}, want: "want true or false"},
		{env: map[string]string{"IP_COOLDOWN_PERIOD": "-3"}, want: "want seconds"},
		{env: map[string]string{"HTTP_TIMEOUT": "0"}, want: "want more than 0"},
		{env: map[string]string{"AWS_VPC_ENI_MTU": "9100"}, want: "want a whole number from 576 to 9001"},
		{env: map[string]string{"POD_MTU": "9001", "AWS_VPC_ENI_MTU": "1500"}, want: "-pod-mtu 9001 (POD_MTU) is more than"},
		{env: map[string]string{"AWS_VPC_K8S_CNI_VETHPREFIX": "eth"}, want: "none of eth, lo, vlan"},
		{env: map[string]string{"AWS_VPC_K8S_CNI_VETHPREFIX": "a-b"}, want: `"a-b" may contain only a-z and 0-9`},
		{env: map[string]string{"AWS_VPC_K8S_CNI_VETHPREFIX": "toolong"}, want: `"toolong" has 7 bytes, want 1 to 4`},
		{env: map[string]string{"AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS": "10.0.0.0"}, want: `"10.0.0.0" is not a CIDR block`},
		{env: map[string]string{"AWS_VPC_K8S_CNI_RANDOMIZESNAT": "dice"}, want: "want one of [prng hashrandom none]"},
		{env: map[string]string{"AWS_ENDPOINT_URL_EC2": "localhost:80"}, want: "want a URL"},
		{env: map[string]string{"ADDITIONAL_ENI_TAGS": "team=net"}, want: "want a JSON object of strings"},
		{env: map[string]string{"AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true"}, want: "needs -pod-networks or -pod-subnets"},
		{env: map[string]string{"VPCNET_POD_SUBNETS": "subnet-1"}, want: "needs -pod-networks or -pod-subnets"},
		{env: map[string]string{"AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true", "VPCNET_POD_NETWORKS": "/missing"}, want: "/missing"},
		{env: map[string]string{"VPCNET_POD_NETWORKS": "x", "VPCNET_POD_SUBNETS": "y"}, want: "want either"},
		{env: map[string]string{"ENABLE_IPv4": "false"}, want: "want one or both"},
		{args: []string{"-log-file=ipamd.log"}, want: "want stderr, stdout or an absolute path"},
		{args: []string{"-cni-bin-dir=bin"}, want: "want absolute paths"},
		{args: []string{"-conflist-format=eks"}, want: "want one of [vpcnet aws]"},
		{args: []string{"-socket="}, want: "must not be empty"},
		{args: []string{"-socket=/" + strings.Repeat("x", maxSocket)}, want: "has 104 bytes, want at most 103"},
	} {
		s, err := Parse(c.args, env(c.env), io.Discard)
		if err == nil {
			_, err = s.Agent()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v with %v: %v, want one line with %q", c.args, c.env, err, c.want)
		}
	}
}
