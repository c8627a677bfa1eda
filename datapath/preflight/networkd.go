// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"path"
	"slices"
	"strings"
)

// networkDirs lists the directories of .network and .link files in the order of
// precedence.
var networkDirs = []string{
	"etc/systemd/network", "run/systemd/network", "usr/local/lib/systemd/network", "usr/lib/systemd/network", "lib/systemd/network",
}

// networkd reports whether systemd-networkd runs now or after the next boot.
func (s system) networkd() bool {
	// The brackets make Glob list the directory instead of following the symbolic
	// link, which is broken on an image.
	return len(s.has("run/systemd/netif/state", "etc/systemd/system/*.wants/systemd-networkd.servic[e]")) > 0
}

// networkdForeign checks whether networkd deletes rules and routes of other programs.
func networkdForeign(s system, _ Config) []Finding {
	if !s.networkd() {
		return nil
	}
	files := []string{"etc/systemd/networkd.conf"}
	files = append(files, s.inOrder("*.conf", "etc/systemd/networkd.conf.d", "run/systemd/networkd.conf.d",
		"usr/local/lib/systemd/networkd.conf.d", "usr/lib/systemd/networkd.conf.d")...)
	values, paths := map[string]string{}, []string{}
	for _, f := range files {
		t, ok := s.read(f)
		if !ok {
			continue
		}
		for key, v := range settings(t) {
			if strings.HasPrefix(key, "Network.ManageForeign") {
				values[key] = last(v)
				paths = append(paths, f)
			}
		}
	}
	if no(values["Network.ManageForeignRoutingPolicyRules"]) && no(values["Network.ManageForeignRoutes"]) {
		return nil
	}
	if len(paths) == 0 {
		paths = files[:1]
	}
	slices.Sort(paths)
	return []Finding{{
		Severity: Risk,
		What:     "systemd-networkd deletes rules and routes of other programs when an interface appears or is configured again",
		Why:      "ManageForeignRoutingPolicyRules and ManageForeignRoutes are on by default; networkd keeps rules of protocol kernel, such as vpcnet's, but not routes on an interface that it manages",
		Do:       "set both to no in /" + networkdDropIn + " and restart systemd-networkd",
		Paths:    slices.Compact(paths), Written: true,
	}}
}

// candidate holds the properties of a link that a [Match] section compares.
type candidate struct {
	name, kind string
	drivers    []string
}

// podENIs returns links with the usual names of pod ENIs on different systems.
func podENIs(c Config) (links []candidate) {
	for _, name := range []string{"ens6", "eth1", "enp0s6", "enX1"} {
		if !slices.Contains(c.Keep, name) {
			links = append(links, candidate{name: name, drivers: c.drivers()})
		}
	}
	return links
}

// hostLinks returns a host link of each kind.
func hostLinks(c Config) (links []candidate) {
	for _, pattern := range c.hostLinks() {
		links = append(links, candidate{name: strings.TrimSuffix(pattern, "*") + "0123456789a", kind: "veth", drivers: []string{"veth"}})
	}
	return links
}

// matches reports whether the [Match] section of a file may match l. A file for one
// MAC address or bus path is for an existing link, not for future ones.
func (l candidate) matches(file map[string][]string) bool {
	for _, key := range []string{"MACAddress", "PermanentMACAddress", "Path", "WLANInterfaceType", "SSID"} {
		if len(file["Match."+key]) > 0 {
			return false
		}
	}
	name := matchesAny(file["Match.Name"], l.name) && matchesAny(file["Match.OriginalName"], l.name)
	kind := matchesAny(file["Match.Kind"], l.kind) && matchesAny(file["Match.Type"], "ether")
	driver := slices.ContainsFunc(l.drivers, func(d string) bool { return matchesAny(file["Match.Driver"], d) })
	return name && kind && driver
}

// matchesAny reports whether one of the patterns matches s. If the list begins with
// an exclamation mark, it reports whether no pattern matches. It is true for an empty
// list.
func matchesAny(lists []string, s string) bool {
	patterns := strings.Fields(strings.Join(lists, " "))
	if len(patterns) == 0 {
		return true
	}
	inverted := strings.HasPrefix(patterns[0], "!")
	patterns[0] = strings.TrimPrefix(patterns[0], "!")
	return inverted != slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, s)
		return ok && err == nil
	})
}

