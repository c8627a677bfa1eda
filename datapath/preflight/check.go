// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Severity says how bad a finding is.
type Severity string

const (
	// Harm means that running pods lose traffic.
	Harm Severity = "harm"
	// Risk means that they do under circumstances that the finding names.
	Risk Severity = "risk"
)

// Finding is one thing on a system that works against pods' network.
type Finding struct {
	// ID is stable, for programs: one of the IDs of [Check].
	ID       string   `json:"id"`
	Severity Severity `json:"severity"`
	// What happens, Why it does, and what to Do against it.
	What string `json:"what"`
	Why  string `json:"why"`
	Do   string `json:"do"`
	// Paths are the files that it was found in, from the root.
	Paths []string `json:"paths"`
	// Written means that the files of [Files] are the remedy.
	Written bool `json:"written"`
}

// check is one kind of finding.
type check struct {
	id  string
	run func(system, Config) []Finding
}

// checks are in the order of the report.
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
}

// Check reports what on the system whose root is fsys works against pods' network,
// as os.DirFS("/") shows it. The IDs of findings are networkd-foreign,
// networkd-pod-enis, networkd-order, networkmanager, ec2-net-utils,
// cloud-init-hotplug, udev-mac, rp-filter and neighbors. Files that cannot be
// read count as absent. An image has no /proc, and gets no finding about
// settings of the running kernel.
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

// system is the files of a system.
type system struct{ fsys fs.FS }

func (s system) read(name string) (string, bool) {
	b, err := fs.ReadFile(s.fsys, name)
	return string(b), err == nil
}

// has returns those of names that exist; a name may be a pattern.
func (s system) has(names ...string) (found []string) {
	for _, n := range names {
		m, err := fs.Glob(s.fsys, n)
		if err == nil {
			found = append(found, m...)
		}
	}
	return found
}

// inOrder returns the files that match pattern in dirs as systemd reads them: by
// name, and of files with one name only that in the first directory. An empty file
// or a link to /dev/null hides those with its name.
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

// settings returns the values of each key of an ini file as "section.key", in order.
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

// last returns the value that counts, or "".
func last(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

func no(value string) bool {
	return slices.Contains([]string{"no", "false", "off", "0", "n", "f"}, strings.ToLower(value))
}
