// SPDX-License-Identifier: Apache-2.0

package install

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

func TestMain(m *testing.M) { isolatetest.Test(m) }

// TestDisk installs to file systems that are full or read-only. The error names the file,
// and says what to do, and no temporary file stays. With a better file system a further
// attempt succeeds.
func TestDisk(t *testing.T) {
	isolatetest.Require(t)
	for _, c := range []struct{ name, dir, options, want string }{
		{"full", "opt/cni/bin", "size=4k", "install -m 0755 /app/vpc-cni /opt/cni/bin/vpc-cni: write /opt/cni/bin/vpc-cni: no space left on device; make room and repeat"},
		{"read-only", "opt/cni/bin", "", "write /opt/cni/bin/vpc-cni: read-only file system; mount it writable"},
		{"read-only state", "var/lib/vpcnet", "", "write /var/lib/vpcnet/install.json: read-only file system; mount it writable"},
		{"read-only settings", "proc/sys/net/ipv4/conf/ens5", "", "sysctl -w net.ipv4.conf.ens5.rp_filter=2: open /proc/sys/net/ipv4/conf/ens5/rp_filter: read-only file system; mount it writable, or set"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			dir := filepath.Join(w.root, c.dir)
			mount := func(from string, flags uintptr, options string) {
				t.Helper()
				if err := unix.Mount(from, dir, "tmpfs", flags, options); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			mount("tmpfs", 0, c.options)
			t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
			if c.options == "" {
				for path, text := range files {
					if strings.HasPrefix(path, c.dir+"/") {
						w.write(t, path, text)
					}
				}
				mount("", unix.MS_REMOUNT|unix.MS_RDONLY, "")
			} else if err := os.WriteFile(filepath.Join(w.source, "vpc-cni"), make([]byte, 64<<10), 0o755); err != nil {
				t.Fatal(err)
			}
			err := Install(t.Context(), w.settings(t, nil), w.source, w.logger())
			text := strings.NewReplacer(w.root, "", w.source, "/app").Replace(errText(err))
			if !strings.Contains(text, c.want) {
				t.Errorf("error %s\nwant %s", text, c.want)
			}
			for path := range w.tree(t) {
				if strings.HasPrefix(filepath.Base(path), temporary) {
					t.Errorf("%s was left behind", path)
				}
			}
			if err := unix.Unmount(dir, 0); err != nil {
				t.Fatal(err)
			}
			w.install(t, nil)
		})
	}
}

func errText(err error) string {
	if err == nil {
		return "none"
	}
	return err.Error()
}
