// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/eni/vpctest"
	"github.com/vpcnet/vpcnet/internal/nodetest"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// newVPC makes a VPC in which EC2 is as slow as AWS's: a call takes a part of a second, an
// attachment more than one.
func newVPC(t *testing.T) *vpctest.VPC {
	t.Helper()
	vpc := vpctest.New(t)
	vpc.Cloud.SetDelays(enitest.Delays{Call: 100 * time.Millisecond, Attach: 1500 * time.Millisecond, Detach: 1500 * time.Millisecond})
	return vpc
}

// podImage is the image of sandboxes and pods, with the program of the directory pod.
const podImage = "localhost/pod:1"

// containerdConfig leaves out what a container that tests run in may not permit: AppArmor, NRI,
// and lower OOM scores.
const containerdConfig = `version = 3
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "` + podImage + `"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    use_internal_loopback = true
`

// runtime starts containerd with the image of the tests, and puts the plugin portmap where
// distributions have it.
func (m *machine) runtime(t *testing.T) {
	t.Helper()
	m.write(t, m.file("containerd.toml"), containerdConfig)
	portmap, err := os.ReadFile(nodetest.Program("portmap"))
	if err != nil {
		t.Fatal(err)
	}
	m.write(t, m.inside("/opt/cni/bin/portmap"), string(portmap))
	if err := os.Chmod(m.inside("/opt/cni/bin/portmap"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.startContainerd(t)
	image := m.file("image.tar")
	if err := writeImage(image, podImage, "/pod", nodetest.Program("pod")); err != nil {
		t.Fatal(err)
	}
	m.run(t, containerd("ctr"), "-n", "k8s.io", "images", "import", "--local", image)
}

// startContainerd starts containerd and waits until it serves.
func (m *machine) startContainerd(t *testing.T) {
	t.Helper()
	path := "PATH=" + filepath.Dir(containerd("containerd")) + ":" + os.Getenv("PATH")
	m.start(t, "containerd", []string{path}, containerd("containerd"), "-c", m.file("containerd.toml"))
	eventually(t, func() error {
		out, err := m.command(containerd("ctr"), "version").CombinedOutput()
		if err != nil {
			return fmt.Errorf("containerd: %w: %s", err, out)
		}
		return nil
	})
}

// install installs the plugin and starts the agent, with further variables.
func (m *machine) install(t *testing.T, vars ...string) {
	t.Helper()
	m.run(t, nodetest.Program("ipamd"), "install", "-preflight=off")
	m.startAgent(t, vars...)
}

// startAgent starts the agent, with further variables.
func (m *machine) startAgent(t *testing.T, vars ...string) {
	t.Helper()
	m.start(t, "ipamd", append(m.Env(), vars...), nodetest.Program("ipamd"))
}

// write writes a file.
func (m *machine) write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// sandbox is a running pod.
type sandbox struct {
	id   string
	addr netip.Addr
}

// nothingLeft waits until nothing is left of any pod: in the kernel, of sandboxes, on disk, and
// in what the agent shows, before and after it has read its journal again. It looks for what
// belongs to the given pods more closely.
func (m *machine) nothingLeft(t *testing.T, pods []sandbox) {
	t.Helper()
	eventually(t, func() error { return m.left(t, pods) })
	m.kill(t, "ipamd")
	m.startAgent(t)
	eventually(t, func() error { return m.left(t, pods) })
}

// left returns an error for what is left of any pod.
func (m *machine) left(t *testing.T, pods []sandbox) (err error) {
	t.Helper()
	for link := range strings.Lines(m.run(t, "ip", "-o", "link")) {
		if name := strings.Fields(link)[1]; strings.HasPrefix(name, datapath.DefaultHostLinkPrefix) {
			err = errors.Join(err, fmt.Errorf("link %s", link))
		}
	}
	for _, show := range []string{"ip route show table all", "ip -6 route show table all", "ip rule", "ip neigh", "nft list ruleset"} {
		command := strings.Fields(show)
		out := m.run(t, command[0], command[1:]...)
		for _, p := range pods {
			found := lineWith(out, datapath.HostLinkName(datapath.DefaultHostLinkPrefix, p.id, "eth0"))
			if command[0] != "nft" { // in which addresses of second ENIs are, free or not
				found += lineWith(out, p.addr.String())
			}
			if found != "" {
				err = errors.Join(err, fmt.Errorf("%s: %s", show, found))
			}
		}
	}
	st, e := ipamd.ReadStatus(t.Context(), "unix:"+m.inside("/run/vpcnet/status.sock"))
	if err = errors.Join(err, e); e == nil && (!st.Ready || len(st.Allocations) > 0) {
		err = errors.Join(err, fmt.Errorf("agent ready %t, allocations %v", st.Ready, st.Allocations))
	}
	for _, dir := range []string{"/run/netns", "/var/lib/cni", "/var/lib/vpcnet"} {
		err = errors.Join(err, m.nothingIn(dir, pods))
	}
	return err
}

// nothingIn returns an error if a file in a directory is one of a pod, by its name or content.
func (m *machine) nothingIn(dir string, pods []sandbox) error {
	return filepath.WalkDir(m.inside(dir), func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // the agent removes it at the same time
			return nil
		case err != nil:
			return err
		case e.IsDir():
			return nil
		case dir == "/run/netns":
			return fmt.Errorf("%s is left", path)
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || e.Name() == "pool.log" { // which is only appended to
			return nil
		}
		for _, p := range pods {
			if strings.Contains(e.Name()+string(text), p.id) {
				return fmt.Errorf("%s is of pod %s", path, p.id)
			}
		}
		return err
	})
}

// lineWith returns the first line that has a word and is not the route of a free address of the
// pool, which is unreachable.
func lineWith(text, word string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "unreachable ") {
			continue
		}
		for w := range strings.FieldsFuncSeq(line, func(r rune) bool { return strings.ContainsRune(" \t\n,/{}\"", r) }) {
			if w == word {
				return line
			}
		}
	}
	return ""
}
