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

	"github.com/vpcnet/vpcnet/datapath"
)

// NetConf is the plugin's part of a network configuration. Its zero value, with
// a name, is a useful configuration. Fields that it does not know are ignored,
// so that a list written for amazon-vpc-cni-k8s can be taken over by changing
// its type; fields with that plugin's names have its meaning.
type NetConf struct {
	CNIVersion string `json:"cniVersion,omitempty"`
	// Name is the network's, and a part of the key of every allocation.
	Name string `json:"name,omitempty"`
	Type string `json:"type,omitempty"`

	// AgentSocket is the path of the agent's socket. Empty means DefaultSocket.
	AgentSocket string `json:"agentSocket,omitempty"`
	// StateDir is the directory shared with the agent. Empty means
	// DefaultStateDir.
	StateDir string `json:"stateDir,omitempty"`
	// Timeout bounds an ADD, waiting for a free address and, if it fails, its undo
	// included; it bounds CHECK, GC and STATUS too. Zero means DefaultTimeout. It should be below the runtime's own limit, because a
	// plugin that the runtime kills cannot say why it waited.
	Timeout Duration `json:"timeout,omitzero"`
	// VethPrefix begins the names of host side links, at most four characters.
	// Empty means eni.
	VethPrefix string `json:"vethPrefix,omitempty"`
	// MTU of the pod's link, 576 to 65535. Zero means that the agent decides.
	// In JSON it may be a number or, as amazon-vpc-cni-k8s has it, a string.
	MTU MTU `json:"mtu,omitzero"`
	// LogFile gets the plugin's log. Empty means standard error.
	LogFile string `json:"pluginLogFile,omitempty"`
	// LogLevel is debug, info, warn or error, in any case. Empty means info for
	// a log file and warn for standard error, which ends in the runtime's log.
	LogLevel string `json:"pluginLogLevel,omitempty"`

	// PrevResult is the result of the plugins before this one in the list.
	PrevResult json.RawMessage `json:"prevResult,omitempty"`
}

// DefaultTimeout is half of what a kubelet gives a runtime for one call by
// default (runtimeRequestTimeout, two minutes).
const DefaultTimeout = 60 * time.Second

// Duration is a time.Duration that stands in JSON as Go prints it, like 90s.
type Duration time.Duration

// MarshalText implements [encoding.TextMarshaler].
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("timeout %q is no duration like 60s", b)
	}
	*d = Duration(v)
	return nil
}

// MTU is a number of bytes that stands in JSON as a number or as a string.
type MTU int

// UnmarshalJSON implements [json.Unmarshaler].
func (m *MTU) UnmarshalJSON(b []byte) error {
	s := string(b)
	if unquoted, err := strconv.Unquote(s); err == nil {
		s = unquoted
	}
	if s == "" || s == "null" {
		return nil
	}
	v, err := strconv.Atoi(s)
	if err != nil {
		return fmt.Errorf("mtu %s is no whole number", b)
	}
	*m = MTU(v)
	return nil
}

// supportedVersions are the versions of the specification that the plugin
// speaks. Older ones know neither interfaces in results nor chains.
var supportedVersions = []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

const newestVersion = "1.1.0"

// supports reports whether a version has a feature that came with since. Both
// are in supportedVersions.
func supports(version, since string) bool {
	return slices.Index(supportedVersions, version) >= slices.Index(supportedVersions, since)
}

// ParseNetConf reads a network configuration as a runtime writes it to the
// plugin's standard input, and checks it. Its error is an [*Error] that names
// the field and what it should be.
func ParseNetConf(data []byte) (NetConf, error) {
	var c NetConf
	// The version comes first: a configuration of another version is answered
	// as such, whatever else is wrong with it.
	var v struct {
		CNIVersion string          `json:"cniVersion"`
		IPAM       json.RawMessage `json:"ipam"`
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return c, newError(CodeDecodingFailure, "no network configuration on standard input", "")
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return c, newError(CodeDecodingFailure, "network configuration is not a JSON object", err.Error())
	}
	if !slices.Contains(supportedVersions, v.CNIVersion) {
		return c, newError(CodeIncompatibleVersion, fmt.Sprintf("cniVersion %q is not supported", v.CNIVersion),
			"this plugin speaks "+strings.Join(supportedVersions, ", "))
	}
	c.CNIVersion = v.CNIVersion
	if err := json.Unmarshal(data, &c); err != nil {
		return c, newError(CodeDecodingFailure, "network configuration cannot be read", err.Error())
	}
	if ipam := v.IPAM; len(ipam) > 0 && !slices.Contains([]string{"null", "{}"}, string(ipam)) {
		return c, newError(CodeUnsupportedField, fmt.Sprintf("field ipam: %s is not supported", ipam),
			"addresses come from the agent; remove the field")
	}
	return c, c.validate()
}

