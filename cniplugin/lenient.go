// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
)

// lenientConfig reads what it can of a configuration that parseConfig refuses. DEL and GC
// need only the name of the network, the socket and the state directory, and the list on
// disk may have changed since ADD, be half written, or be for another version: that must
// not keep a pod from ending. A field without a valid value stays empty, which means its
// default value; the name has none.
func lenientConfig(data []byte) config {
	fields := readFields(data)
	var c config
	c.CNIVersion = newestVersion
	set := func(value *string, key string, valid func(string) bool) {
		var s string
		if json.Unmarshal(fields[strings.ToLower(key)], &s) == nil && valid(s) {
			*value = s
		}
	}
	set(&c.CNIVersion, "cniVersion", func(s string) bool { return checkVersion(s) == nil })
	set(&c.Name, "name", validID)
	set(&c.AgentSocket, "agentSocket", func(s string) bool { return filepath.IsAbs(s) && len(s) <= maxSocketPath })
	set(&c.StateDir, "stateDir", filepath.IsAbs)
	set(&c.VethPrefix, "vethPrefix", func(s string) bool { return datapath.ValidateHostLinkPrefix(s) == nil })
	set(&c.LogFile, "pluginLogFile", func(s string) bool { return s == "stderr" || filepath.IsAbs(s) })
	set(&c.LogLevel, "pluginLogLevel", func(s string) bool {
		_, err := NetConf{LogLevel: s}.level()
		return err == nil
	})
	var timeout durationWire
	if json.Unmarshal(fields["timeout"], &timeout) == nil && timeout > 0 {
		c.Timeout = time.Duration(timeout)
	}
	c.PrevResult = fields["prevresult"]
	return c
}

// readFields returns the fields of a JSON object by name in lower case, up to the first
// syntax error. To those of a list of plugins it adds the fields of the plugins, the first
// one first, that the list itself does not have.
func readFields(data []byte) map[string]json.RawMessage {
	fields := map[string]json.RawMessage{}
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return fields
	}
	for dec.More() {
		key, err := dec.Token()
		name, ok := key.(string)
		var value json.RawMessage
		if err != nil || !ok || dec.Decode(&value) != nil {
			break
		}
		fields[strings.ToLower(name)] = value
	}
	var plugins []json.RawMessage
	if json.Unmarshal(fields["plugins"], &plugins) != nil {
		return fields
	}
	for _, p := range plugins {
		for name, value := range readFields(p) {
			if _, ok := fields[name]; !ok {
				fields[name] = value
			}
		}
	}
	return fields
}
