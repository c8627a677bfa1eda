// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/server"
	"github.com/vpcnet/vpcnet/ipam"
)

// ConflistFormat is the form of the CNI configuration.
type ConflistFormat string

const (
	// FormatVPCNet has the network vpcnet with the plugin vpc-cni.
	FormatVPCNet ConflistFormat = "vpcnet"
	// FormatAWS has the network aws-cni with the plugin aws-cni, a copy of vpc-cni, and the
	// entries that the list 10-aws.conflist of amazon-vpc-cni-k8s has, for programs that
	// know that list.
	FormatAWS ConflistFormat = "aws"
)

// The names of plugins in the CNI configuration.
const (
	pluginAWS       = "aws-cni"
	pluginEgress    = "egress-cni"
	pluginHostLocal = "host-local"
	pluginPortmap   = "portmap"
	pluginBandwidth = "bandwidth"
	pluginTuning    = "tuning"
)

// installed are the plugins of a directory by name, with the versions of the CNI
// specification that they support. No versions means that they are not known.
type installed map[string][]string

// chainable returns the plugins that the CNI configuration may have beside the agent's own,
// and those that they need.
func chainable() []string {
	return []string{pluginEgress, pluginHostLocal, pluginPortmap, pluginBandwidth, pluginTuning}
}

// conflist returns the CNI configuration for a node with the given addresses of its
// primary ENI, and a sentence for each plugin that is left out. Its error names a plugin that
// the configuration asks for and the directory lacks.
func (c *Config) conflist(have installed, primary []netip.Prefix) (list cniplugin.Conflist, left []string, err error) {
	list.Conf = cniplugin.NetConf{
		PluginConf:  types.PluginConf{Capabilities: c.capabilities()},
		AgentSocket: c.Socket, StateDir: c.StateDir, VethPrefix: c.HostLinkPrefix,
		LogFile: c.PluginLogFile, LogLevel: c.PluginLogLevel,
	}
	if c.ConflistFormat == FormatAWS {
		list.Conf.Name, list.Conf.Type, list.DisableCheck = pluginAWS, pluginAWS, true
		list.Conf.MTU, list.Conf.Enforcement = c.PodMTU, string(c.Enforcement)
	}
	chained, left := c.chain(have, primary)
	versions := []string{"1.0.0", "1.1.0"}
	if c.ConflistFormat == FormatAWS {
		versions = []string{"0.4.0"} // as that list has it
	}
	for _, p := range chained {
		if _, ok := have[p.Type]; !ok {
			return list, left, fmt.Errorf("%s has no plugin %s, which %s asks for", c.PluginDir, p.Type, p.why)
		}
		if known := have[p.Type]; c.ConflistFormat != FormatAWS {
			versions = slices.DeleteFunc(versions, func(v string) bool {
				return !slices.Contains(known, v) && !(len(known) == 0 && v == "1.0.0")
			})
		}
		raw, err := json.Marshal(p)
		if err != nil {
			return list, left, err
		}
		list.Chained = append(list.Chained, raw)
	}
	if len(versions) == 0 {
		versions = []string{"0.4.0"} // plugins from before 2022
	}
	list.CNIVersions = versions
	return list, left, nil
}

func (c *Config) capabilities() map[string]bool {
	capabilities := map[string]bool{"ips": true, "mac": true}
	if c.EachCard || c.ConflistFormat == FormatAWS {
		capabilities["io.kubernetes.cri.pod-annotations"] = true
	}
	if c.PodENI {
		capabilities["securityGroups"] = true
	}
	return capabilities
}

// chainedPlugin is the entry of a chained plugin. The names of its fields in JSON are those
// of the plugins' documentation.
type chainedPlugin struct {
	Name         string            `json:"name,omitempty"`
	Type         string            `json:"type"`
	Capabilities map[string]bool   `json:"capabilities,omitempty"`
	SNAT         bool              `json:"snat,omitempty"`
	Sysctl       map[string]string `json:"sysctl,omitempty"`
	*egressEntry
	// why is the setting that asks for the plugin.
	why string
}

