// SPDX-License-Identifier: Apache-2.0

package install

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// config says what is installed, and where. All paths but Source are of the node, below
// Root.
type config struct {
	// Root is the directory in front of all paths of the node. Empty means /.
	Root string
	// Source is the directory with the programs to install.
	Source string
	// Programs are the programs by the name that they get, each with its name in Source.
	Programs map[string]string
	// PluginDir is the directory in which the runtime finds plugins.
	PluginDir string
	// StateDir is the state directory of the agent.
	StateDir string
	// Networks are the names of the networks with pods that need the plugins.
	Networks []string
	// Sysctls are settings of the kernel by key, such as net.ipv4.ip_forward. A key that
	// begins with a question mark is left out if the kernel does not have it.
	Sysctls []sysctl
	// Files are further configuration files by path, such as those of package preflight.
	Files map[string]string
}

// sysctl is a setting of the kernel.
type sysctl struct {
	Key, Value string
	// Optional means that a kernel without the setting is right too.
	Optional bool
}

// node is what a node has of a [config].
type node struct {
	// Source has the digests of the programs in Source of the configuration by their names there.
	Source map[string]string
	// Files has the digests of files by path: the plugins, and the configuration files.
	Files map[string]string
	// Leftovers are temporary files of an installation that was killed.
	Leftovers []string
	// Sysctls has the present values by key. A setting that the kernel does not have is
	// missing.
	Sysctls map[string]string
	// Record is the record of an earlier installation.
	Record record
	// Results are results of the networks that the runtime still holds: one for each
	// interface of a pod.
	Results int
}

// record is what an installation found and wrote.
type record struct {
	// Files has what was done for each path.
	Files map[string]fileRecord `json:"files,omitempty"`
	// Sysctls has the values from before by key, and Wrote those of the installation.
	Sysctls map[string]string `json:"sysctls,omitempty"`
	Wrote   map[string]string `json:"wrote,omitempty"`
}

// fileRecord is what an installation found and wrote at a path.
type fileRecord struct {
	// Digests are the digests of the files that installations have written, the last one
	// first.
	Digests []string `json:"digests"`
	// Saved is the path of the copy of the file that was there before. Empty means that
	// there was none.
	Saved string `json:"saved,omitempty"`
}

// step is one change of a node. It prints itself as the command that an operator would type.
type step interface{ fmt.Stringer }

// The steps. All paths are without the root.
type (
	// removeFile removes a file.
	removeFile struct{ Path string }
	// writeRecord writes the record.
	writeRecord struct {
		Path   string
		Record record
	}
	// copyFile copies a file of the node under another name.
	copyFile struct{ From, To string }
	// installFile copies a program of Source of the configuration.
	installFile struct{ Source, To string }
	// writeText writes a configuration file.
	writeText struct{ Path, Text string }
	// setSysctl writes a setting of the kernel.
	setSysctl struct{ Key, Value string }
)

func (s removeFile) String() string  { return "rm " + s.Path }
func (s writeRecord) String() string { return "write " + s.Path }
func (s copyFile) String() string    { return "cp -p " + s.From + " " + s.To }
func (s installFile) String() string { return "install -m 0755 " + s.Source + " " + s.To }
func (s writeText) String() string   { return "write " + s.Path }
func (s setSysctl) String() string   { return "sysctl -w " + s.Key + "=" + s.Value }

const (
	recordName = "install.json"
	// savedDir is the directory below the state directory with copies of files from before.
	savedDir = "saved"
)

func (c config) record() string { return filepath.Join(c.StateDir, recordName) }

// program returns the path of an installed program.
func (c config) program(name string) string { return filepath.Join(c.PluginDir, name) }

