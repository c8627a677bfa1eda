// SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const emulator = "qemu-system-x86_64"

// TestKernel runs what no other kernel may be able to, and what sets the clock.
// Each boots a machine of its own, with one processor.
func TestKernel(t *testing.T) {
	if _, err := exec.LookPath(emulator); err != nil {
		t.Skipf("needs an emulator: %v (Debian package qemu-system-x86)", err)
	}
	nft, err := exec.LookPath("nft")
	if err != nil {
		t.Skipf("needs the program nft: %v (Debian package nftables)", err)
	}
	k, err := findKernel()
	if err != nil {
		t.Skipf("needs a kernel: %v (.ci/kernel puts it there)", err)
	}
	look(t)
	init := build(t, "build", "./init")
	for _, test := range []struct {
		name, of, run string
		programs      []string // that lie in /bin
	}{
		{name: "datapath", of: "../../datapath", run: "^TestOtherKinds$"},
		{name: "fabric", of: "../fabric", run: "^(TestBranchENI|TestSuite)$/(standard|strict)$"},
		{name: "clock", of: "../crash", run: "^TestClock", programs: []string{"ipamd", "vpc-cni"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			im := image{programs: map[string]string{"init": init, "test": build(t, "test", "-c", test.of)}}
			for _, name := range test.programs {
				im.programs["bin/"+name] = build(t, "build", "../../examples/"+name)
			}
			if err := im.addShared(t.Context(), nft); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "image")
			if err := im.write(path, k); err != nil {
				t.Fatal(err)
			}
			boot(t, k, path, "-test.timeout=8m", "-test.v", "-test.run="+test.run)
		})
	}
}

// look opens the directories of the packages that go into the machine: the go
// command takes the result of an earlier run for that of this one unless something
// changed that the test has opened.
func look(t *testing.T) {
	t.Helper()
	packages := []string{"../../datapath", "../../snat", "../fabric", "../isolate", "../crash", "../../examples/ipamd", "../../examples/vpc-cni", "./init"}
	out, err := exec.CommandContext(t.Context(), "go", append([]string{"list", "-deps", "-f", "{{.Dir}}"}, packages...)...).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for _, dir := range append(strings.Fields(string(out)), "../..") {
		if _, err := os.ReadDir(dir); err != nil {
			t.Fatal(err)
		}
	}
}

// build compiles a program that needs no files beside it, without the race
// detector, whose memory does not fit in there, and returns its path.
func build(t *testing.T, args ...string) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "program")
	last := len(args) - 1
	args = append(args[:last:last], "-ldflags=-s -w", "-o", exe, args[last])
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return exe
}

// boot runs the image and wants its test to pass. What stands before the two
// dashes in the kernel's command line and has no meaning to it becomes the first
// process's environment, what stands behind them its arguments.
func boot(t *testing.T, k kernel, image string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), emulator, "-machine", "pc,accel=tcg", "-cpu", "max", "-m", "768",
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-kernel", k.image, "-initrd", image,
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off VPCNET_VM=1 VPCNET_CRASH_PROGRAMS=/bin PATH=/bin -- "+strings.Join(args, " "))
	out, err := cmd.CombinedOutput()
	console := strings.ReplaceAll(string(out), "\r", "")
	if err != nil || !strings.Contains(console, "\ninit: exit 0\n") {
		t.Errorf("%v: %v", cmd, err)
	}
	t.Logf("in the emulated machine:\n%s", console)
}
