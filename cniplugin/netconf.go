// SPDX-License-Identifier: Apache-2.0

package cniplugin

// NetConf is the plugin's part of a network configuration. Fields that it does
// not know are ignored.
type NetConf struct {
	CNIVersion string `json:"cniVersion,omitempty"`
	Name       string `json:"name,omitempty"`
	Type       string `json:"type,omitempty"`

	// AgentSocket is the path of the agent's socket. Empty means DefaultSocket.
	AgentSocket string `json:"agentSocket,omitempty"`
	// StateDir is the directory shared with the agent. Empty means
	// DefaultStateDir.
	StateDir string `json:"stateDir,omitempty"`
	// VethPrefix begins the names of host side links, at most four characters.
	// Empty means eni.
	VethPrefix string `json:"vethPrefix,omitempty"`
	// LogFile gets the plugin's log. Empty means standard error.
	LogFile string `json:"pluginLogFile,omitempty"`
	// LogLevel is debug, info, warn or error, in any case. Empty means info.
	LogLevel string `json:"pluginLogLevel,omitempty"`
}
