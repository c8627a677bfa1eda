// SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// kernelDir is the directory into which .ci/kernel unpacks the kernel.
const kernelDir = "/var/lib/vpcnet-ci/kernel"

// modules are the kernel modules that the tests need, without their dependencies.
var modules = []string{
	"veth", "8021q", "ipvlan", "bridge", "nft_fib_inet", "nft_ct", "nft_objref", "nft_chain_nat", "nft_nat", "nft_masq", "nft_reject_inet",
	"nft_flow_offload", "nf_flow_table_inet",
}

// translation are those of modules with which nftables translate addresses, and legacy are
// the modules of iptables-legacy for the same.
var (
	translation = []string{"nft_chain_nat", "nft_nat", "nft_masq"}
	legacy      = []string{
		"iptable_nat", "iptable_mangle", "ip6table_nat", "ip6table_mangle",
		"xt_addrtype", "xt_comment", "xt_connmark", "xt_conntrack", "xt_mark", "xt_nat",
	}
)

// kernel is an unpacked package of a Linux kernel.
type kernel struct {
	image   string // path of the kernel itself
	modules string // path of the directory with modules.dep
}

func findKernel() (k kernel, err error) {
	for _, f := range []struct {
		to      *string
		pattern string
	}{{&k.image, "boot/vmlinuz-*"}, {&k.modules, "lib/modules/*"}} {
		found, err := filepath.Glob(filepath.Join(kernelDir, f.pattern))
		if err != nil {
			return k, err
		}
		if len(found) != 1 {
			return k, fmt.Errorf("%d files match %s in %s, want 1", len(found), f.pattern, kernelDir)
		}
		*f.to = found[0]
	}
	return k, nil
}

// files returns the paths of the named modules and of their dependencies, each after
// its own dependencies. It skips names that modules.dep does not list: they are built
// into the kernel, as nft_objref since Linux 6.2.
func (k kernel) files(names []string) (all []string, err error) {
	deps, err := os.ReadFile(filepath.Join(k.modules, "modules.dep"))
	if err != nil {
		return nil, err
	}
	lines := map[string][]string{}
	for line := range strings.Lines(string(deps)) {
		f := strings.Fields(strings.Replace(line, ":", "", 1))
		lines[strings.TrimSuffix(path.Base(f[0]), ".ko")] = f
	}
	for _, name := range names {
		for _, f := range slices.Backward(lines[name]) { // the first is the module itself
			file := filepath.Join(k.modules, f)
			if !slices.Contains(all, file) {
				all = append(all, file)
			}
		}
	}
	return all, nil
}

// archive is a file system in the format of an initramfs: a cpio archive of type
// "newc" (https://docs.kernel.org/driver-api/early-userspace/buffer-format.html).
type archive struct{ bytes.Buffer }

const (
	directory  = 0o040755
	executable = 0o100755
)

func (a *archive) add(name string, mode int, data []byte) {
	const inode, links = 0, 1
	header := []int{inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0}
	a.WriteString("070701")
	for _, v := range header {
		fmt.Fprintf(a, "%08x", v)
	}
	a.WriteString(name + "\x00")
	a.pad()
	a.Write(data)
	a.pad()
}

func (a *archive) pad() {
	for a.Len()%4 != 0 {
		a.WriteByte(0)
	}
}

// image is the file system of the machine.
type image struct {
	programs map[string]string // path on this system, by path in the machine
	// late puts the modules into /late, where init leaves them to the test.
	late bool
	// legacy has iptables-legacy instead of the translation by nftables.
	legacy bool
}

// addLegacy adds the programs of iptables-legacy, and their parts for each match and target.
func (im *image) addLegacy(ctx context.Context) error {
	im.legacy = true
	for _, program := range []string{"iptables-legacy", "iptables-legacy-save", "iptables-legacy-restore"} {
		for _, name := range []string{program, strings.Replace(program, "ip", "ip6", 1)} {
			file, err := exec.LookPath(name)
			if err != nil {
				return err
			}
			if err := im.addShared(ctx, file); err != nil {
				return err
			}
		}
	}
	parts, err := filepath.Glob("/usr/lib/*/xtables/libxt_*.so")
	for _, f := range parts {
		im.programs[f[1:]] = f
	}
	return err
}

// addShared adds a dynamically linked program and its libraries.
func (im image) addShared(ctx context.Context, program string) error {
	im.programs["bin/"+filepath.Base(program)] = program
	out, err := exec.CommandContext(ctx, "ldd", program).Output()
	if err != nil {
		return fmt.Errorf("ldd %s: %w", program, err)
	}
	for f := range strings.FieldsSeq(string(out)) {
		if filepath.IsAbs(f) {
			im.programs[f[1:]] = f
		}
	}
	return nil
}

// write writes the image, with the kernel modules, to a file.
func (im image) write(to string, k kernel) error {
	files := maps.Clone(im.programs)
	load := modules
	if im.legacy {
		load = append(slices.DeleteFunc(slices.Clone(modules), func(m string) bool { return slices.Contains(translation, m) }), legacy...)
	}
	found, err := k.files(load)
	if err != nil {
		return err
	}
	dir := "modules"
	if im.late {
		dir = "late"
	}
	for i, f := range found {
		files[fmt.Sprintf(dir+"/%03d-%s", i, filepath.Base(f))] = f
	}
	var a archive
	dirs := map[string]bool{".": true}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		a.mkdir(path.Dir(name), dirs)
		data, err := os.ReadFile(files[name])
		if err != nil {
			return err
		}
		a.add(name, executable, data)
	}
	a.add("TRAILER!!!", 0, nil)
	return os.WriteFile(to, a.Bytes(), 0o600)
}

// mkdir adds a directory and its parents, except those in dirs, and adds them to
// dirs.
func (a *archive) mkdir(name string, dirs map[string]bool) {
	if dirs[name] {
		return
	}
	dirs[name] = true
	a.mkdir(path.Dir(name), dirs)
	a.add(name, directory, nil)
}
