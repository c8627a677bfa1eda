// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// Conflist describes the network configuration list that a container runtime
// reads from /etc/cni/net.d, by custom from a file called 10-vpcnet.conflist.
// Its zero value is useful.
type Conflist struct {
	// CNIVersions are the versions of the specification that the list may be
	// used with, of those that the plugin speaks. Empty means 1.0.0 and 1.1.0.
	// A runtime that knows no choice takes the lowest (containerd 1.6 refuses
	// 1.1.0), others the highest they know; every chained plugin must speak it.
	CNIVersions []string
	// Conf is the plugin's own part. Its Name is the network's, vpcnet if
	// empty; its Type is the file name of the plugin's binary, vpc-cni if empty.
	Conf NetConf
	// Chained are further plugins, each a JSON object with a type, in the order
	// in which the runtime calls them. Optional.
	Chained []json.RawMessage
}

// JSON renders the list. Its error names what a runtime would refuse.
func (c Conflist) JSON() ([]byte, error) {
	versions := slices.Clone(c.CNIVersions)
	if len(versions) == 0 {
		versions = []string{"1.0.0", newestVersion}
	}
	for _, v := range versions {
		if !slices.Contains(supportedVersions, v) {
			return nil, fmt.Errorf("conflist: the plugin does not speak cniVersion %q", v)
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
			return nil, fmt.Errorf("conflist: chained plugin %d is no JSON object with a type", i+1)
		}
		plugins = append(plugins, raw)
	}
	b, err := json.MarshalIndent(struct {
		CNIVersion  string            `json:"cniVersion"`
		CNIVersions []string          `json:"cniVersions"`
		Name        string            `json:"name"`
		Plugins     []json.RawMessage `json:"plugins"`
	}{versions[0], versions, name, plugins}, "", "  ")
	return append(b, '\n'), err
}

// WriteFile writes the list to path in one step, so that a runtime that watches
// the directory never reads half of it, and reports whether the file changed.
// An agent writes it when it can serve the first pod: its existence is what
// makes a node ready. What stood at path is lost; to keep a list that a person
// has edited, do not call it.
func (c Conflist) WriteFile(path string) (changed bool, err error) {
	b, err := c.JSON()
	if err != nil {
		return false, err
	}
	switch old, err := os.ReadFile(path); {
	case err == nil && bytes.Equal(old, b):
		return false, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	return true, writeFile(path, b, 0o644)
}
