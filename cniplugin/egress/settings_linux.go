// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"os"
	"strings"
)

// setting is a file below /proc/sys/net and its value.
type setting struct{ path, value string }

// settings returns the settings of one end of the link.
func (w wiring) settings(link string) []setting {
	if w.Node.Is4() {
		return []setting{{"ipv4/conf/" + link + "/forwarding", "1"}}
	}
	return []setting{{"ipv6/conf/" + link + "/disable_ipv6", "0"}, {"ipv6/conf/" + link + "/accept_ra", "0"}}
}

// forwarding is the node's setting.
func (w wiring) forwarding() setting {
	if w.Node.Is4() {
		return setting{"ipv4/ip_forward", "1"}
	}
	return setting{"ipv6/conf/all/forwarding", "1"}
}

// forward switches on forwarding. Before it begins to forward IPv6, the kernel must be told
// to go on accepting router advertisements, or it drops the default route that it has from
// them.
func (w wiring) forward() error {
	on := w.forwarding()
	if have, err := readSetting(on.path); err != nil || have == on.value {
		return err
	}
	if w.Node.Is6() {
		link, err := hasNodeAddr(w.Node)
		if err != nil {
			return err
		}
		if link != "" {
			if err := writeSettings([]setting{{"ipv6/conf/" + link + "/accept_ra", "2"}}); err != nil {
				return err
			}
		}
	}
	return writeSettings([]setting{on})
}

const settingsDir = "/proc/sys/net/"

func readSetting(path string) (string, error) {
	b, err := os.ReadFile(settingsDir + path)
	return strings.TrimSpace(string(b)), err
}

// writeSettings writes the settings that differ, so that it works where /proc/sys is
// read-only and they are right.
func writeSettings(all []setting) error {
	for _, s := range all {
		have, err := readSetting(s.path)
		if err == nil && have != s.value {
			err = os.WriteFile(settingsDir+s.path, []byte(s.value), 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
