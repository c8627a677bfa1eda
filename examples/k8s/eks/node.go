// SPDX-License-Identifier: Apache-2.0

package eks

import "strings"

// Node is the node.
type Node struct {
	Labels, Annotations map[string]string
}

// SettingAnnotation begins the keys of annotations of a node with settings of its agent. The
// rest is the name of the variable, as in settings.vpcnet.dev/WARM_IP_TARGET.
const SettingAnnotation = "settings.vpcnet.dev/"

// Settings returns the settings of the agent of a node, by the names of their variables: those
// of the annotations of the node, and of a ConfigMap for all nodes those that no annotation
// has. Other annotations do not count.
func Settings(n Node, all map[string]string) map[string]string {
	out := map[string]string{}
	for name, value := range all {
		out[name] = strings.TrimSpace(value)
	}
	for key, value := range n.Annotations {
		if name, ok := strings.CutPrefix(key, SettingAnnotation); ok {
			out[name] = strings.TrimSpace(value)
		}
	}
	return out
}
