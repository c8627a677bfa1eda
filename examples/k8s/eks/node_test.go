// SPDX-License-Identifier: Apache-2.0

package eks_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/examples/k8s/eks"
)

// TestSettings checks that annotations of the node override the ConfigMap.
func TestSettings(t *testing.T) {
	n := eks.Node{Annotations: map[string]string{"settings.vpcnet.dev/WARM_IP_TARGET": " 3", "k8s.amazonaws.com/eniConfig": "x"}}
	got := eks.Settings(n, map[string]string{"WARM_IP_TARGET": "5", "MAX_ENI": "2\n"})
	if diff := cmp.Diff(map[string]string{"WARM_IP_TARGET": "3", "MAX_ENI": "2"}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestENIConfig checks in which order the ENIConfig of a node is looked up, and that what is
// wrong is an error and never the ENIConfig default.
func TestENIConfig(t *testing.T) {
	type m = map[string]string
	zone := eks.ENIConfigKeys{Label: "topology.kubernetes.io/zone"}
	all := map[string]eks.ENIConfig{"broken": {Name: "broken"}}
	for _, name := range []string{"default", "external", "annotated", "labelled", "us-west-2a"} {
		all[name] = eks.ENIConfig{Name: name, Subnet: "subnet-" + name, Groups: []string{"sg-" + name}}
	}
	for _, c := range []struct {
		keys eks.ENIConfigKeys
		node eks.Node
		want string // the name, or the error
	}{
		{want: "default"},
		{node: eks.Node{Labels: m{"k8s.amazonaws.com/eniConfig": "labelled"}}, want: "labelled"},
		{node: eks.Node{Labels: m{"k8s.amazonaws.com/eniConfig": "labelled"}, Annotations: m{"k8s.amazonaws.com/eniConfig": "annotated"}}, want: "annotated"},
		{node: eks.Node{Labels: m{"vpc.amazonaws.com/externalEniConfig": "external"}, Annotations: m{"k8s.amazonaws.com/eniConfig": "annotated"}}, want: "external"},
		{keys: zone, node: eks.Node{Labels: m{"topology.kubernetes.io/zone": "us-west-2a", "k8s.amazonaws.com/eniConfig": "labelled"}}, want: "us-west-2a"},
		{keys: zone, node: eks.Node{Labels: m{"k8s.amazonaws.com/eniConfig": "labelled"}}, want: "default"},
		{keys: eks.ENIConfigKeys{Annotation: "example.com/net"}, node: eks.Node{Annotations: m{"example.com/net": "annotated"}}, want: "annotated"},
		{node: eks.Node{Labels: m{"k8s.amazonaws.com/eniConfig": ""}}, want: "label k8s.amazonaws.com/eniConfig of the node is empty, want the name of an ENIConfig"},
		{node: eks.Node{Labels: m{"k8s.amazonaws.com/eniConfig": "absent"}}, want: "there is no ENIConfig absent, which the node asks for"},
		{node: eks.Node{Labels: m{"k8s.amazonaws.com/eniConfig": "broken"}}, want: "ENIConfig broken has no subnet"},
	} {
		got, err := c.keys.Choose(c.node, all)
		if err != nil {
			got.Name = fmt.Sprint(err)
		}
		if got.Name != c.want {
			t.Errorf("%+v %+v: %s, want %s", c.keys, c.node, got.Name, c.want)
		}
	}
}
