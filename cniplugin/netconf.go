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
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
)

// NetConf is the plugin's part of a network configuration. Only Name is required.
//
// The names of its fields in JSON are cniVersion, name, type, agentSocket,
// stateDir, timeout, vethPrefix, mtu, pluginLogFile, pluginLogLevel and prevResult.
// Unknown fields in JSON are ignored, so that a list written for
// amazon-vpc-cni-k8s can be used after changing its type. Fields with the names
// of that plugin have the same meaning.
type NetConf struct {
	CNIVersion string
	// Name is the name of the network, and part of the key of every allocation.
	Name string
	// Type is the file name of the plugin's binary.
	Type string

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
	// LogFile is the path of the plugin's log, or stderr. Empty means stderr.
	LogFile string
	// LogLevel is debug, info, warn or error, in upper or lower case. Empty means
	// info for a log file, and warn for standard error, which a runtime writes to
	// its own log.
	LogLevel string

	// PrevResult is the result of the earlier plugins in the list.
	PrevResult json.RawMessage
}

// defaultTimeout is half of the time that a kubelet by default gives a runtime
// for one call (runtimeRequestTimeout, two minutes).
const defaultTimeout = 60 * time.Second

// supportedVersions are the versions of the specification that the plugin
// supports. Older versions have neither interfaces in results nor chained plugins.
var supportedVersions = []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

const newestVersion = "1.1.0"

// supports reports whether version has a feature that the version since added.
// Both must be in supportedVersions.
func supports(version, since string) bool {
	return slices.Index(supportedVersions, version) >= slices.Index(supportedVersions, since)
}

// ParseNetConf parses and validates a network configuration, as a runtime writes
// it to the plugin's standard input. Its error is an [*Error] that names the field
// and the values that are valid.
func ParseNetConf(data []byte) (NetConf, error) {
	var c NetConf
	// The version is checked first, because other errors mean nothing in a
	// configuration of an unknown version.
	var v struct {
		CNIVersion string          `json:"cniVersion"`
		IPAM       json.RawMessage `json:"ipam"`
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return c, &Error{Code: CodeDecodingFailure, Msg: "no network configuration on standard input"}
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return c, &Error{Code: CodeDecodingFailure, Msg: "network configuration is not a JSON object", Details: err.Error()}
	}
	if !slices.Contains(supportedVersions, v.CNIVersion) {
		return c, &Error{
			Code: CodeIncompatibleVersion, Msg: fmt.Sprintf("cniVersion %q is not supported", v.CNIVersion),
			Details: "this plugin supports " + strings.Join(supportedVersions, ", "),
		}
	}
	c.CNIVersion = v.CNIVersion
	if err := json.Unmarshal(data, &c); err != nil {
		return c, &Error{Code: CodeDecodingFailure, Msg: "network configuration cannot be read", Details: err.Error()}
	}
	if ipam := v.IPAM; len(ipam) > 0 && !slices.Contains([]string{"null", "{}"}, string(ipam)) {
		return c, &Error{
			Code: CodeUnsupportedField, Msg: fmt.Sprintf("field ipam: %s is not supported", ipam),
			Details: "addresses come from the agent; remove the field",
		}
	}
	return c, c.validate()
}

// validate checks every field that the plugin uses.
func (c NetConf) validate() error {
	invalid := func(key string, value any, want string) error {
		return &Error{Code: CodeInvalidConfig, Msg: fmt.Sprintf("invalid %s %q", key, fmt.Sprint(value)), Details: want}
	}
	switch {
	case !validID(c.Name):
		return invalid("name", c.Name, wantID)
	case c.Timeout < 0:
		return invalid("timeout", c.Timeout, "want a positive duration such as 60s")
	case c.AgentSocket != "" && !filepath.IsAbs(c.AgentSocket):
		return invalid("agentSocket", c.AgentSocket, "want an absolute path")
	case c.StateDir != "" && !filepath.IsAbs(c.StateDir):
		return invalid("stateDir", c.StateDir, "want an absolute path")
	case c.LogFile != "" && c.LogFile != "stderr" && !filepath.IsAbs(c.LogFile):
		return invalid("pluginLogFile", c.LogFile, "want an absolute path, or stderr")
	}
	if err := datapath.ValidateMTU(c.MTU); err != nil {
		return invalid("mtu", c.MTU, err.Error())
	}
	if err := datapath.ValidateHostLinkPrefix(c.vethPrefix()); err != nil {
		return invalid("vethPrefix", c.VethPrefix, err.Error())
	}
	if _, err := c.level(); err != nil {
		return invalid("pluginLogLevel", c.LogLevel, "want debug, info, warn or error")
	}
	return nil
}

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

func (c NetConf) timeout() time.Duration { return cmp.Or(c.Timeout, defaultTimeout) }

func (c NetConf) vethPrefix() string { return cmp.Or(c.VethPrefix, datapath.DefaultHostLinkPrefix) }

func (c NetConf) tombstones() string { return TombstoneDir(cmp.Or(c.StateDir, DefaultStateDir)) }

// parseArgs parses CNI_ARGS. It accepts the pairs in any order, because runtimes
// shuffle them, and ignores unknown keys.
func parseArgs(args string) (Pod, error) {
	var p Pod
	for pair := range strings.SplitSeq(args, ";") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return Pod{}, &Error{Code: CodeInvalidEnvironment, Msg: fmt.Sprintf("invalid CNI_ARGS: %q is not KEY=VALUE", pair)}
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
