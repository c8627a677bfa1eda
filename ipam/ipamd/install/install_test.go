// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/server"
	"github.com/vpcnet/vpcnet/ipam/ipamd/settings"
)

// world is a node in a directory, and the programs of a release.
type world struct {
	root, source string
	log          strings.Builder
}

// files are those of the node from before. One program has the name of one of ours.
var files = map[string]string{
	"proc/net/route":                                                      "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\nens5\t00000000\t0100000A\t0003\t0\t0\t512\t00000000\t0\t0\t0\n",
	"proc/sys/net/ipv4/conf/ens5/rp_filter":                               "1\n",
	"proc/sys/net/ipv4/ip_forward":                                        "0\n",
	"proc/sys/net/ipv4/tcp_early_demux":                                   "1\n",
	"proc/sys/net/ipv6/conf/all/forwarding":                               "0\n",
	"proc/sys/net/ipv6/conf/all/disable_ipv6":                             "0\n",
	"proc/sys/net/ipv6/conf/ens5/accept_ra":                               "1\n",
	"opt/cni/bin/portmap":                                                 "portmap of the distribution",
	"opt/cni/bin/egress-cni":                                              "egress-cni of another product",
	"etc/systemd/system/multi-user.target.wants/systemd-networkd.service": "",
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{root: t.TempDir(), source: t.TempDir()}
	for path, text := range files {
		w.write(t, path, text)
	}
	w.release(t, "1")
	return w
}