// claimants returns the files that make networkd configure one of the links, up to
// the first file that makes them unmanaged, and whether there is such a file.
func (s system) claimants(links []candidate) (files []string, guarded bool) {
	for _, f := range s.inOrder("*.network", networkDirs...) {
		t, _ := s.read(f)
		parsed := settings(t)
		if !slices.ContainsFunc(links, func(l candidate) bool { return l.matches(parsed) }) {
			continue
		}
		if u := last(parsed["Link.Unmanaged"]); u != "" && !no(u) {
			return files, true
		}
		files = append(files, f)
	}
	return files, false
}

// networkdPodENIs finds .network files that make networkd configure pod ENIs or host
// links.
func networkdPodENIs(s system, c Config) (findings []Finding) {
	if !s.networkd() {
		return nil
	}
	const reload = " and run networkctl reload"
	if files, guarded := s.claimants(podENIs(c)); len(files) > 0 && !guarded {
		findings = append(findings, Finding{
			Severity: Harm,
			What:     "systemd-networkd requests an address by DHCP on each new pod ENI, adds another default route, and deletes the ENI's addresses and routes when it loses its carrier",
			Why:      "these files match every ENI, not only the primary one",
			Do:       "name the primary ENI's link, so that the file /" + podENIsNetwork + " can be written," + reload,
			Paths:    files, Written: len(c.Keep) > 0,
		})
	}
	var claiming, names []string
	for i, l := range hostLinks(c) {
		if files, guarded := s.claimants([]candidate{l}); len(files) > 0 && !guarded {
			claiming, names = append(claiming, files...), append(names, c.hostLinks()[i])
		}
	}
	if len(claiming) > 0 {
		slices.Sort(claiming)
		files := slices.Compact(claiming)
		findings = append(findings, Finding{
			Severity: Harm,
			What:     "systemd-networkd configures pods' host links",
			Why:      "these files match links named " + strings.Join(names, ", "),
			Do:       "write /" + hostLinksNetwork + reload,
			Paths:    files, Written: true,
		})
	}
	return findings
}

// networkdOrder finds files that networkd reads before the one with Unmanaged.
func networkdOrder(s system, c Config) (findings []Finding) {
	if !s.networkd() {
		return nil
	}
	var early []string
	kinds := [][]candidate{podENIs(c)}
	for _, l := range hostLinks(c) {
		kinds = append(kinds, []candidate{l})
	}
	for _, links := range kinds {
		if files, guarded := s.claimants(links); guarded {
			early = append(early, files...)
		}
	}
	if len(early) == 0 {
		return nil
	}
	slices.Sort(early)
	return []Finding{{
		Severity: Harm,
		What:     "the files that stop systemd-networkd from configuring pod ENIs or host links have no effect",
		Why:      "networkd uses the first matching file in the order of names, and these files come earlier",
		Do:       "give these files names that sort after 05-vpcnet, or a [Match] that excludes pod ENIs and links named " + strings.Join(c.hostLinks(), ", "),
		Paths:    slices.Compact(early),
	}}
}

// udevMAC checks whether udev changes the MAC addresses of host links.
func udevMAC(s system, c Config) []Finding {
	var paths, names []string
	for i, l := range hostLinks(c) {
		if path := s.persistentMAC(l); path != "" {
			paths, names = append(paths, path), append(names, c.hostLinks()[i])
		}
	}
	if len(paths) == 0 {
		return nil
	}
	slices.Sort(paths)
	return []Finding{{
		Severity: Risk,
		What:     "udev may change the MAC address of a pod's host link, and the pod no longer reaches its gateway",
		Why: "MACAddressPolicy=persistent applies to links named " + strings.Join(names, ", ") +
			"; udev does not change links that are created with an address, as vpcnet's are, but it changes those of other CNI plugins",
		Do:    "write /" + hostLinksLink,
		Paths: slices.Compact(paths), Written: true,
	}}
}

// persistentMAC returns the file that makes udev change the MAC address of a link, or "".
func (s system) persistentMAC(l candidate) string {
	for _, f := range s.inOrder("*.link", networkDirs...) {
		t, _ := s.read(f)
		parsed := settings(t)
		if !l.matches(parsed) {
			continue
		}
		// udev uses only the first matching file.
		if last(parsed["Link.MACAddressPolicy"]) == "persistent" {
			return f
		}
		return ""
	}
	return ""
}
