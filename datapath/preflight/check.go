// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Severity is the severity of a finding.
type Severity string

const (
	// Harm means that running pods lose traffic.
	Harm Severity = "harm"
	// Risk means that pods lose traffic under conditions that the finding names.
	Risk Severity = "risk"
	// Info means that the system lacks something that a node may do without. It is no
	// conflict.
	Info Severity = "info"
)

// Finding is a setting or a program that conflicts with the network of pods, or information
// about a system that lacks something.
type Finding struct {
	// ID is a stable identifier for programs: one of the IDs of [Check].
	ID       string   `json:"id"`
	Severity Severity `json:"severity"`
	// The texts say what happens, why it happens, and how to prevent it.
	What string `json:"what"`
	Why  string `json:"why"`
	Do   string `json:"do"`
	// Paths lists the files that cause the finding, relative to the root.
	Paths []string `json:"paths"`
	// Written means that the files of [Files] prevent it.
	Written bool `json:"written"`
}

// check is one kind of finding.
type check struct {
	id  string
	run func(system, Config) []Finding
}

// checks lists the checks in the order of the report.
var checks = []check{
	{"networkd-foreign", networkdForeign},
	{"networkd-pod-enis", networkdPodENIs},
	{"networkd-order", networkdOrder},
	{"networkmanager", networkManagerManages},
	{"ec2-net-utils", ec2NetUtils},
	{"cloud-init-hotplug", cloudInitHotplug},
	{"udev-mac", udevMAC},
	{"rp-filter", rpFilter},
	{"neighbors", neighbors},
	{"iptables-backend", iptablesBackend},
	{"ufw", ufw},
	{"firewalld", firewalld},
	{"docker", docker},
	{"no-ipv6", noIPv6},
	{"read-only-settings", readOnlySettings},
	{"no-flowtables", noFlowtables},
}

// Check reports settings and programs that conflict with the network of pods. The
// root of the system is fsys, such as os.DirFS("/"). The IDs of findings are
// networkd-foreign, networkd-pod-enis, networkd-order, networkmanager,
// ec2-net-utils, cloud-init-hotplug, udev-mac, rp-filter, neighbors, iptables-backend,
// ufw, firewalld, docker, no-ipv6, read-only-settings and no-flowtables; the last three are
// information only. Check treats unreadable files as absent. An image has no /proc, so Check reports nothing about the
// settings of its kernel.
func Check(fsys fs.FS, c Config) []Finding {
	findings := []Finding{}
	for _, k := range checks {
		for _, f := range k.run(system{fsys}, c) {
			f.ID = k.id
			findings = append(findings, f)
		}
	}
	return findings
}

// system gives access to the files of a system.
type system struct{ fsys fs.FS }

func (s system) read(name string) (string, bool) {
	b, err := fs.ReadFile(s.fsys, name)
	return string(b), err == nil
}

// has returns the existing files among names. A name may be a pattern.
func (s system) has(names ...string) (found []string) {
	for _, n := range names {
		m, err := fs.Glob(s.fsys, n)
		if err == nil {
			found = append(found, m...)
		}
	}
	return found
}

// inOrder returns the files that match pattern in dirs in the order in which systemd
// reads them: by name. Of files with the same name, systemd reads only the one in
// the first directory. An empty file or a link to /dev/null hides the others.
func (s system) inOrder(pattern string, dirs ...string) []string {
	byName := map[string]string{}
	for _, d := range dirs {
		for _, f := range s.has(path.Join(d, pattern)) {
			if _, ok := byName[path.Base(f)]; !ok {
				byName[path.Base(f)] = f
			}
		}
	}
	var files []string
	for _, f := range byName {
		if t, ok := s.read(f); ok && strings.TrimSpace(t) != "" {
			files = append(files, f)
		}
	}
	slices.SortFunc(files, func(a, b string) int { return strings.Compare(path.Base(a), path.Base(b)) })
	return files
}

// settings returns the values of an ini file by "section.key", in order.
func settings(text string) map[string][]string {
	values, section := map[string][]string{}, ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]") {
			section = line[1 : len(line)-1]
			continue
		}
		if key, value, ok := strings.Cut(line, "="); ok {
			key = section + "." + strings.TrimSpace(key)
			values[key] = append(values[key], strings.TrimSpace(value))
		}
	}
	return values
}

// last returns the last value, which is the effective one, or "".
func last(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

func no(value string) bool {
	return slices.Contains([]string{"no", "false", "off", "0", "n", "f"}, strings.ToLower(value))
}
