// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/preflight"
	"github.com/vpcnet/vpcnet/ipam/ipamd/introspect"
)

func conflistMissing(f *facts) []finding {
	if f.Host.Conflist == "" || !f.Agent.status().Ready {
		return nil
	}
	if _, err := fs.ReadFile(f.files, rooted(f.Host.Conflist)); err == nil {
		return nil
	}
	return found(preflight.Harm, "the CNI configuration does not exist although the agent is ready: the kubelet reports the node as not ready",
		"restart ipamd, which writes it; look for the program that deletes it", f.Host.Conflist+" does not exist")
}

// configs returns the CNI configurations in the order in which runtimes look at them: they use
// the first one.
func (f *facts) configs() (files []string) {
	if f.Host.Conflist == "" {
		return nil
	}
	for _, ext := range []string{"*.conf", "*.conflist", "*.json"} {
		names, err := fs.Glob(f.files, path.Join(rooted(path.Dir(f.Host.Conflist)), ext))
		if err == nil {
			files = append(files, names...)
		}
	}
	slices.Sort(files)
	return files
}

func conflistOrder(f *facts) []finding {
	files := f.configs()
	i := slices.Index(files, rooted(f.Host.Conflist))
	if i <= 0 {
		return nil
	}
	return found(preflight.Harm, "runtimes use the CNI configuration of another program, because its name comes first", "remove the file, or set VPCNET_CONFLIST to a name that sorts earlier",
		prefixed("/", files[:i])...)
}

// conflist is the part of a CNI configuration that names plugins.
type conflist struct {
	Type    string `json:"type"`
	Plugins []struct {
		Type string `json:"type"`
		IPAM struct {
			Type string `json:"type"`
		} `json:"ipam"`
	} `json:"plugins"`
}

// plugins returns the plugins that our CNI configuration names.
func (f *facts) plugins() (types []string) {
	text, err := fs.ReadFile(f.files, rooted(f.Host.Conflist))
	if err != nil {
		return nil
	}
	var c conflist
	if err := json.Unmarshal(text, &c); err != nil {
		return nil
	}
	types = append(types, c.Type)
	for _, p := range c.Plugins {
		types = append(types, p.Type, p.IPAM.Type)
	}
	slices.Sort(types)
	return slices.DeleteFunc(slices.Compact(types), func(s string) bool { return s == "" })
}

func pluginMissing(f *facts) []finding {
	var evidence []string
	for _, name := range f.plugins() {
		file := path.Join(rooted(f.Host.PluginDir), name)
		last := len(file) - 1
		if there, err := fs.Glob(f.files, file[:last]+"["+file[last:]+"]"); err == nil && len(there) == 0 {
			evidence = append(evidence, fmt.Sprintf("/%s does not exist", file))
		}
	}
	if len(evidence) == 0 {
		return nil
	}
	return found(preflight.Harm, "programs that the CNI configuration names are missing: every ADD fails", "run ipamd install, and install the plugins of containernetworking", evidence...)
}

// pluginVersion compares the versions of our plugins with that of the agent.
func pluginVersion(f *facts) []finding {
	if f.Agent.Answers == nil {
		return nil
	}
	agent := f.Agent.Answers.Version
	var evidence []string
	for _, name := range slices.Sorted(maps.Keys(f.Host.Versions)) {
		v := f.Host.Versions[name]
		if v.Version != agent.Version || v.Revision != agent.Revision && v.Revision != "" && agent.Revision != "" {
			evidence = append(evidence, fmt.Sprintf("%s is %s, and ipamd is %s", name, versionText(v), versionText(agent)))
		}
	}
	if agent == (introspect.Version{}) || len(evidence) == 0 {
		return nil
	}
	return found(preflight.Risk, "plugins are of another version than the agent", "run ipamd install of the agent's version", evidence...)
}

func versionText(v introspect.Version) string {
	return strings.TrimSpace(v.Version + " " + v.Revision)
}
