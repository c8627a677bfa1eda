// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
)

// Conflist describes the network configuration list that a container runtime
// reads from /etc/cni/net.d, by convention from a file called
// 10-vpcnet.conflist. Its zero value is useful. An agent writes it with
// WriteConflist of package server.
type Conflist struct {
	// CNIVersions are the versions of the specification that the list may be used
	// with. The plugin and every chained plugin must support them. Empty means
	// 1.0.0 and 1.1.0. A runtime that cannot choose uses the lowest version
	// (containerd 1.6 refuses 1.1.0); other runtimes use the highest version that
	// they support.
	CNIVersions []string
	// Conf is the configuration of the plugin itself. Conf.Name is the name of the
	// network, vpcnet if empty. Conf.Type is the file name of the plugin's binary,
	// vpc-cni if empty.
	Conf NetConf
	// Chained are further plugins, each a JSON object with a type, in the order
	// in which the runtime calls them. Optional.
	Chained []json.RawMessage
	// DisableCheck keeps a runtime from calling CHECK.
	DisableCheck bool
}

// JSON returns the list in JSON. Its error names the value that a runtime or the
// plugin would refuse.
func (c Conflist) JSON() ([]byte, error) {
	versions := slices.Clone(c.CNIVersions)
	if len(versions) == 0 {
		versions = []string{"1.0.0", newestVersion}
	}
	for _, v := range versions {
		if !slices.Contains(supportedVersions, v) {
			return nil, fmt.Errorf("conflist: the plugin does not support cniVersion %q", v)
		}
	}
	slices.SortFunc(versions, func(a, b string) int {
		return cmp.Compare(slices.Index(supportedVersions, a), slices.Index(supportedVersions, b))
	})
	own := c.Conf
	name := cmp.Or(own.Name, "vpcnet")
	own.Type = cmp.Or(own.Type, "vpc-cni")
	own.Name, own.CNIVersion, own.PrevResult = name, versions[0], nil
	if err := own.validate(); err != nil {
		return nil, fmt.Errorf("conflist: %w", err)
	}
	own.Name, own.CNIVersion = "", "" // the runtime adds them from the list
	first, err := json.Marshal(own)
	if err != nil {
		return nil, err
	}
	plugins := []json.RawMessage{first}
	for i, raw := range c.Chained {
		var p struct {
			Type string `json:"type"`
		}
		if err := json.Unmarshal(raw, &p); err != nil || p.Type == "" {
			return nil, fmt.Errorf("conflist: chained plugin %d is not a JSON object with a type", i+1)
		}
		plugins = append(plugins, raw)
	}
	list := struct {
		CNIVersion   string            `json:"cniVersion"`
		CNIVersions  []string          `json:"cniVersions,omitempty"`
		Name         string            `json:"name"`
		DisableCheck bool              `json:"disableCheck,omitempty"`
		Plugins      []json.RawMessage `json:"plugins"`
	}{versions[0], versions, name, c.DisableCheck, plugins}
	if len(versions) == 1 {
		list.CNIVersions = nil // a field of version 1.1.0, which says nothing more
	}
	b, err := json.MarshalIndent(list, "", "  ")
	return append(b, '\n'), err
}