// egressEntry has the fields of egress-cni. Those with the type string are texts because
// amazon-vpc-cni-k8s has them as texts.
type egressEntry struct {
	MTU     string     `json:"mtu"`
	Enabled string     `json:"enabled"`
	Random  string     `json:"randomizeSNAT"`
	NodeIP  string     `json:"nodeIP"`
	IPAM    egressIPAM `json:"ipam"`
	// LogFile and LogLevel are those of vpc-cni.
	LogFile  string `json:"pluginLogFile,omitempty"`
	LogLevel string `json:"pluginLogLevel,omitempty"`
}

type egressIPAM struct {
	Type    string              `json:"type"`
	Ranges  [][]map[string]any  `json:"ranges"`
	Routes  []map[string]string `json:"routes"`
	DataDir string              `json:"dataDir"`
}

// chain returns the chained plugins in the order of amazon-vpc-cni-k8s, and a sentence for
// each that the directory lacks and that is not asked for by name.
func (c *Config) chain(have installed, primary []netip.Prefix) (all []chainedPlugin, left []string) {
	if egress, text := c.egress(have, primary); egress != nil {
		all = append(all, *egress)
	} else if text != "" {
		left = append(left, text)
	}
	if _, ok := have[pluginPortmap]; ok && !c.NoPortmap {
		all = append(all, chainedPlugin{Type: pluginPortmap, Capabilities: map[string]bool{"portMappings": true}, SNAT: true})
	} else if !c.NoPortmap {
		left = append(left, fmt.Sprintf("%s has no plugin portmap: hostPort of pods has no effect", c.PluginDir))
	}
	if c.Bandwidth {
		all = append(all, chainedPlugin{Type: pluginBandwidth, Capabilities: map[string]bool{"bandwidth": true}, why: "Bandwidth (ENABLE_BANDWIDTH_PLUGIN)"})
	}
	if c.DisablePodIPv6 {
		off := map[string]string{}
		for _, link := range []string{"all", "default", "lo"} {
			off["net.ipv6.conf."+link+".disable_ipv6"] = "1"
		}
		all = append(all, chainedPlugin{Name: "tuning", Type: pluginTuning, Sysctl: off, why: "DisablePodIPv6 (DISABLE_POD_V6)"})
	}
	return all, left
}

// egress returns the entry of egress-cni, which gives pods with addresses of one family
// access to hosts of the other one by the node's address. It returns nil if pods need none,
// and a sentence if they get none.
func (c *Config) egress(have installed, primary []netip.Prefix) (entry *chainedPlugin, left string) {
	one := len(c.Families) == 1
	pods4 := one && c.Families[0] == ipam.IPv4
	asked := one && (pods4 && c.EgressIPv6 || !pods4 && c.EgressIPv4)
	if !asked && c.ConflistFormat != FormatAWS {
		return nil, ""
	}
	subnet, to, dir, family, setting := "fd00::ac:00/118", "::/0", "/run/cni/v4pd/egress-v6-ipam", ipam.IPv6, "EgressIPv6 (ENABLE_V6_EGRESS)"
	if !pods4 {
		subnet, to, dir, family, setting = "169.254.172.0/22", "0.0.0.0/0", "/run/cni/v6pd/egress-v4-ipam", ipam.IPv4, "EgressIPv4 (ENABLE_V4_EGRESS)"
	}
	for _, name := range []string{pluginEgress, pluginHostLocal} {
		if _, ok := have[name]; !ok {
			if !asked {
				return nil, ""
			}
			return nil, fmt.Sprintf("%s has no plugin %s: pods reach no %v destinations, for which %s asks", c.PluginDir, name, family, setting)
		}
	}
	node := ""
	for _, p := range primary {
		if asked && ipam.FamilyOf(p.Addr()) == family {
			node = p.Addr().String()
		}
	}
	if asked && node == "" {
		left = fmt.Sprintf("the node has no %v address: pods reach no %[1]v destinations, for which %s asks", family, setting)
		if c.ConflistFormat != FormatAWS {
			return nil, left
		}
	}
	return &chainedPlugin{
		Name: pluginEgress, Type: pluginEgress, why: setting,
		egressEntry: &egressEntry{
			MTU: strconv.Itoa(c.PodMTU), Enabled: strconv.FormatBool(node != ""), Random: string(c.RandomPorts), NodeIP: node,
			IPAM: egressIPAM{
				Type: pluginHostLocal, Ranges: [][]map[string]any{{{"subnet": subnet}}}, Routes: []map[string]string{{"dst": to}}, DataDir: dir,
			},
			LogFile: c.PluginLogFile, LogLevel: c.PluginLogLevel,
		},
	}, left
}

