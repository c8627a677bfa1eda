// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

// netConfWire is the JSON form of the fields that the plugin uses.
type netConfWire struct {
	CNIVersion  string          `json:"cniVersion,omitempty"`
	Name        string          `json:"name,omitempty"`
	Type        string          `json:"type,omitempty"`
	AgentSocket string          `json:"agentSocket,omitempty"`
	StateDir    string          `json:"stateDir,omitempty"`
	Timeout     durationWire    `json:"timeout,omitzero"`
	VethPrefix  string          `json:"vethPrefix,omitempty"`
	MTU         mtuWire         `json:"mtu,omitzero"`
	Mode        string          `json:"mode,omitempty"`
	Groups      []string        `json:"securityGroups,omitempty"`
	Enforcement string          `json:"podSGEnforcingMode,omitempty"`
	LogFile     string          `json:"pluginLogFile,omitempty"`
	LogLevel    string          `json:"pluginLogLevel,omitempty"`
	IPAM        json.RawMessage `json:"ipam,omitempty"`
	PrevResult  json.RawMessage `json:"prevResult,omitempty"`

	// The following fields are not in a NetConf.

	RuntimeConfig json.RawMessage `json:"runtimeConfig,omitempty"`
	Args          json.RawMessage `json:"args,omitempty"`
	Enabled       json.RawMessage `json:"enabled,omitempty"`
	RandomizeSNAT json.RawMessage `json:"randomizeSNAT,omitempty"`
	NodeIP        json.RawMessage `json:"nodeIP,omitempty"`
}

// MarshalJSON implements [json.Marshaler].
func (c NetConf) MarshalJSON() ([]byte, error) {
	w := struct {
		netConfWire
		Capabilities     map[string]bool      `json:"capabilities,omitempty"`
		IPAM             types.IPAM           `json:"ipam,omitzero"`
		DNS              dnsWire              `json:"dns,omitzero"`
		ValidAttachments []types.GCAttachment `json:"cni.dev/valid-attachments,omitempty"`
		PrevResult       types.Result         `json:"prevResult,omitempty"`
	}{
		netConfWire{
			CNIVersion: c.CNIVersion, Name: c.Name, Type: c.Type, AgentSocket: c.AgentSocket, StateDir: c.StateDir,
			Timeout: durationWire(c.Timeout), VethPrefix: c.VethPrefix, MTU: mtuWire(c.MTU), LogFile: c.LogFile, LogLevel: c.LogLevel,
			Mode: c.Mode, Groups: c.SecurityGroups, Enforcement: c.Enforcement,
		},
		c.Capabilities, c.IPAM, dnsWire(c.DNS), c.ValidAttachments, c.PrevResult,
	}
	return json.Marshal(w)
}

// dnsWire is a types.DNS that is not in JSON if it is empty.
type dnsWire types.DNS

func (d dnsWire) IsZero() bool { return (*types.DNS)(&d).IsEmpty() }

// UnmarshalJSON implements [json.Unmarshaler]. It does not check the values, see
// [ParseNetConf].
func (c *NetConf) UnmarshalJSON(b []byte) error {
	var w netConfWire
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	conf := w.netConf()
	if err := checkVersion(conf.CNIVersion); err != nil {
		return err
	}
	if err := conf.unmarshalShared(b, w.prevResult()); err != nil {
		return err
	}
	*c = conf
	return nil
}

// unmarshalShared sets c.PluginConf to all fields of b, the JSON form of c.
func (c *NetConf) unmarshalShared(b []byte, prevResult json.RawMessage) error {
	if err := json.Unmarshal(b, &c.PluginConf); err != nil {
		return &Error{Code: CodeDecodingFailure, Msg: "network configuration cannot be read", Details: err.Error()}
	}
	c.RawPrevResult = nil
	c.CNIVersion = cmp.Or(c.CNIVersion, unversioned)
	prev, err := parsePrevResult(prevResult, c.CNIVersion)
	if err != nil || len(prevResult) == 0 {
		return err
	}
	if !supports(c.CNIVersion, versionOfInterfaces) {
		c.PrevResult, err = parseOldResult(prevResult, c.CNIVersion)
		return err
	}
	c.PrevResult, err = prev.as(c.CNIVersion)
	return err
}

// prevResult returns the previous result, empty if there is none.
func (w netConfWire) prevResult() json.RawMessage {
	if string(w.PrevResult) == "null" {
		return nil
	}
	return w.PrevResult
}

// netConf returns the configuration without the fields that only UnmarshalJSON reads.
func (w netConfWire) netConf() NetConf {
	return NetConf{
		PluginConf:  types.PluginConf{CNIVersion: cmp.Or(w.CNIVersion, unversioned), Name: w.Name, Type: w.Type},
		AgentSocket: w.AgentSocket, StateDir: w.StateDir, Timeout: time.Duration(w.Timeout),
		VethPrefix: w.VethPrefix, MTU: int(w.MTU), LogFile: w.LogFile, LogLevel: w.LogLevel,
		Mode: w.Mode, SecurityGroups: w.Groups, Enforcement: w.Enforcement,
	}
}

// durationWire is a time.Duration with a JSON form such as "1m30s".
type durationWire time.Duration

func (d durationWire) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *durationWire) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("timeout %q is not a duration such as 60s", b)
	}
	*d = durationWire(v)
	return nil
}

// mtuWire is an MTU. In JSON it is a number, and UnmarshalJSON also accepts a string.
type mtuWire int

func (m *mtuWire) UnmarshalJSON(b []byte) error {
	s := string(b)
	if unquoted, err := strconv.Unquote(s); err == nil {
		s = unquoted
	}
	if s == "" || s == "null" {
		return nil
	}
	v, err := strconv.Atoi(s)
	if err != nil {
		return fmt.Errorf("mtu %s is not a whole number, want 68 to 65535", b)
	}
	*m = mtuWire(v)
	return nil
}