// validate checks every field that the plugin acts upon.
func (c NetConf) validate() error {
	bad := func(key string, value any, want string) error {
		return newError(CodeInvalidConfig, fmt.Sprintf("invalid %s %q", key, fmt.Sprint(value)), want)
	}
	const minMTU, maxMTU = 576, 65535
	switch {
	case !validID(c.Name):
		return bad("name", c.Name, "a network name begins with a letter or digit and goes on with those, '_', '.' and '-'")
	case c.MTU != 0 && (c.MTU < minMTU || c.MTU > maxMTU):
		return bad("mtu", int(c.MTU), fmt.Sprintf("it is a number of bytes from %d to %d", minMTU, maxMTU))
	case c.Timeout < 0:
		return bad("timeout", time.Duration(c.Timeout), "it is a positive duration, like 60s")
	case c.AgentSocket != "" && !filepath.IsAbs(c.AgentSocket):
		return bad("agentSocket", c.AgentSocket, "it is an absolute path")
	case c.StateDir != "" && !filepath.IsAbs(c.StateDir):
		return bad("stateDir", c.StateDir, "it is an absolute path")
	case c.LogFile != "" && c.LogFile != "stderr" && !filepath.IsAbs(c.LogFile):
		return bad("pluginLogFile", c.LogFile, "it is an absolute path, or stderr")
	}
	if len(c.VethPrefix) > maxPrefix || strings.Trim(c.VethPrefix, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return bad("vethPrefix", c.VethPrefix, "it has at most four characters a-z and 0-9")
	}
	if _, err := c.level(); err != nil {
		return bad("pluginLogLevel", c.LogLevel, "it is debug, info, warn or error")
	}
	return nil
}

// maxPrefix leaves 11 of the 15 characters of a link name to the digest.
const maxPrefix = 4

// validID reports whether s has the form that the specification gives to
// network names and container IDs.
func validID(s string) bool {
	for i, r := range []byte(s) {
		alnum := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		if !alnum && (i == 0 || r != '_' && r != '.' && r != '-') {
			return false
		}
	}
	return s != ""
}

func (c NetConf) level() (slog.Level, error) {
	if c.LogLevel == "" {
		if c.logsToStderr() {
			return slog.LevelWarn, nil
		}
		return slog.LevelInfo, nil
	}
	var l slog.Level
	err := l.UnmarshalText([]byte(c.LogLevel))
	return l, err
}

func (c NetConf) logsToStderr() bool { return c.LogFile == "" || c.LogFile == "stderr" }

func (c NetConf) timeout() time.Duration { return cmp.Or(time.Duration(c.Timeout), DefaultTimeout) }

func (c NetConf) vethPrefix() string { return cmp.Or(c.VethPrefix, datapath.DefaultHostLinkPrefix) }

func (c NetConf) tombstones() string { return TombstoneDir(cmp.Or(c.StateDir, DefaultStateDir)) }

// parseArgs reads CNI_ARGS. The order of its pairs means nothing: runtimes
// shuffle them. Keys that it does not know are ignored.
func parseArgs(args string) (Pod, error) {
	var p Pod
	for pair := range strings.SplitSeq(args, ";") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return Pod{}, newError(CodeInvalidEnvironment, fmt.Sprintf("invalid CNI_ARGS: %q is no KEY=VALUE", pair), "")
		}
		switch key {
		case "K8S_POD_NAMESPACE":
			p.Namespace = value
		case "K8S_POD_NAME":
			p.Name = value
		case "K8S_POD_UID":
			p.UID = value
		}
	}
	return p, nil
}