// versionTime bounds the question to a plugin for its versions.
const versionTime = 5 * time.Second

// findPlugins returns the plugins of a directory among names. It asks each for its versions:
// https://www.cni.dev/docs/spec/#version-probe-plugin-version-support.
func findPlugins(ctx context.Context, dir string, names []string) installed {
	have := installed{}
	for _, name := range names {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
			continue
		}
		have[name] = nil
		bounded, cancel := context.WithTimeout(ctx, versionTime)
		if v, err := invoke.GetVersionInfo(bounded, path, nil); err == nil {
			have[name] = v.SupportedVersions()
		}
		cancel()
	}
	return have
}

// announceRetry is the pause between two attempts to write the CNI configuration while it
// asks for a plugin that the node lacks.
const announceRetry = 5 * time.Second

// announce writes the CNI configuration. It waits for the plugins that the configuration
// asks for, because without one of them each ADD would fail.
func (n *node) announce(ctx context.Context, primary []netip.Prefix) error {
	if n.cfg.Conflist == "" {
		return nil
	}
	logged := ""
	for {
		list, left, err := n.cfg.conflist(findPlugins(ctx, n.cfg.PluginDir, chainable()), primary)
		if err == nil {
			return n.writeConflist(list, left)
		}
		if err.Error() != logged {
			logged = err.Error()
			n.log.Error("the CNI configuration is not written yet, so the node stays not ready", "err", err, "retry", announceRetry.String())
		}
		select {
		case <-time.After(announceRetry):
		case <-ctx.Done():
			return nil
		}
	}
}

func (n *node) writeConflist(list cniplugin.Conflist, left []string) error {
	for _, text := range left {
		n.log.Warn("a plugin is not in the CNI configuration", "why", text)
	}
	changed, err := server.WriteConflist(n.cfg.Conflist, n.cfg.StateDir, list)
	if errors.Is(err, server.ErrConflistEdited) {
		n.log.Warn("the CNI configuration stays as it is; to get the agent's, delete it and restart the agent", "err", err)
	} else if err != nil {
		return fmt.Errorf("write the CNI configuration: %w", err)
	}
	for _, other := range earlierConflists(n.cfg.Conflist) {
		n.log.Warn("runtimes use another CNI configuration, because its name sorts first; delete it to give pods addresses of this agent", "conflist", other)
	}
	n.log.Info("node is ready for pods", "conflist", n.cfg.Conflist, "changed", changed)
	return nil
}

// earlierConflists returns the CNI configurations that a runtime prefers to the one at
// path: of the files of the directory it takes the first by name.
func earlierConflists(path string) (found []string) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil // the directory was just created, or cannot be read by this agent
	}
	for _, e := range entries {
		name := e.Name()
		if slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(name)) && strings.Compare(name, filepath.Base(path)) < 0 {
			found = append(found, filepath.Join(filepath.Dir(path), name))
		}
	}
	return found
}
