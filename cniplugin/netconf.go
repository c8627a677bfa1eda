// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/vpcnet/vpcnet/cniplugin/internal/pluginlog"
	"github.com/vpcnet/vpcnet/datapath"
)

// NetConf is the plugin's part of a network configuration. Only Name is required.
//
// The fields of [types.PluginConf] have in JSON the names that the specification
// gives them. The names of the others are agentSocket, stateDir, timeout, vethPrefix,
// mtu, mode, securityGroups, podSGEnforcingMode, pluginLogFile and pluginLogLevel. Unknown fields in JSON are ignored, so that
// a list written for amazon-vpc-cni-k8s can be used after changing its type. Fields
// with the names of that plugin have the same meaning; the package comment lists them.
type NetConf struct {
	// PluginConf has the fields that all plugins share. Its Name is the name of the
	// network, and part of the key of every allocation. Its Type is the file name of
	// the plugin's binary. Its PrevResult is the result of the earlier plugins in the
	// list; RawPrevResult is not used.
	types.PluginConf

	// AgentSocket is the path of the agent's socket. Empty means DefaultSocket.
	AgentSocket string
	// StateDir is the directory shared with the agent. Empty means
	// DefaultStateDir.
	StateDir string
	// Timeout bounds an ADD, including the time in which it waits for a free
	// address and, if it fails, the time for its undo. It also bounds CHECK, GC and
	// STATUS. Zero means 60s. It should be shorter than the runtime's own
	// limit, because a plugin that the runtime kills cannot report why it waited. In
	// JSON it is a string such as "90s".
	Timeout time.Duration
	// VethPrefix begins the names of host side links, see
	// [datapath.ValidateHostLinkPrefix]. Empty means
	// [datapath.DefaultHostLinkPrefix].
	VethPrefix string
	// MTU is the MTU of the pod's link, see [datapath.ValidateMTU]. Zero means that
	// the agent decides. In JSON it may be a number or, as for amazon-vpc-cni-k8s, a
	// string.
	MTU int
	// Mode is how the pods of the network are joined to the VPC: "eni" gives each pod
	// an ENI of its own, "ipvlan" a link on an ENI of the node, and "bridge" an address
	// of the node's prefix and a port of its bridge. Empty means a veth pair, or a branch
	// ENI for pods with SecurityGroups. The agent refuses what the node does not have.
	Mode string
	// SecurityGroups are the IDs of the security groups of each pod, at most 16, for
	// which a pod needs an ENI of its own: a branch ENI, or a whole one with the mode
	// eni. A runtime that gives the capability securityGroups replaces them. Optional.
	SecurityGroups []string
	// Enforcement is strict or standard, see [datapath.Enforcement]. It must be that of
	// the agent. Empty means that of the agent. In JSON it is podSGEnforcingMode.
	Enforcement string
	// LogFile is the path of the plugin's log, or stderr. Empty means stderr.
	LogFile string
	// LogLevel is debug, info, warn, error or fatal, in upper or lower case; fatal
	// means that nothing is logged. Empty means info for a log file, and warn for standard error, which a runtime writes to
	// its own log.
	LogLevel string
}

// defaultTimeout is half of the time that a kubelet by default gives a runtime
// for one call (runtimeRequestTimeout, two minutes).
const defaultTimeout = 60 * time.Second

// ParseNetConf parses and validates a network configuration, as a runtime writes
// it to the plugin's standard input. It sets the fields that have a default value
// but MTU, and cniVersion to 0.1.0 if it is missing, as the CNI library does. Its
// error is an [*Error] that names the field and the values that are valid.
func ParseNetConf(data []byte) (NetConf, error) {
	c, err := parseConfig(data)
	if err != nil {
		return c.NetConf, err
	}
	conf := c.NetConf.withDefaults()
	return conf, conf.unmarshalShared(data, c.PrevResult)
}

// withDefaults returns c with the values that its empty fields stand for.
func (c NetConf) withDefaults() NetConf {
	level, _ := c.level()
	c.AgentSocket = cmp.Or(c.AgentSocket, DefaultSocket)
	c.StateDir = cmp.Or(c.StateDir, DefaultStateDir)
	c.Timeout = c.timeout()
	c.VethPrefix = c.vethPrefix()
	c.LogFile = cmp.Or(c.LogFile, "stderr")
	c.LogLevel = cmp.Or(c.LogLevel, strings.ToLower(level.String()))
	return c
}

// config is a parsed network configuration with some of its fields as they are in
// JSON: a command that does not need them does not parse them.
type config struct {
	NetConf
	PrevResult json.RawMessage
	ipam       json.RawMessage
	// runtimeConfig and args have what the runtime asks for, see requests.
	runtimeConfig, args json.RawMessage
}

// parseConfig parses and validates a network configuration. Together with an error it
// returns the part of the configuration that could be read.
func parseConfig(data []byte) (config, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return config{}, &Error{Code: CodeDecodingFailure, Msg: "no network configuration on standard input"}
	}
	var w netConfWire
	if err := json.Unmarshal(data, &w); err != nil {
		return config{}, unreadable(data, err)
	}
	c := config{w.netConf(), w.prevResult(), w.IPAM, w.RuntimeConfig, w.Args}
	if err := checkVersion(c.CNIVersion); err != nil {
		return config{}, err
	}
	if err := c.validate(); err != nil {
		return c, err
	}
	return c, w.checkOthers()
}