// plan returns the steps that are still to do on a node. It returns an error if a program is
// missing in Source of the configuration, or if the kernel lacks a setting.
func plan(c config, n node) ([]step, error) {
	record, steps := n.Record.clone(), leftovers(n)
	var saves, writes []step
	put := func(path, digest string, step step) {
		r := record.Files[path]
		present, exists := n.Files[path]
		if exists && !slices.Contains(r.Digests, present) && present != digest && r.Saved == "" {
			r.Saved = filepath.Join(c.StateDir, savedDir, filepath.Base(path))
			saves = append(saves, copyFile{path, r.Saved})
		}
		if len(r.Digests) == 0 || r.Digests[0] != digest {
			r.Digests = append([]string{digest}, slices.DeleteFunc(r.Digests, func(d string) bool { return d == digest })...)
		}
		record.Files[path] = r
		if present != digest {
			writes = append(writes, step)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Programs)) {
		source := c.Programs[name]
		digest, ok := n.Source[source]
		if !ok {
			return nil, fmt.Errorf("%s has no program %s, which is to be installed as %s", c.Source, source, c.program(name))
		}
		put(c.program(name), digest, installFile{filepath.Join(c.Source, source), c.program(name)})
	}
	for _, path := range slices.Sorted(maps.Keys(c.Files)) {
		put(path, digestOf([]byte(c.Files[path])), writeText{path, c.Files[path]})
	}
	for _, s := range c.Sysctls {
		present, ok := n.Sysctls[s.Key]
		switch {
		case !ok && s.Optional, ok && present == s.Value:
			continue
		case !ok:
			return nil, fmt.Errorf("the kernel has no setting %s, want %s=%s", s.Key, s.Key, s.Value)
		}
		if record.Wrote[s.Key] == "" {
			record.Sysctls[s.Key] = present
		}
		record.Wrote[s.Key] = s.Value
		writes = append(writes, setSysctl{s.Key, s.Value})
	}
	// The copies come before the record that names them: a copy without a record is made
	// again, and a record without its copy would lose the file.
	steps = append(steps, saves...)
	if !record.equal(n.Record) {
		steps = append(steps, writeRecord{c.record(), record})
	}
	return append(steps, writes...), nil
}

// leftovers returns the steps that remove temporary files.
func leftovers(n node) (steps []step) {
	for _, path := range n.Leftovers {
		steps = append(steps, removeFile{path})
	}
	return steps
}

// remains says why a removal leaves something on the node. The zero value means that it does
// not.
type remains struct {
	// Results are results of pods that the runtime still holds. Then the plugins and the
	// settings stay.
	Results int
	// Edited are files and settings that another program has changed since.
	Edited []string
}

// planRemoval returns the steps that restore what was on a node before the installation, and
// what stays.
func planRemoval(c config, n node) (steps []step, kept remains) {
	if n.Results > 0 {
		return nil, remains{Results: n.Results}
	}
	steps = leftovers(n)
	for _, key := range slices.Sorted(maps.Keys(n.Record.Wrote)) {
		before, present := n.Record.Sysctls[key], n.Sysctls[key]
		switch {
		case present == before:
		case present == n.Record.Wrote[key]:
			steps = append(steps, setSysctl{key, before})
		default:
			kept.Edited = append(kept.Edited, key+"="+present)
		}
	}
	var saved []step
	for _, path := range slices.Sorted(maps.Keys(n.Record.Files)) {
		r := n.Record.Files[path]
		present, exists := n.Files[path]
		copied, hasCopy := n.Files[r.Saved]
		switch {
		case exists && !slices.Contains(r.Digests, present) && present != copied:
			kept.Edited = append(kept.Edited, path)
		case hasCopy && present != copied:
			steps = append(steps, copyFile{r.Saved, path})
		case !hasCopy && exists:
			steps = append(steps, removeFile{path})
		}
		if hasCopy {
			saved = append(saved, removeFile{r.Saved})
		}
	}
	if !n.Record.empty() {
		steps = append(steps, removeFile{c.record()})
	}
	// The copies go last: a removal that was killed before finds them by their record, and
	// one that was killed after has restored them.
	return append(steps, saved...), kept
}

func (r record) empty() bool { return len(r.Files)+len(r.Wrote) == 0 }

func (r record) clone() record {
	out := record{Files: map[string]fileRecord{}, Sysctls: map[string]string{}, Wrote: map[string]string{}}
	for path, f := range r.Files {
		out.Files[path] = fileRecord{slices.Clone(f.Digests), f.Saved}
	}
	maps.Copy(out.Sysctls, r.Sysctls)
	maps.Copy(out.Wrote, r.Wrote)
	return out
}

func (r record) equal(o record) bool {
	same := func(a, b fileRecord) bool { return a.Saved == b.Saved && slices.Equal(a.Digests, b.Digests) }
	return maps.EqualFunc(r.Files, o.Files, same) && maps.Equal(r.Sysctls, o.Sysctls) && maps.Equal(r.Wrote, o.Wrote)
}

// sysctlPath returns the path of a setting. A dot in the name of a link is a slash in the
// key, as for sysctl(8).
func sysctlPath(key string) string {
	return "/proc/sys/" + strings.NewReplacer(".", "/", "/", ".").Replace(key)
}
