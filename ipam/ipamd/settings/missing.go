// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// absent is a variable of amazon-vpc-cni-k8s that the agent does not have.
type absent struct {
	env string
	// same has the values, but for false and empty ones, that ask for nothing that the
	// agent does not do anyway. With any every value does.
	same []string
	// refused means that without the setting pods would get wrong addresses, or be open
	// where they should be closed: the agent then does not start.
	refused bool
	say     string // one sentence for operators, without a full stop
}

// anyValue is the value of absent.same for every value.
const anyValue = "*"

// missing lists the variables of the agent and of the start script of amazon-vpc-cni-k8s
// that the agent lacks.
//
// https://github.com/aws/amazon-vpc-cni-k8s/blob/master/README.md
var missing = []absent{
	{"DISABLE_NETWORK_RESOURCE_PROVISIONING", nil, true, "the agent would create and delete ENIs that another program manages"},
	{"ENABLE_IMDS_ONLY_MODE", nil, true, "the agent would create and delete ENIs that another program manages"},
	{"ENI_CONFIG_LABEL_DEF", []string{"topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"}, false, "the agent reads no labels of the node; -pod-network (VPCNET_POD_NETWORK) names the network, by default the zone"},
	{"ENI_CONFIG_ANNOTATION_DEF", []string{"k8s.amazonaws.com/eniConfig"}, false, "the agent reads no annotations of the node; -pod-network (VPCNET_POD_NETWORK) names the network, by default the zone"},

	{"MANAGE_UNTAGGED_ENI", nil, false, "ENIs without the agent's tags are left alone"},
	{"AWS_MANAGE_ENIS_NON_SCHEDULABLE", []string{anyValue}, false, "the agent does not know whether pods are scheduled to the node"},
	{"DISABLE_LEAKED_ENI_CLEANUP", nil, false, "the agent deletes ENIs that it has created for this instance and lost"},
	{"AWS_VPC_K8S_CNI_CONNMARK", []string{"0x80", "128"}, false, "the mark of connections is 0x80"},
	{"AWS_EC2_ENDPOINT", nil, false, "-ec2-endpoint (AWS_ENDPOINT_URL_EC2) is the address of the EC2 API"},

	{"ANNOTATE_POD_IP", nil, false, "the agent writes no annotations of pods"},
	{"CLUSTER_ENDPOINT", nil, false, "the agent does not use the API server"},
	{"KUBECONFIG", []string{anyValue}, false, "the agent does not use the API server"},
	{"MY_NODE_NAME", []string{anyValue}, false, "the agent does not use the API server"},
	{"MY_POD_NAME", []string{anyValue}, false, "the agent does not use the API server"},
	{"VPC_CNI_VERSION", []string{anyValue}, false, "the agent does not tell EC2 a version"},

	{"AWS_VPC_K8S_CNI_BACKING_STORE", nil, false, "-state-dir (VPCNET_STATE_DIR) is the directory of the state"},
	{"AWS_VPC_K8S_CNI_CONFIGURE_RPFILTER", []string{anyValue}, false, "it has no effect in amazon-vpc-cni-k8s either"},
	{"ENABLE_NFTABLES", []string{anyValue}, false, "it has no effect in amazon-vpc-cni-k8s either"},

	{"HOST_CNI_CONFDIR_PATH", nil, false, "-conflist (VPCNET_CONFLIST) is the path of the CNI configuration"},
	{"AWS_VPC_K8S_EGRESS_V4_PLUGIN_LOG_FILE", []string{anyValue}, false, "egress-cni has the log of vpc-cni, AWS_VPC_K8S_PLUGIN_LOG_FILE"},
	{"AWS_VPC_K8S_EGRESS_V6_PLUGIN_LOG_FILE", []string{anyValue}, false, "egress-cni has the log of vpc-cni, AWS_VPC_K8S_PLUGIN_LOG_FILE"},
}

// errMissing begins the errors for settings of amazon-vpc-cni-k8s without which pods would
// be in the wrong place.
var errMissing = errors.New("the agent does not have this setting of amazon-vpc-cni-k8s")

// applies reports whether a value asks for what the agent does not do.
func (m absent) applies(v string) bool {
	on, err := strconv.ParseBool(v)
	same := func(s string) bool { return s == anyValue || strings.EqualFold(s, v) }
	return v != "" && (on || err != nil) && !slices.ContainsFunc(m.same, same)
}

// checkMissing checks the values of the missing variables: it returns an error for those
// that are refused, and notes a warning for each of the others that applies.
func (s *Settings) checkMissing(values map[string]string) error {
	var errs []error
	for _, m := range missing {
		v := values[m.env]
		switch {
		case !m.applies(v):
		case m.refused || s.misplaces(m):
			errs = append(errs, fmt.Errorf("%s=%.80q: %w: %s", m.env, v, errMissing, m.say))
		default:
			s.warnings = append(s.warnings, fmt.Sprintf("%s=%.80q has no effect: %s", m.env, v, m.say))
		}
	}
	if s.NetworkPolicies == "" {
		const say = "the agent enforces no network policies without -network-policies (VPCNET_NETWORK_POLICIES)"
		switch mode := s.PolicyMode; {
		case mode == ipamd.PolicyStrict:
			errs = append(errs, fmt.Errorf("NETWORK_POLICY_ENFORCING_MODE=%s: %w: %s", mode, errMissing, say))
		case mode == ipamd.PolicyStandard && s.given["network-policy-enforcing-mode"]:
			s.warnings = append(s.warnings, fmt.Sprintf("NETWORK_POLICY_ENFORCING_MODE=%s has no effect: %s", mode, say))
		}
	}
	return errors.Join(errs...)
}

// misplaces reports whether pods would be in the wrong place without a setting that is
// otherwise only warned of: the network of the node by a label or annotation while the agent
// takes that of the zone.
func (s *Settings) misplaces(m absent) bool {
	switch m.env {
	case "ENI_CONFIG_LABEL_DEF", "ENI_CONFIG_ANNOTATION_DEF":
		return s.CustomNetwork && s.podNetworks != "" && s.podNetwork == ""
	}
	return false
}

// Warnings returns a sentence for each setting that is set and has no effect: those of
// amazon-vpc-cni-k8s that the agent does not have, and lines of the file that a flag or
// variable overrides.
func (s *Settings) Warnings() []string { return slices.Clone(s.warnings) }
