// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// netConfWire is the JSON form of NetConf, with the same fields in the same order.
type netConfWire struct {
	CNIVersion  string          `json:"cniVersion,omitempty"`
	Name        string          `json:"name,omitempty"`
	Type        string          `json:"type,omitempty"`
	AgentSocket string          `json:"agentSocket,omitempty"`
	StateDir    string          `json:"stateDir,omitempty"`
	Timeout     durationWire    `json:"timeout,omitzero"`
	VethPrefix  string          `json:"vethPrefix,omitempty"`
	MTU         mtuWire         `json:"mtu,omitzero"`
	LogFile     string          `json:"pluginLogFile,omitempty"`
	LogLevel    string          `json:"pluginLogLevel,omitempty"`
	PrevResult  json.RawMessage `json:"prevResult,omitempty"`
}

// MarshalJSON implements [json.Marshaler].
func (c NetConf) MarshalJSON() ([]byte, error) {
	return json.Marshal(netConfWire{
		c.CNIVersion, c.Name, c.Type, c.AgentSocket, c.StateDir, durationWire(c.Timeout),
		c.VethPrefix, mtuWire(c.MTU), c.LogFile, c.LogLevel, c.PrevResult,
	})
}

// UnmarshalJSON implements [json.Unmarshaler].
func (c *NetConf) UnmarshalJSON(b []byte) error {
	var w netConfWire
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	*c = NetConf{
		w.CNIVersion, w.Name, w.Type, w.AgentSocket, w.StateDir, time.Duration(w.Timeout),
		w.VethPrefix, int(w.MTU), w.LogFile, w.LogLevel, w.PrevResult,
	}
	return nil
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
		return fmt.Errorf("mtu %s is not a whole number", b)
	}
	*m = mtuWire(v)
	return nil
}
