// SPDX-License-Identifier: Apache-2.0

package eks

import (
	"cmp"
	"fmt"
)

// ENIConfig is an ENIConfig (crd.k8s.amazonaws.com/v1alpha1): a subnet and security groups of
// pods.
type ENIConfig struct {
	Name   string
	Subnet string
	// Groups are security groups. None means those of the primary ENI.
	Groups []string
}

// The keys by which amazon-vpc-cni-k8s finds the ENIConfig of a node. See
// https://github.com/aws/amazon-vpc-cni-k8s/blob/master/README.md.
const (
	externalENIConfig = "vpc.amazonaws.com/externalEniConfig"
	eniConfigKey      = "k8s.amazonaws.com/eniConfig"
	defaultENIConfig  = "default"
)

// ENIConfigKeys are the keys with the name of a node's ENIConfig.
type ENIConfigKeys struct {
	// Annotation and Label are the keys of an annotation and of a label of the node. Empty
	// means k8s.amazonaws.com/eniConfig.
	Annotation, Label string
}

// Name returns the name of the ENIConfig of a node: the label
// vpc.amazonaws.com/externalEniConfig, else the annotation, else the label of the keys, or
// else default. It is an error if the first of them that the node has is empty.
func (k ENIConfigKeys) Name(n Node) (string, error) {
	for _, at := range []struct {
		what string
		in   map[string]string
		key  string
	}{
		{"label", n.Labels, externalENIConfig},
		{"annotation", n.Annotations, cmp.Or(k.Annotation, eniConfigKey)},
		{"label", n.Labels, cmp.Or(k.Label, eniConfigKey)},
	} {
		name, ok := at.in[at.key]
		switch {
		case ok && name == "":
			return "", fmt.Errorf("%s %s of the node is empty, want the name of an ENIConfig", at.what, at.key)
		case ok:
			return name, nil
		}
	}
	return defaultENIConfig, nil
}

// Choose returns the ENIConfig of a node out of all of the cluster.
func (k ENIConfigKeys) Choose(n Node, all map[string]ENIConfig) (ENIConfig, error) {
	name, err := k.Name(n)
	if err != nil {
		return ENIConfig{}, err
	}
	c, ok := all[name]
	switch {
	case !ok:
		return ENIConfig{}, fmt.Errorf("there is no ENIConfig %s, which the node asks for", name)
	case c.Subnet == "":
		return ENIConfig{}, fmt.Errorf("ENIConfig %s has no subnet", name)
	}
	return c, nil
}
