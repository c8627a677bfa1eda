// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// withoutNftablesEnv makes the test binary run its arguments as a command for which the kernel
// has no nftables.
const withoutNftablesEnv = "NODETEST_WITHOUT_NFTABLES"

// withoutNftablesMain executes a command. Netlink sockets of netfilter get the answer of a
// kernel without CONFIG_NETFILTER_NETLINK, on which nftables depend. It returns only after a
// failure.
func withoutNftablesMain(command []string) error {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	const allow, skip = unix.SECCOMP_RET_ALLOW, 5 // see struct seccomp_data: nr is at 0, args at 16
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	unless := func(value uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: skip}
	}
	filter := []unix.SockFilter{
		load(0), unless(unix.SYS_SOCKET, skip),
		load(16), unless(unix.AF_NETLINK, skip-2),
		load(16 + 2*8), unless(unix.NETLINK_NETFILTER, skip-4),
		{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPROTONOSUPPORT)},
		{Code: unix.BPF_RET, K: allow},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread() // the filter is that of the thread
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		return fmt.Errorf("seccomp filter: %w", err)
	}
	return syscall.Exec(path, command, os.Environ())
}

// TestAutoBackend starts agents with the backend auto, which is the default. It is nftables also
// beside rules of iptables, and iptables on a kernel with nftables that cannot translate: internal/vm
// runs this test on one, where only the programs of iptables-legacy are installed.
func TestAutoBackend(t *testing.T) {
	t.Parallel()
	want := "nftables"
	if inVM() {
		want = "iptables-legacy"
	}
	vpc := vpctest.New(t)
	for name, kubelet := range map[string]string{"new node": "", "beside iptables-legacy": "legacy", "beside iptables-nft": "nft"} {
		if inVM() && kubelet == "nft" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			plain := vpc.Node(t, "t3.nano") // with one address for pods on each ENI
			if kubelet != "" {
				plain.Run(t, "iptables-"+kubelet, "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
			}
			node := Start(t, plain, Config{Env: map[string]string{"WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "1"}})
			for range 2 {
				if got := node.AddPod(t).Ask(t, "tcp", internet).Addr(); got != node.Addr {
					t.Errorf("the internet sees %v, want %v", got, node.Addr)
				}
			}
			wantBackend(t, node, want)
			node.Eventually(t, func() error { return onlyRulesOf(t, node, want) })
		})
	}
	wantNoDrops(t, vpc)
}

// TestWithoutNftables runs the agent on a kernel without nftables, on which no backend and no
// layout serves pods, because nothing would check their sources. The agent names what it needs,
// and pods of the agent before it go on.
func TestWithoutNftables(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	node := Start(t, vpctest.New(t).Node(t, "t3.small"), Config{})
	p := node.AddPod(t)
	node.Agent.Stop(t)
	node.Configure(Config{Env: map[string]string{withoutNftablesEnv: "1"}, Wrap: []string{self}})
	node.Run(t)
	node.Eventually(t, func() error { return logged(node, "the kernel needs nf_tables with fib for family inet") })
	if got := p.Ask(t, "tcp", internet).Addr(); got != node.Addr {
		t.Errorf("the internet sees %v, want %v", got, node.Addr)
	}
}
