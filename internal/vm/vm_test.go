// SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const emulator = "qemu-system-x86_64"

var long = flag.Bool("long", false, "run the tests of the long tier instead of the others")

// flags are the flags of a test binary; the last one is to be completed.
const flags = "-test.timeout=8m -test.v -test.run="

// TestKernel runs tests that need a kernel with all kinds of links, tests that set the
// clock, and tests of nodes without IPv6 in the kernel and, at first, without modules. Each boots
// its own machine, with one processor.
func TestKernel(t *testing.T) {
	if _, err := exec.LookPath(emulator); err != nil {
		t.Skipf("needs an emulator: %v (Debian package qemu-system-x86)", err)
	}
	var shared []string // programs that the tests call
	for program, pkg := range map[string]string{"nft": "nftables", "ip": "iproute2"} {
		path, err := exec.LookPath(program)
		if err != nil {
			t.Skipf("needs the program %s: %v (Debian package %s)", program, err, pkg)
		}
		shared = append(shared, path)
	}
	k, err := findKernel()
	if err != nil {
		t.Skipf("needs a kernel: %v (.ci/kernel fetches it)", err)
	}
	openSources(t)
	init := build(t, "build", "./init")
	for _, test := range []struct {
		name, pkg, run string
		programs       []string // examples to build, for /bin
		kernel         string   // further parameters of the kernel
		late           bool     // the test loads the modules
		long           bool     // the test belongs to the long tier, see -long
		icount         bool     // the clock counts instructions
		legacy         bool     // iptables-legacy instead of the translation by nftables
		// first is another package and its test, which runs before, and last a command that
		// runs after. Optional.
		first [2]string
		last  string
	}{
		{name: "datapath", pkg: "../../datapath", run: "^TestOtherKinds$"},
		{name: "fabric", pkg: "../fabric", run: "^(TestBranchENI|TestSuite)$/^flat-standard$"},
		{name: "fabric-others", pkg: "../fabric", run: "^TestSuite$/^(flat-strict|per-pod-standard|per-pod-strict)$", long: true},
		{name: "nodetest", pkg: "../nodetest", run: "^TestOtherKinds$/././^dual-stack$", programs: []string{"ipamd", "vpc-cni"}},
		{name: "nodetest-one-family", pkg: "../nodetest", run: "^TestOtherKinds$/././^IPv[46]$", programs: []string{"ipamd", "vpc-cni"}, long: true},
		{name: "nodetest-adopt", pkg: "../nodetest", run: "^TestAdoptBranches$/^(strict|standard)$", programs: []string{"ipamd", "vpc-cni"}, long: true},
		{name: "nodetest-adopt-IPv6", pkg: "../nodetest", run: "^TestAdoptBranches$/^IPv6", programs: []string{"ipamd", "vpc-cni"}, long: true},
		{name: "nodetest-auto", pkg: "../nodetest", run: "^TestAutoBackend$", programs: []string{"ipamd", "vpc-cni"}, legacy: true, long: true},
		{name: "rules", pkg: "../fabric", run: "^(TestBranchGroups|TestJudgeAgreesWithKernel)$"},
		{name: "accelerated", pkg: "../../datapath", run: "^TestAccelerate$/^flat$/^(policy|reused)$", first: [2]string{"../nft", "^TestFlowtable$"}},
		{name: "accelerated-node", pkg: "../nodetest", run: "^TestAccelerate$", programs: []string{"ipamd", "vpc-cni"}, long: true},
		{name: "accelerated-others", pkg: "../../datapath", run: "^TestAccelerate$/^flat$/^(IPv[46]|repair|forged)$", long: true},
		{name: "accelerated-per-pod", pkg: "../../datapath", run: "^TestAccelerate$/^per-pod$", long: true},
		{name: "instructions", pkg: "../bench", run: "^TestInstructions$", icount: true, long: true},
		{name: "ec2fabric", pkg: "../fabric/ec2fabric", run: "^TestBranchENI$"},
		{name: "clock", pkg: "../crash", run: "^TestClock", programs: []string{"ipamd", "vpc-cni"}},
		{
			name: "odd", pkg: "../../datapath", run: "^TestOddKernel$", kernel: "ipv6.disable=1", late: true,
			first:    [2]string{"../../snat", "^TestMissing$"},
			programs: []string{"lab", "ipamd", "vpc-cni"}, last: "/bin/lab -nodes=2 -pods=1 -json",
		},
	} {
		if test.long != *long {
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			im := image{programs: map[string]string{"init": init, "test": build(t, "test", "-c", test.pkg)}, late: test.late}
			if test.first[0] != "" {
				im.programs["first"] = build(t, "test", "-c", test.first[0])
			}
			for _, name := range test.programs {
				im.programs["bin/"+name] = build(t, "build", "../../examples/"+name)
			}
			for _, program := range shared {
				if err := im.addShared(t.Context(), program); err != nil {
					t.Fatal(err)
				}
			}
			if test.legacy {
				if err := im.addLegacy(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			path := filepath.Join(t.TempDir(), "image")
			if err := im.write(path, k); err != nil {
				t.Fatal(err)
			}
			commands := []string{"/test " + flags + test.run}
			if test.first[0] != "" {
				commands = []string{"/first " + flags + test.first[1], commands[0]}
			}
			if test.last != "" {
				commands = append(commands, test.last)
			}
			var options []string
			if test.icount {
				options, test.kernel = []string{"-icount", "shift=0,sleep=off"}, "VPCNET_ICOUNT=1"
			}
			boot(t, k, path, test.kernel, options, commands...)
		})
	}
}

// openSources opens the directories of the packages that run in the machine. The go
// command repeats a cached test result unless a file or directory has changed that
// the test had opened.
func openSources(t *testing.T) {
	t.Helper()
	packages := []string{"../../datapath", "../../datapath/internal/datapathtest", "../../snat", "../nft", "../bench", "../fabric", "../fabric/ec2fabric", "../isolate", "../crash", "../nodetest", "../../examples/ipamd", "../../examples/vpc-cni", "../../examples/lab", "./init"}
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

// build compiles a statically linked program and returns its path. It does not use
// the race detector, which needs more memory than the machine has.
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

// boot boots the image, with further options of the emulator, and checks that the commands
// succeed. The kernel passes the
// assignments in its command line that it does not know to the first process as
// environment, and the words after the two dashes as arguments.
func boot(t *testing.T, k kernel, image, parameters string, options []string, commands ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), emulator, append(options, "-machine", "pc,accel=tcg", "-cpu", "max", "-m", "768",
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-kernel", k.image, "-initrd", image,
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off VPCNET_VM=1 VPCNET_CRASH_PROGRAMS=/bin NODETEST_PROGRAMS=/bin PATH=/bin "+parameters+" -- "+strings.Join(commands, " + "))...)
	out, err := cmd.CombinedOutput()
	console := strings.ReplaceAll(string(out), "\r", "")
	if err != nil || !strings.Contains(console, "\ninit: exit 0\n") {
		t.Errorf("%v: %v", cmd, err)
	}
	t.Logf("in the emulated machine:\n%s", console)
}
