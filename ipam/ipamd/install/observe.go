// SPDX-License-Identifier: Apache-2.0

package install

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// resultsDir is where the CNI library of runtimes keeps the results of ADD, in files called
// NETWORK-CONTAINER-INTERFACE: https://pkg.go.dev/github.com/containernetworking/cni/libcni.
const resultsDir = "/var/lib/cni/results"

// temporary begins the names of files that are being written.
const temporary = ".vpcnet-"

// at returns the path of a file of the node.
func (c config) at(path string) string { return filepath.Join(c.Root, path) }

// observe looks at the node.
func observe(c config) (n node, err error) {
	n = node{Source: map[string]string{}, Files: map[string]string{}, Sysctls: map[string]string{}}
	if n.Record, err = readRecord(c.at(c.record())); err != nil {
		return n, err
	}
	for _, source := range c.Programs {
		if err := addDigest(n.Source, source, filepath.Join(c.Source, source)); err != nil {
			return n, err
		}
	}
	paths := map[string]bool{}
	for name := range c.Programs {
		paths[c.program(name)] = true
	}
	for path := range c.Files {
		paths[path] = true
	}
	saved := map[string]bool{}
	for path, r := range n.Record.Files {
		paths[path] = true
		if r.Saved != "" {
			paths[r.Saved], saved[r.Saved] = true, true
		}
	}
	dirs := map[string]bool{c.StateDir: true}
	for path := range paths {
		dirs[filepath.Dir(path)] = true
		if err := addDigest(n.Files, path, c.at(path)); err != nil {
			return n, err
		}
	}
	keys := maps.Clone(n.Record.Wrote)
	for _, s := range c.Sysctls {
		if keys == nil {
			keys = map[string]string{}
		}
		keys[s.Key] = s.Value
	}
	for key := range keys {
		b, err := os.ReadFile(c.at(sysctlPath(key)))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return n, err
		}
		n.Sysctls[key] = strings.TrimSpace(string(b))
	}
	for dir := range dirs {
		n.Leftovers = append(n.Leftovers, c.list(dir, func(name string) bool { return strings.HasPrefix(name, temporary) })...)
	}
	copies := filepath.Join(c.StateDir, savedDir)
	n.Leftovers = append(n.Leftovers, c.list(copies, func(name string) bool { return !saved[filepath.Join(copies, name)] })...)
	slices.Sort(n.Leftovers)
	n.Leftovers = slices.Compact(n.Leftovers)
	for _, network := range c.Networks {
		n.Results += len(c.list(resultsDir, func(name string) bool { return strings.HasPrefix(name, network+"-") }))
	}
	return n, nil
}

// list returns the files of a directory with names that fit. A directory that does not exist, or
// that cannot be read, has none.
func (c config) list(dir string, fits func(string) bool) (found []string) {
	entries, err := os.ReadDir(c.at(dir))
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if e.Type().IsRegular() && fits(e.Name()) {
			found = append(found, filepath.Join(dir, e.Name()))
		}
	}
	return found
}

// addDigest adds the digest of the file at path to digests, unless it does not exist.
func addDigest(digests map[string]string, name, path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular(): // to read a FIFO would block
		return fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	digests[name] = hex.EncodeToString(h.Sum(nil))
	return nil
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func readRecord(path string) (r record, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return r, fmt.Errorf("record of an earlier installation %s: %w", path, err)
	}
	return r, nil
}