// checkOthers refuses fields of the chained plugins of amazon-vpc-cni-k8s.
func (w netConfWire) checkOthers() error {
	for _, field := range []struct {
		name  string
		value json.RawMessage
	}{{"enabled", w.Enabled}, {"randomizeSNAT", w.RandomizeSNAT}, {"nodeIP", w.NodeIP}} {
		if !isEmpty(field.value) {
			return &Error{
				Code: CodeUnsupportedField, Msg: fmt.Sprintf("field %s: %s is not supported", field.name, shorten(string(field.value))),
				Details: "it belongs to a chained plugin for egress, as egress-cni; remove the field",
			}
		}
	}
	return nil
}

// isEmpty reports whether a field is missing, null, or an empty text, list or object.
func isEmpty(raw json.RawMessage) bool {
	return len(raw) == 0 || slices.Contains([]string{"null", `""`, "[]", "{}"}, string(raw))
}

// unreadable returns the error for a configuration that is not valid JSON, or has a
// field of another type. The version comes first, because other errors mean nothing
// in a configuration of an unknown version.
func unreadable(data []byte, err error) error {
	var v struct {
		CNIVersion string `json:"cniVersion"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return &Error{Code: CodeDecodingFailure, Msg: "network configuration is not a JSON object", Details: err.Error()}
	}
	if err := checkVersion(cmp.Or(v.CNIVersion, unversioned)); err != nil {
		return err
	}
	return &Error{Code: CodeDecodingFailure, Msg: "network configuration cannot be read", Details: err.Error()}
}

// checkIPAM refuses the field ipam, which has a meaning only for an own Allocator.
func (c config) checkIPAM() error {
	if isEmpty(c.ipam) {
		return nil
	}
	return &Error{
		Code: CodeUnsupportedField, Msg: fmt.Sprintf("field ipam: %s is not supported", shorten(string(c.ipam))),
		Details: "addresses come from the agent; remove the field",
	}
}

// validate checks every field that the plugin uses.
func (c NetConf) validate() error {
	invalid := func(key string, value any, want string) error {
		return &Error{Code: CodeInvalidConfig, Msg: "invalid " + key + " " + shorten(fmt.Sprint(value)), Details: want}
	}
	switch {
	case !validID(c.Name):
		return invalid("name", c.Name, wantIDOf(c.Name))
	case c.Timeout < 0:
		return invalid("timeout", c.Timeout, "want a positive duration such as 60s")
	case c.AgentSocket != "" && !filepath.IsAbs(c.AgentSocket):
		return invalid("agentSocket", c.AgentSocket, "want an absolute path")
	case len(c.AgentSocket) > maxSocketPath:
		return invalid("agentSocket", c.AgentSocket, fmt.Sprintf("the path has %d bytes, want at most %d", len(c.AgentSocket), maxSocketPath))
	case c.StateDir != "" && !filepath.IsAbs(c.StateDir):
		return invalid("stateDir", c.StateDir, "want an absolute path")
	case !pluginlog.ValidFile(c.LogFile):
		return invalid("pluginLogFile", c.LogFile, "want an absolute path, or stderr")
	}
	if err := c.validateMode(); err != nil {
		return err
	}
	if err := datapath.ValidateMTU(c.MTU); err != nil {
		return invalid("mtu", c.MTU, err.Error())
	}
	if err := datapath.ValidateHostLinkPrefix(c.vethPrefix()); err != nil {
		return invalid("vethPrefix", c.VethPrefix, err.Error())
	}
	if _, err := c.level(); err != nil {
		return invalid("pluginLogLevel", c.LogLevel, "want debug, info, warn, error or fatal")
	}
	return nil
}

// maxID is the length that container IDs and network names may have. Those of
// runtimes have 64 bytes. The CNI library uses them in file names, which may have
// 255 bytes.
const maxID = 1024

// maxSocketPath is the length that the path of a unix socket may have.
const maxSocketPath = 107

// wantID describes the form that validID accepts.
const wantID = "want a letter or digit, followed by letters, digits, '_', '.' and '-'"

// validID reports whether s has the form that the specification gives to
// network names and container IDs.
func validID(s string) bool {
	for i, r := range []byte(s) {
		alnum := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		if !alnum && (i == 0 || r != '_' && r != '.' && r != '-') {
			return false
		}
	}
	return s != "" && len(s) <= maxID
}

// wantIDOf returns why validID refuses s.
func wantIDOf(s string) string {
	if len(s) > maxID {
		return fmt.Sprintf("it has %d bytes, want at most %d", len(s), maxID)
	}
	return wantID
}

// shortenText returns s, and the beginning of s if it is too long to be read: an error
// can contain a value of the configuration of any length.
func shortenText(s string) string {
	const longest = 2000
	if len(s) <= longest {
		return s
	}
	return strings.ToValidUTF8(s[:longest], "") + "..."
}

// shorten returns s in quotes, and the beginning of s if it is too long for the text
// of an error.
func shorten(s string) string {
	const longest, shown = 200, 64
	if len(s) <= longest {
		return strconv.Quote(s)
	}
	return strconv.Quote(s[:shown]) + "..."
}

func (c NetConf) level() (slog.Level, error) { return pluginlog.Level(c.LogFile, c.LogLevel) }

func (c NetConf) timeout() time.Duration { return cmp.Or(c.Timeout, defaultTimeout) }

func (c NetConf) vethPrefix() string { return cmp.Or(c.VethPrefix, datapath.DefaultHostLinkPrefix) }

func (c NetConf) tombstones() string { return TombstoneDir(cmp.Or(c.StateDir, DefaultStateDir)) }
