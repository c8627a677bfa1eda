// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

// theirs are the variables of the agent and of the start script of amazon-vpc-cni-k8s
// v1.23.1.
const theirs = `WARM_ENI_TARGET WARM_IP_TARGET MINIMUM_IP_TARGET WARM_PREFIX_TARGET MAX_ENI IP_COOLDOWN_PERIOD
ENABLE_PREFIX_DELEGATION ENABLE_IPv4 ENABLE_IPv6 ENABLE_V6_EGRESS ENABLE_V4_EGRESS ENABLE_POD_ENI
POD_SECURITY_GROUP_ENFORCING_MODE AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG ENI_CONFIG_ANNOTATION_DEF ENI_CONFIG_LABEL_DEF
ENABLE_SUBNET_DISCOVERY CLUSTER_NAME CLUSTER_ENDPOINT ADDITIONAL_ENI_TAGS MANAGE_UNTAGGED_ENI
AWS_MANAGE_ENIS_NON_SCHEDULABLE DISABLE_NETWORK_RESOURCE_PROVISIONING ENABLE_IMDS_ONLY_MODE
DISABLE_LEAKED_ENI_CLEANUP ENABLE_MULTI_NIC AWS_VPC_ENI_MTU POD_MTU AWS_VPC_K8S_CNI_EXTERNALSNAT
AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS AWS_VPC_K8S_CNI_RANDOMIZESNAT AWS_EXTERNAL_SERVICE_CIDRS
AWS_VPC_CNI_NODE_PORT_SUPPORT AWS_VPC_K8S_CNI_CONNMARK AWS_VPC_K8S_CNI_VETHPREFIX NETWORK_POLICY_ENFORCING_MODE
ANNOTATE_POD_IP AWS_VPC_K8S_CNI_BACKING_STORE AWS_VPC_K8S_CNI_LOGLEVEL AWS_VPC_K8S_CNI_LOG_FILE DISABLE_METRICS
DISABLE_INTROSPECTION INTROSPECTION_BIND_ADDRESS AWS_EC2_ENDPOINT HTTP_TIMEOUT VPC_CNI_VERSION MY_NODE_NAME
MY_POD_NAME KUBECONFIG HOST_CNI_BIN_PATH HOST_CNI_CONFDIR_PATH AWS_VPC_K8S_PLUGIN_LOG_FILE
AWS_VPC_K8S_PLUGIN_LOG_LEVEL AWS_VPC_K8S_EGRESS_V4_PLUGIN_LOG_FILE AWS_VPC_K8S_EGRESS_V6_PLUGIN_LOG_FILE
ENABLE_BANDWIDTH_PLUGIN DISABLE_POD_V6 DISABLE_TCP_EARLY_DEMUX AWS_VPC_K8S_CNI_CONFIGURE_RPFILTER ENABLE_NFTABLES`

// TestMissingComplete checks that each variable of amazon-vpc-cni-k8s is either a setting
// or missing.
func TestMissingComplete(t *testing.T) {
	known := map[string]int{}
	d := defaults()
	for _, o := range d.options() {
		known[o.env]++
	}
	for _, m := range missing {
		known[m.env]++
		if m.say == "" || strings.HasSuffix(m.say, ".") {
			t.Errorf("%s: %q, want a sentence without a full stop", m.env, m.say)
		}
		if !slices.Contains(strings.Fields(theirs), m.env) {
			t.Errorf("%s is not a variable of amazon-vpc-cni-k8s", m.env)
		}
	}
	for _, name := range strings.Fields(theirs) {
		if known[name] != 1 {
			t.Errorf("%s is listed %d times, want it as a setting or as missing", name, known[name])
		}
	}
}

