// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/vpcnet/vpcnet/snat"
)

// unpack returns the files of an archive by path.
func unpack(t *testing.T, r io.Reader) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = b
	}
}

// blob returns a blob of an archive. Its digest must be right.
func blob(t *testing.T, files map[string][]byte, d descriptor) []byte {
	t.Helper()
	b := files["blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:")]
	if digestOf(b) != d.Digest || len(b) != d.Size {
		t.Fatalf("blob %+v has %d bytes with the digest %s", d, len(b), digestOf(b))
	}
	return b
}

func decode[T any](t *testing.T, b []byte) (v T) {
	t.Helper()
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestImage builds the image for both architectures, reads it back, checks the architecture of
// each program, and runs the agent in the unpacked root of this machine's one, where it
// installs the plugins of the image.
func TestImage(t *testing.T) {
	dir := t.TempDir()
	certs := filepath.Join(dir, "certificates")
	if err := os.WriteFile(certs, []byte("authorities"), 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "vpcnet.tar")
	if err := run(t.Context(), []string{"-o", out, "-tag", "v1", "-certificates", certs}, io.Discard); err != nil {
		t.Fatal(err)
	}
	archive, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	files := unpack(t, bytes.NewReader(archive))
	if string(files["oci-layout"]) != `{"imageLayoutVersion":"1.0.0"}` {
		t.Errorf("oci-layout %s", files["oci-layout"])
	}
	top := decode[index](t, files["index.json"])
	if len(top.Manifests) != 1 || top.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "v1" {
		t.Fatalf("index.json %s", files["index.json"])
	}
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	for _, d := range decode[index](t, blob(t, files, top.Manifests[0])).Manifests {
		m := decode[manifest](t, blob(t, files, d))
		c := decode[imageConfig](t, blob(t, files, m.Config))
		layer := blob(t, files, m.Layers[0])
		r, err := gzip.NewReader(bytes.NewReader(layer))
		if err != nil {
			t.Fatal(err)
		}
		plain, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if digestOf(plain) != c.RootFS.DiffIDs[0] || c.Architecture != d.Platform.Architecture || c.Config.Entrypoint[0] != "/ipamd" {
			t.Errorf("configuration %+v of %+v", c, d)
		}
		inside := unpack(t, bytes.NewReader(plain))
		for _, name := range programs {
			f, err := elf.NewFile(bytes.NewReader(inside[name]))
			if err != nil {
				t.Fatalf("%s for %s: %v", name, c.Architecture, err)
			}
			if libraries, _ := f.ImportedLibraries(); f.Machine != machines[c.Architecture] || len(libraries) > 0 {
				t.Errorf("%s for %s is for %v and needs %v", name, c.Architecture, f.Machine, libraries)
			}
		}
		if string(inside["etc/ssl/certs/ca-certificates.crt"]) != "authorities" {
			t.Error("the image lacks the certificates")
		}
		delete(machines, c.Architecture)
		if c.Architecture == runtime.GOARCH {
			runInside(t, inside)
		}
	}
	if len(machines) > 0 {
		t.Errorf("no image for %v", machines)
	}
	again, err := pack([]image{{"amd64", []file{{"ipamd", 0o755, []byte("x")}}}}, "v1")
	if err != nil {
		t.Fatal(err)
	}
	same, err := pack([]image{{"amd64", []file{{"ipamd", 0o755, []byte("x")}}}}, "v1")
	if err != nil || !bytes.Equal(again, same) {
		t.Errorf("two archives of the same files differ: %v", err)
	}
}

// place writes the files of an image into a directory, which becomes their root.
func place(t *testing.T, files map[string][]byte) (root string) {
	t.Helper()
	root = t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, b := range files {
		path := filepath.Join(root, name)
		if strings.HasSuffix(name, "/") {
			continue
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// inside returns a command that has the root of an image, in namespaces of its own.
func inside(root, program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Env = "/", []string{"XTABLES_LOCKFILE=/lock"}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot: root, Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	return cmd
}

// runInside runs the agent of an image in its root.
func runInside(t *testing.T, files map[string][]byte) {
	t.Helper()
	root := place(t, files)
	// The kernel's link to the program. There are no settings of the kernel in this /proc.
	if err := errors.Join(os.MkdirAll(filepath.Join(root, "proc/self"), 0o755), os.Symlink("/ipamd", filepath.Join(root, "proc/self/exe"))); err != nil {
		t.Fatal(err)
	}
	agent := func(args ...string) string {
		t.Helper()
		b, err := inside(root, "/ipamd", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("ipamd %v in the image: %v\n%s", args, err, b)
		}
		return string(b)
	}
	if help := agent("-help"); !strings.Contains(help, "Usage: ipamd") {
		t.Errorf("help of the agent: %s", help)
	}
	if log := agent("install", "-cni-bin-dir=/host/opt/cni/bin"); !strings.Contains(log, "install -m 0755 /vpc-cni /host/opt/cni/bin/vpc-cni") {
		t.Errorf("log of the installation: %s", log)
	}
	installed, err := os.ReadFile(filepath.Join(root, "host/opt/cni/bin/vpc-cni"))
	if err != nil || !bytes.Equal(installed, files["vpc-cni"]) {
		t.Errorf("installed plugin: %d bytes, %v", len(installed), err)
	}
}

// TestIptables takes the programs of iptables from this machine instead of from packages, and
// has each variant load the rules of package snat where nothing else is.
func TestIptables(t *testing.T) {
	all, err := collect("/")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, f := range all {
		files[f.path] = f.content
	}
	root := place(t, files)
	rules, err := snat.Config{
		NodeAddrs: []netip.Addr{netip.MustParseAddr("10.0.1.10")}, PrimaryLink: "ens5", VPC: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")},
	}.Iptables()
	if err != nil {
		t.Fatal(err)
	}
	for _, variant := range []string{"nft", "legacy"} {
		restore := inside(root, "/usr/sbin/xtables-"+variant+"-multi", "iptables-restore")
		restore.Stdin = strings.NewReader(rules.IPv4())
		if out, err := restore.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", variant, err, out)
		}
	}
}
