// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/vpcnet/vpcnet/cniplugin/internal/pluginlog"
	"github.com/vpcnet/vpcnet/snat"
)

// defaultStateDir is a directory that a reboot empties, as it does with the links.
const defaultStateDir = "/run/vpcnet/egress"

// conf is a network configuration.
type conf struct {
	types.PluginConf
	Enabled  text   `json:"enabled"`
	NodeIP   string `json:"nodeIP"`
	MTU      text   `json:"mtu"`
	Random   string `json:"randomizeSNAT"`
	LogFile  string `json:"pluginLogFile"`
	LogLevel string `json:"pluginLogLevel"`
	StateDir string `json:"stateDir"`
	// RawPrevResult of PluginConf loses fields of results that it does not know.
	PrevResult json.RawMessage `json:"prevResult"`
}

// text is a text, or a number or a truth value as its text.
type text string

func (t *text) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil { // "…" or null
		*t = text(s)
		return nil
	}
	if b[0] == '{' || b[0] == '[' {
		return fmt.Errorf("%s is not a text", b)
	}
	*t = text(b)
	return nil
}

func parse(stdin []byte) (conf, error) {
	var c conf
	if err := json.Unmarshal(stdin, &c); err != nil {
		return c, types.NewError(types.ErrDecodingFailure, "network configuration cannot be read", err.Error())
	}
	c.CNIVersion = cmp.Or(c.CNIVersion, "0.1.0")
	c.StateDir = cmp.Or(c.StateDir, defaultStateDir)
	if !filepath.IsAbs(c.StateDir) {
		return c, invalid("stateDir", c.StateDir, "want an absolute path")
	}
	return c, nil
}

// invalid returns the error for a value of the configuration.
func invalid(field, value, want string) error {
	return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("invalid %s %q", field, value), want)
}

// enabled reports whether ADD and CHECK have anything to do.
func (c conf) enabled() (bool, error) {
	switch c.Enabled {
	case "true":
		return true, nil
	case "false", "":
		return false, nil
	}
	return false, invalid("enabled", string(c.Enabled), "want true or false")
}

// wanted are the checked values of an enabled configuration.
type wanted struct {
	node   netip.Addr
	random snat.Random
	mtu    int
}

// defaultMTU is the kernel's for a link of kind veth.
const defaultMTU = 1500

// wanted checks the values that only ADD and CHECK need.
func (c conf) wanted() (wanted, error) {
	w := wanted{random: cmp.Or(snat.Random(c.Random), snat.RandomPRNG), mtu: defaultMTU}
	var err error
	if w.node, err = netip.ParseAddr(c.NodeIP); err != nil || w.node.Zone() != "" || w.node.Is4In6() || !w.node.IsGlobalUnicast() {
		return w, invalid("nodeIP", c.NodeIP, "want an address of the node, of the family that the cluster does not have")
	}
	least := 68
	if w.node.Is6() {
		least = 1280
	}
	if c.MTU != "" {
		if w.mtu, err = strconv.Atoi(string(c.MTU)); err != nil || w.mtu < least || w.mtu > 65535 {
			return w, invalid("mtu", string(c.MTU), fmt.Sprintf("want %d to 65535", least))
		}
	}
	switch w.random {
	case snat.RandomPRNG, snat.RandomHash, snat.RandomNone:
	default:
		return w, invalid("randomizeSNAT", c.Random, "want prng, hashrandom or none")
	}
	if c.IPAM.Type == "" {
		return w, invalid("ipam", "", "want the type of an IPAM plugin, such as host-local")
	}
	if !pluginlog.ValidFile(c.LogFile) {
		return w, invalid("pluginLogFile", c.LogFile, "want an absolute path, or stderr")
	}
	if _, err := pluginlog.Level(c.LogFile, c.LogLevel); err != nil {
		return w, invalid("pluginLogLevel", c.LogLevel, "want debug, info, warn, error or fatal")
	}
	return w, nil
}