// TestMissing checks what is refused, what is warned of, and what passes silently.
func TestMissing(t *testing.T) {
	for _, c := range []struct {
		env     map[string]string
		refused bool
		warned  int
		want    string // part of the error or of the first warning
	}{
		{env: map[string]string{"ENABLE_IMDS_ONLY_MODE": "true"}, refused: true, want: `ENABLE_IMDS_ONLY_MODE="true"`},
		{env: map[string]string{"DISABLE_NETWORK_RESOURCE_PROVISIONING": "0", "ANNOTATE_POD_IP": "", "ENABLE_IMDS_ONLY_MODE": "F"}},
		{env: map[string]string{"DISABLE_NETWORK_RESOURCE_PROVISIONING": "true"}, refused: true, want: "another program manages"},
		{env: map[string]string{"ENABLE_IMDS_ONLY_MODE": "1"}, refused: true, want: "another program manages"},
		{env: map[string]string{"NETWORK_POLICY_ENFORCING_MODE": "strict"}, refused: true, want: "enforces no network policies"},
		{env: map[string]string{"NETWORK_POLICY_ENFORCING_MODE": "standard"}, warned: 1, want: "enforces no network policies"},
		{env: map[string]string{"NETWORK_POLICY_ENFORCING_MODE": "none"}},
		{env: map[string]string{"NETWORK_POLICY_ENFORCING_MODE": "strict", "VPCNET_NETWORK_POLICIES": "/policies"}},
		{env: map[string]string{"NETWORK_POLICY_ENFORCING_MODE": "standard", "VPCNET_NETWORK_POLICIES": "/policies"}},
		{env: map[string]string{"ENI_CONFIG_LABEL_DEF": "topology.kubernetes.io/zone"}},
		{env: map[string]string{"ENI_CONFIG_LABEL_DEF": "team"}, warned: 1, want: `ENI_CONFIG_LABEL_DEF="team" has no effect`},
		{env: map[string]string{"ENI_CONFIG_LABEL_DEF": "team", "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true", "VPCNET_POD_NETWORKS": "/networks"}, refused: true, want: "VPCNET_POD_NETWORK"},
		{env: map[string]string{"ENI_CONFIG_LABEL_DEF": "team", "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true", "VPCNET_POD_NETWORKS": "/networks", "VPCNET_POD_NETWORK": "blue"}, warned: 1, want: "team"},
		{env: map[string]string{"AWS_VPC_K8S_CNI_CONNMARK": "0x80"}},
		{env: map[string]string{"AWS_VPC_K8S_CNI_CONNMARK": "0x40", "ANNOTATE_POD_IP": "true"}, warned: 2, want: "0x80"},
		{env: map[string]string{"HOST_CNI_CONFDIR_PATH": "/etc/cni/net.d", "MY_NODE_NAME": "n", "VPC_CNI_VERSION": "v1"}, warned: 1, want: "VPCNET_CONFLIST"},
		// Values that amazon-vpc-cni-k8s accepts.
		{env: map[string]string{"AWS_VPC_K8S_CNI_LOGLEVEL": "fatal", "MAX_ENI": "-1", "WARM_ENI_TARGET": "-1", "WARM_IP_TARGET": "-1", "MINIMUM_IP_TARGET": "-1", "WARM_PREFIX_TARGET": "-1", "ADDITIONAL_ENI_TAGS": "{}"}},
	} {
		s, err := Parse(nil, env(c.env), io.Discard)
		if errors.Is(err, errMissing) != c.refused || err != nil && !c.refused {
			t.Errorf("%v: %v, want refused: %v", c.env, err, c.refused)
		}
		if err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.env, err, c.want)
		}
		if w := s.Warnings(); err == nil && (len(w) != c.warned || c.warned > 0 && !strings.Contains(w[0], c.want)) {
			t.Errorf("%v: warnings %q, want %d with %q", c.env, w, c.warned, c.want)
		}
	}
}

// TestTargetsNotSet checks that a target of -1 is one that is not set.
func TestTargetsNotSet(t *testing.T) {
	targets := map[string]string{"WARM_ENI_TARGET": "-1", "WARM_IP_TARGET": "-1", "MINIMUM_IP_TARGET": "-1", "WARM_PREFIX_TARGET": "-1"}
	s, err := Parse([]string{"-warm-ip-target=-1"}, env(targets), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	d := defaults()
	if s.policyName() != policyBand || len(changed(d, s)) > 0 {
		t.Errorf("policy %s, changed %v, want the defaults", s.policyName(), changed(d, s))
	}
}
