// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// vpcctl runs vpcctl on a node with the variables of its agent. It returns the exit status and
// what the program wrote.
func (n *Node) vpcctl(t *testing.T, args ...string) (code int, out string) {
	t.Helper()
	cmd := exec.Command(Program("vpcctl"), args...)
	cmd.Env = n.Command().Env
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	n.Do(t, cmd.Start)
	_ = cmd.Wait() // the exit status is checked
	return cmd.ProcessState.ExitCode(), text.String()
}

// says runs vpcctl and checks its exit status and texts of its output.
func (n *Node) says(t *testing.T, line string, code int, want ...string) {
	t.Helper()
	got, out := n.vpcctl(t, strings.Fields(line)...)
	if got != code {
		t.Errorf("vpcctl %s: exit %d, want %d:\n%s", line, got, code, out)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("vpcctl %s: want %q in:\n%s", line, w, out)
		}
	}
}

// TestVpcctl runs the commands of vpcctl on one node, while its agent runs and afterwards.
func TestVpcctl(t *testing.T) {
	t.Parallel()
	node := Start(t, vpctest.New(t).Node(t, "t3.small"), Config{Env: map[string]string{
		"HOST_CNI_BIN_PATH": os.Getenv(programsEnv), "VPCNET_PORTMAP": "false", "ENABLE_V4_EGRESS": "false",
	}})
	pod := node.AddPod(t)
	name, addr, primary := "default/"+pod.Name(), pod.Addrs[0].String(), node.ENIs()[0].ID

	node.says(t, "status", 0, "agent      ready", "1 with addresses, 0 waiting", primary, "flat, SNAT by nftables")
	node.says(t, "enis -o wide", 0, primary, addr+"/32")
	node.says(t, "pods", 0, pod.Name(), addr)
	node.says(t, "explain pod "+name, 0, addr+" was given to "+name, "It is on "+primary)
	node.says(t, "explain eni "+primary, 0, name+" "+addr, "Its link is verified")
	node.says(t, "explain failure", 0, "there is no failure")
	node.says(t, "events", 0, "ec2-call", "AssignPrivateIpAddresses")

	// The system of the node has the kernel of this machine and none of its files in /etc.
	root := t.TempDir()
	for _, dir := range []string{"proc", "tmp"} {
		if err := os.Symlink("/"+dir, filepath.Join(root, dir)); err != nil {
			t.Fatal(err)
		}
	}
	node.says(t, "doctor -root "+root, 0, "Nothing found.")

	node.Agent.Signal(t, syscall.SIGKILL)
	<-node.Agent.Done()
	node.says(t, "status", 3, "THE AGENT DOES NOT ANSWER", "1 with addresses", primary)
	node.says(t, "pods", 0, "THE AGENT DOES NOT ANSWER", pod.Name(), addr)
	node.says(t, "explain pod "+addr, 0, addr+" was given to "+name, "It is on "+primary)
	node.Run(t)
	node.WaitReady(t)
}