// release makes the programs those of a release.
func (w *world) release(t *testing.T, version string) {
	t.Helper()
	for _, name := range []string{"vpc-cni", "egress-cni"} {
		if err := os.WriteFile(filepath.Join(w.source, name), []byte(name+" "+version), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *world) write(t *testing.T, path, text string) {
	t.Helper()
	path = filepath.Join(w.root, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// tree returns the files of the node.
func (w *world) tree(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(w.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		name, _ := filepath.Rel(w.root, path)
		all[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (w *world) settings(t *testing.T, vars map[string]string) settings.Settings {
	t.Helper()
	s, err := settings.Parse(nil, func(name string) string {
		if name == "VPCNET_ROOT" {
			return w.root
		}
		return vars[name]
	}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// logger returns a log with one line of text for each message.
func (w *world) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

func (w *world) install(t *testing.T, vars map[string]string) {
	t.Helper()
	if err := Install(t.Context(), w.settings(t, vars), w.source, w.logger()); err != nil {
		t.Fatal(err)
	}
}

func (w *world) uninstall(t *testing.T, vars map[string]string) error {
	t.Helper()
	return Uninstall(t.Context(), w.settings(t, vars), w.logger())
}

// logged returns the log without the directories of the test, and empties it.
func (w *world) logged() string {
	defer w.log.Reset()
	return strings.NewReplacer(w.root, "", w.source, "/app").Replace(w.log.String())
}

// everything are the settings with which all steps are done.
var everything = map[string]string{
	"ENABLE_V6_EGRESS": "true", "DISABLE_TCP_EARLY_DEMUX": "true", "VPCNET_PREFLIGHT": "write", "VPCNET_CONFLIST_FORMAT": "aws",
}

// TestInstall installs twice, upgrades, and removes.
func TestInstall(t *testing.T) {
	w := newWorld(t)
	w.install(t, everything)
	want := []string{
		`msg="cp -p /opt/cni/bin/egress-cni /var/lib/vpcnet/saved/egress-cni"`,
		`msg="write /var/lib/vpcnet/install.json"`,
		`msg="install -m 0755 /app/vpc-cni /opt/cni/bin/aws-cni"`,
		`msg="install -m 0755 /app/egress-cni /opt/cni/bin/egress-cni"`,
		`msg="install -m 0755 /app/vpc-cni /opt/cni/bin/vpc-cni"`,
		`msg="write /etc/NetworkManager/conf.d/90-vpcnet.conf"`,
		`msg="write /etc/systemd/network/05-vpcnet-host-links.link"`,
		`msg="write /etc/systemd/network/05-vpcnet-host-links.network"`,
		`msg="write /etc/systemd/network/05-vpcnet-pod-enis.network"`,
		`msg="write /etc/systemd/networkd.conf.d/90-vpcnet.conf"`,
		`msg="sysctl -w net.ipv4.conf.ens5.rp_filter=2"`,
		`msg="sysctl -w net.ipv6.conf.ens5.accept_ra=2"`,
		`msg="sysctl -w net.ipv4.ip_forward=1"`,
		`msg="sysctl -w net.ipv6.conf.all.forwarding=1"`,
		`msg="sysctl -w net.ipv4.tcp_early_demux=0"`,
		`msg=installed steps=15 plugins="aws-cni egress-cni vpc-cni" dir=/opt/cni/bin`,
	}
	var got []string
	for line := range strings.Lines(w.logged()) {
		got = append(got, strings.TrimPrefix(strings.TrimSpace(line), "level=INFO "))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	installed := w.tree(t)
	for path, text := range map[string]string{
		"opt/cni/bin/vpc-cni": "vpc-cni 1", "opt/cni/bin/aws-cni": "vpc-cni 1", "opt/cni/bin/egress-cni": "egress-cni 1",
		"proc/sys/net/ipv4/conf/ens5/rp_filter": "2\n", "opt/cni/bin/portmap": files["opt/cni/bin/portmap"],
	} {
		if installed[path] != text {
			t.Errorf("%s has %q, want %q", path, installed[path], text)
		}
	}
	info, err := os.Stat(filepath.Join(w.root, "opt/cni/bin/vpc-cni"))
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("mode of vpc-cni: %v, %v, want 0755", info, err)
	}

	w.install(t, everything)
	if log := w.logged(); !strings.Contains(log, "installed steps=0") {
		t.Errorf("log of the second installation:\n%s", log)
	}
	if diff := cmp.Diff(installed, w.tree(t)); diff != "" {
		t.Errorf("the second installation changes (-before +after):\n%s", diff)
	}

	w.release(t, "2")
	w.install(t, everything)
	if log := w.logged(); !strings.Contains(log, "installed steps=4") {
		t.Errorf("log of the upgrade, want the record and three programs:\n%s", log)
	}
	if err := w.uninstall(t, everything); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(files, w.tree(t)); diff != "" {
		t.Errorf("after the removal (-before +after):\n%s\n%s", diff, w.logged())
	}
	if err := w.uninstall(t, everything); err != nil {
		t.Errorf("second removal: %v", err)
	}
}

// TestLittle installs with the defaults: one program and two settings.
func TestLittle(t *testing.T) {
	w := newWorld(t)
	w.install(t, nil)
	before := maps.Clone(files)
	after := w.tree(t)
	for _, path := range []string{"opt/cni/bin/vpc-cni", "proc/sys/net/ipv4/conf/ens5/rp_filter", "proc/sys/net/ipv4/ip_forward", "var/lib/vpcnet/install.json"} {
		delete(before, path)
		delete(after, path)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("further changes (-before +after):\n%s", diff)
	}
	if log := w.logged(); !strings.Contains(log, "level=WARN") || !strings.Contains(log, "id=networkd-foreign") {
		t.Errorf("the log has no finding of preflight:\n%s", log)
	}
}

// TestKilled ends an installation after each of its steps, and once while a file is being
// written, and repeats it. Then it does so with the removal.
func TestKilled(t *testing.T) {
	whole := newWorld(t)
	whole.install(t, everything)
	installed := whole.tree(t)
	steps := func(w *world, f func(config, node) []step) (config, []step) {
		t.Helper()
		s := w.settings(t, everything)
		cfg, err := s.Agent()
		if err != nil {
			t.Fatal(err)
		}
		c := configOf(s, cfg)
		c.Source = w.source
		if err := c.addSysctls(s, cfg, os.DirFS(c.Root), w.logger()); err != nil {
			t.Fatal(err)
		}
		c.addFiles(preflightOf(cfg, os.DirFS(c.Root)))
		n, err := observe(c)
		if err != nil {
			t.Fatal(err)
		}
		return c, f(c, n)
	}
	planned := func(c config, n node) []step {
		all, err := plan(c, n)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	removal := func(c config, n node) []step {
		all, _ := planRemoval(c, n)
		return all
	}
	partly := func(w *world, f func(config, node) []step, k int) (done bool) {
		t.Helper()
		c, all := steps(w, f)
		k = min(k, len(all))
		if err := c.carryOut(t.Context(), all[:k], w.logger()); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{"opt/cni/bin", "var/lib/vpcnet"} {
			w.write(t, filepath.Join(dir, temporary+"123"), "half of")
		}
		return k == len(all)
	}
	for k, done := 0, false; !done; k++ {
		w := newWorld(t)
		done = partly(w, planned, k)
		w.install(t, everything)
		if diff := cmp.Diff(normal(installed), normal(w.tree(t))); diff != "" {
			t.Errorf("killed after %d steps and repeated (-want +got):\n%s", k, diff)
		}
		partly(w, removal, k)
		if err := w.uninstall(t, everything); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(files, w.tree(t)); diff != "" {
			t.Errorf("removal killed after %d steps and repeated (-want +got):\n%s", k, diff)
		}
	}
}

// normal returns a tree with its record as a value.
func normal(tree map[string]string) map[string]any {
	out := map[string]any{}
	for path, text := range tree {
		out[path] = text
		if path == "var/lib/vpcnet/install.json" {
			var r record
			_ = json.Unmarshal([]byte(text), &r) // what is not JSON differs below
			out[path] = r
		}
	}
	return out
}

// TestKept removes while pods still need the plugins, an edited CNI configuration, and files
// that another program has changed.
func TestKept(t *testing.T) {
	w := newWorld(t)
	w.install(t, nil)
	state := filepath.Join(w.root, "var/lib/vpcnet")
	list := filepath.Join(w.root, "etc/cni/net.d/10-vpcnet.conflist")
	if _, err := server.WriteConflist(list, state, cniplugin.Conflist{}); err != nil {
		t.Fatal(err)
	}
	// The agent's record has the path as the agent sees it.
	rec := filepath.Join(state, "conflist.json")
	b, err := os.ReadFile(rec)
	if err == nil {
		err = os.WriteFile(rec, []byte(strings.ReplaceAll(string(b), w.root, "")), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "etc/cni/net.d/10-vpcnet.conflist", "{}")
	if err := w.uninstall(t, nil); !errors.Is(err, ErrKept) || !strings.Contains(err.Error(), "10-vpcnet.conflist") {
		t.Errorf("removal with an edited list: %v, want ErrKept", err)
	}
	if w.tree(t)["opt/cni/bin/vpc-cni"] == "" {
		t.Error("the plugin is gone, and the edited list needs it")
	}
	w.write(t, "etc/cni/net.d/10-vpcnet.conflist", string(text))
	const result = "var/lib/cni/results/vpcnet-0123-eth0"
	w.write(t, result, "{}")
	if err := w.uninstall(t, nil); !errors.Is(err, ErrKept) || !strings.Contains(err.Error(), "1 results") {
		t.Errorf("removal with a pod: %v, want ErrKept", err)
	}
	tree := w.tree(t)
	if tree["opt/cni/bin/vpc-cni"] == "" || tree["proc/sys/net/ipv4/ip_forward"] != "1\n" || tree["etc/cni/net.d/10-vpcnet.conflist"] != "" {
		t.Errorf("with a pod, want the plugin and the settings, and no list: %v", slices.Sorted(maps.Keys(tree)))
	}
	if err := os.Remove(filepath.Join(w.root, result)); err != nil {
		t.Fatal(err)
	}
	w.write(t, "opt/cni/bin/vpc-cni", "a build of the operator")
	w.write(t, "proc/sys/net/ipv4/conf/ens5/rp_filter", "0\n")
	w.log.Reset()
	if err := w.uninstall(t, nil); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"/opt/cni/bin/vpc-cni", "net.ipv4.conf.ens5.rp_filter=0"} {
		if !strings.Contains(w.log.String(), what) || !strings.Contains(w.log.String(), "stays as it is") {
			t.Errorf("the log does not say that %s stays:\n%s", what, w.log.String())
		}
	}
	if tree := w.tree(t); tree["opt/cni/bin/vpc-cni"] != "a build of the operator" || tree["proc/sys/net/ipv4/ip_forward"] != "0\n" {
		t.Error("want the operator's plugin, and the other settings as before")
	}
}

// TestErrors checks that an installation that cannot be done says why, and changes nothing
// before that.
func TestErrors(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, w *world)
		vars  map[string]string
		want  string
	}{
		"program missing": {func(t *testing.T, w *world) { remove(t, w.source, "vpc-cni") }, nil, "has no program vpc-cni, which is to be installed as /opt/cni/bin/vpc-cni"},
		"program is a directory": {func(t *testing.T, w *world) {
			if err := os.MkdirAll(filepath.Join(w.root, "opt/cni/bin/vpc-cni"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, nil, "vpc-cni is not a regular file"},
		"no route":    {func(t *testing.T, w *world) { w.write(t, "proc/net/route", "Iface\n") }, nil, "no IPv4 default route"},
		"no setting":  {func(t *testing.T, w *world) { remove(t, w.root, "proc/sys/net/ipv4/ip_forward") }, nil, "the kernel has no setting net.ipv4.ip_forward"},
		"bad record":  {func(t *testing.T, w *world) { w.write(t, "var/lib/vpcnet/install.json", "{") }, nil, "record of an earlier installation"},
		"bad setting": {func(*testing.T, *world) {}, map[string]string{"ENABLE_IPv4": "false"}, "want one or both"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.spoil(t, w)
			before := w.tree(t)
			err := Install(t.Context(), w.settings(t, c.vars), w.source, w.logger())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if diff := cmp.Diff(before, w.tree(t)); diff != "" {
				t.Errorf("changed (-before +after):\n%s", diff)
			}
		})
	}
	w := newWorld(t)
	remove(t, w.root, "proc/sys/net/ipv4/tcp_early_demux")
	w.install(t, everything) // such a kernel has nothing to switch off
	ended, end := context.WithCancel(t.Context())
	end()
	if err := Install(ended, newWorld(t).settings(t, nil), w.source, w.logger()); err == nil {
		t.Error("an installation after its end succeeds")
	}
}

// TestImage installs into an image, which has no kernel.
func TestImage(t *testing.T) {
	w := newWorld(t)
	if err := os.RemoveAll(filepath.Join(w.root, "proc")); err != nil {
		t.Fatal(err)
	}
	w.install(t, nil)
	if w.tree(t)["opt/cni/bin/vpc-cni"] != "vpc-cni 1" || !strings.Contains(w.log.String(), "no /proc/sys/net") {
		t.Errorf("want the plugin, and a line about the settings:\n%s", w.log.String())
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}
