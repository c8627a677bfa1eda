// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"bytes"
	"compress/gzip"
	"io"
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
	cmd.Env = append(n.Command().Env, "PLANTED_TOKEN=planted-token", "PLANTED=planted-variable")
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

// gunzipped returns the content of a compressed file.
func gunzipped(t *testing.T, file string) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
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

	// The commands say the same of a broken node and of its bundle.
	node.Node.Run(t, "nft", "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }")
	if err := os.MkdirAll(filepath.Join(root, "etc/cloud"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/cloud/cloud.cfg"), []byte("hotplug\npassword: planted-password\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log := node.File("ipamd.log")
	if err := os.WriteFile(log, []byte(`{"msg":"x","token":"planted-in-log"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bundle := node.File("bundle.tar.gz")
	node.says(t, "bundle -root "+root+" -log "+log+" -f "+bundle, 0, bundle)
	for live, saved := range map[string]string{
		"doctor -root " + root: "doctor", "explain pod " + name: "explain pod " + name, "explain eni " + primary: "explain eni " + primary,
		"trace -agent unix:" + node.File("status.sock") + " " + name + " " + vpctest.InternetAddr.String(): "trace " + name + " " + vpctest.InternetAddr.String(),
	} {
		code, out := node.vpcctl(t, strings.Fields(live)...)
		savedCode, savedOut := node.vpcctl(t, append(strings.Fields(saved), "-bundle", bundle)...)
		if code != savedCode || out != savedOut {
			t.Errorf("vpcctl %s: exit %d\n%s\nand of the bundle exit %d\n%s", live, code, out, savedCode, savedOut)
		}
	}
	node.says(t, "doctor -bundle "+bundle, 3, "forward-policy-drop (harm)", "cloud-init-hotplug (harm)")
	if text := gunzipped(t, bundle); strings.Contains(text, "planted") || !strings.Contains(text, "[redacted]") {
		t.Error("the bundle has a secret")
	}
	node.Node.Run(t, "nft", "delete table ip filter")

	node.Agent.Signal(t, syscall.SIGKILL)
	<-node.Agent.Done()
	node.says(t, "status", 3, "THE AGENT DOES NOT ANSWER", "1 with addresses", primary)
	node.says(t, "pods", 0, "THE AGENT DOES NOT ANSWER", pod.Name(), addr)
	node.says(t, "explain pod "+addr, 0, addr+" was given to "+name, "It is on "+primary)
	node.Run(t)
	node.WaitReady(t)
}
