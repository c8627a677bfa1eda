// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// iptables returns the programs of iptables for an architecture, and the licences of their
// packages. apt-get, which need not run as root for that, downloads the packages from the
// sources of the machine into dir.
func iptables(ctx context.Context, dir, arch string) ([]file, error) {
	state, root := filepath.Join(dir, "apt"), filepath.Join(dir, "root")
	for _, d := range []string{"lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(state, d), 0o755); err != nil {
			return nil, err
		}
	}
	status := filepath.Join(state, "status") // empty: no package is installed
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		return nil, err
	}
	var options []string
	for _, o := range []string{
		"Dir::State=" + state, "Dir::State::status=" + status, "Dir::Cache=" + state,
		"APT::Architecture=" + arch, "APT::Architectures::=" + arch, "APT::Sandbox::User=root",
	} {
		options = append(options, "-o", o)
	}
	for _, args := range [][]string{{"-qq", "update"}, {"-qq", "-y", "--no-install-recommends", "--download-only", "install", "iptables"}} {
		if err := command(ctx, "apt-get", append(options, args...)...); err != nil {
			return nil, err
		}
	}
	packages, err := filepath.Glob(filepath.Join(state, "archives", "*.deb"))
	if err != nil {
		return nil, err
	}
	for _, p := range packages {
		if err := command(ctx, "dpkg-deb", "-x", p, root); err != nil {
			return nil, err
		}
	}
	return collect(root, "usr/share/doc/*/copyright")
}

func command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", cmd, err, out)
	}
	return nil
}

// collect returns the programs of both variants of iptables below root with all that they
// load, and the files that further patterns match. Each program is iptables, iptables-save and
// all others by its first argument.
func collect(root string, further ...string) (files []file, err error) {
	type part struct{ to, from string }
	var parts []part
	for _, pattern := range append(further, "usr/sbin/xtables-*-multi", "usr/lib/*/xtables/*.so") {
		names, err := fs.Glob(os.DirFS(root), pattern)
		if err != nil || len(names) == 0 {
			return nil, errors.Join(err, fmt.Errorf("no %s in the packages of iptables", pattern))
		}
		for _, name := range names {
			parts = append(parts, part{name, filepath.Join(root, name)})
		}
	}
	done := map[string]bool{}
	for ; len(parts) > 0; parts = parts[1:] {
		p := parts[0]
		if done[p.to] {
			continue
		}
		done[p.to] = true
		content, err := os.ReadFile(p.from)
		if err != nil {
			return nil, err
		}
		info, err := os.Stat(p.from)
		if err != nil {
			return nil, err
		}
		files = append(files, file{p.to, int64(info.Mode().Perm()), content})
		for _, name := range loads(content) {
			from, err := library(root, path.Base(name))
			if err != nil {
				return nil, err
			}
			to := "lib/" + name // where the loader looks for libraries on every architecture
			if path.IsAbs(name) {
				to = name[1:]
			}
			parts = append(parts, part{to, from})
		}
	}
	return files, nil
}

// loads returns the names of the libraries that a program or library loads, and the path of
// the loader. Other files load nothing.
func loads(content []byte) []string {
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil
	}
	names, _ := f.ImportedLibraries()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			loader, _ := io.ReadAll(p.Open())
			names = append(names, strings.TrimRight(string(loader), "\x00"))
		}
	}
	return names
}

// library finds a library below root.
func library(root, name string) (string, error) {
	for _, pattern := range []string{"lib/*", "usr/lib/*"} {
		found, err := filepath.Glob(filepath.Join(root, pattern, name))
		if err != nil {
			return "", err
		}
		for _, file := range found {
			if _, err := os.Stat(file); err == nil {
				return file, nil
			}
		}
	}
	return "", fmt.Errorf("no library %s in the packages of iptables", name)
}
