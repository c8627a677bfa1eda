// SPDX-License-Identifier: Apache-2.0

package preflight_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/datapath/preflight"
)

var update = flag.Bool("update", false, "rewrite testdata")

// root returns a system with the given files, as pairs of path and text.
func root(files ...string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for i := 0; i < len(files); i += 2 {
		fsys[files[i]] = &fstest.MapFile{Data: []byte(files[i+1])}
	}
	return fsys
}

// with adds the files of Files.
func with(fsys fstest.MapFS, c preflight.Config) fstest.MapFS {
	for _, f := range preflight.Files(c) {
		fsys[f.Path] = &fstest.MapFile{Data: []byte(f.Text)}
	}
	return fsys
}

const (
	firewalldOn   = "etc/systemd/system/multi-user.target.wants/firewalld.service"
	firewalldConf = "etc/firewalld/firewalld.conf"

	enabled    = "etc/systemd/system/multi-user.target.wants/systemd-networkd.service"
	everyENI   = "[Match]\nDriver=ena ixgbevf vif\n\n[Network]\nDHCP=yes\n"
	everything = "[Match]\nType=ether\n[Network]\nDHCP=yes\n"
	persistent = "[Match]\nOriginalName=*\n[Link]\nMACAddressPolicy=persistent\n"
)

var primary = preflight.Config{Keep: []string{"ens5"}}

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		name string
		root fstest.MapFS
		cfg  preflight.Config
		want []string // ID and severity, then paths
	}{
		{name: "nothing", root: root()},
		{name: "networkd is not enabled", root: root("usr/lib/systemd/network/80-ec2.network", everyENI)},
		{
			name: "Amazon Linux 2023", cfg: primary,
			root: root(enabled, "", "usr/lib/systemd/network/80-ec2.network", everyENI, "usr/lib/systemd/network/99-default.link", persistent,
				"usr/bin/setup-policy-routes", "", "usr/lib/udev/rules.d/99-vpc-policy-routes.rules", ""),
			want: []string{
				"networkd-foreign risk etc/systemd/networkd.conf",
				"networkd-pod-enis harm usr/lib/systemd/network/80-ec2.network",
				"ec2-net-utils harm usr/bin/setup-policy-routes usr/lib/udev/rules.d/99-vpc-policy-routes.rules",
				"udev-mac risk usr/lib/systemd/network/99-default.link",
			},
		},
		{
			name: "Amazon Linux 2023 with our files", cfg: primary,
			root: with(root(enabled, "", "usr/lib/systemd/network/80-ec2.network", everyENI, "usr/lib/systemd/network/99-default.link", persistent), primary),
		},
		{
			name: "our files without the primary's name",
			root: with(root(enabled, "", "usr/lib/systemd/network/80-ec2.network", everyENI), preflight.Config{}),
			want: []string{"networkd-pod-enis harm usr/lib/systemd/network/80-ec2.network"},
		},
		{
			name: "Ubuntu", cfg: primary,
			root: root("run/systemd/netif/state", "", "run/systemd/network/10-netplan-ens5.network",
				"[Match]\nPermanentMACAddress=06:00:00:00:00:05\nName=ens5\n[Network]\nDHCP=ipv4\n",
				"usr/lib/systemd/network/99-default.link", persistent, "etc/udev/rules.d/90-cloud-init-hook-hotplug.rules", ""),
			want: []string{
				"networkd-foreign risk etc/systemd/networkd.conf",
				"cloud-init-hotplug harm etc/udev/rules.d/90-cloud-init-hook-hotplug.rules",
				"udev-mac risk usr/lib/systemd/network/99-default.link",
			},
		},
		{
			name: "networkd manages all links", cfg: primary,
			root: root(enabled, "", "etc/systemd/network/50-all.network", everything, "etc/systemd/networkd.conf",
				"[Network]\n#ManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n"),
			want: []string{
				"networkd-foreign risk etc/systemd/networkd.conf",
				"networkd-pod-enis harm etc/systemd/network/50-all.network",
				"networkd-pod-enis harm etc/systemd/network/50-all.network",
			},
		},
		{
			name: "a file before ours", cfg: primary,
			root: with(root(enabled, "", "etc/systemd/network/01-all.network", everything), primary),
			want: []string{"networkd-order harm etc/systemd/network/01-all.network"},
		},
		{
			name: "a hidden file", cfg: primary,
			root: with(root(enabled, "", "etc/systemd/network/01-all.network", "", "usr/lib/systemd/network/01-all.network", everything), primary),
		},
		{
			name: "our file hidden by another with the same name",
			cfg:  primary,
			root: root(enabled, "", "etc/systemd/networkd.conf.d/90-vpcnet.conf", "[Network]\nManageForeignRoutes=yes\n",
				"usr/lib/systemd/networkd.conf.d/90-vpcnet.conf", "[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n"),
			want: []string{"networkd-foreign risk etc/systemd/networkd.conf.d/90-vpcnet.conf"},
		},
		{
			name: "NetworkManager", root: root("usr/sbin/NetworkManager", "", "etc/NetworkManager/NetworkManager.conf", "[keyfile]\nunmanaged-devices=interface-name:docker*\n"),
			want: []string{"networkmanager harm usr/sbin/NetworkManager"},
		},
		{name: "NetworkManager with our file", root: with(root("usr/sbin/NetworkManager", ""), preflight.Config{})},
		{name: "NetworkManager that excludes host links", root: root("usr/sbin/NetworkManager", "", "etc/NetworkManager/conf.d/a.conf", "[keyfile]\nunmanaged-devices+=interface-name:eni*\n")},
		{name: "masked ec2-net-utils", root: root("usr/bin/setup-policy-routes", "", "etc/udev/rules.d/99-vpc-policy-routes.rules", "")},
		{
			name: "cloud-init with hotplug", root: root("etc/cloud/cloud.cfg.d/10-net.cfg", "updates:\n  network:\n    when: [boot, 'hotplug']\n"),
			want: []string{"cloud-init-hotplug harm etc/cloud/cloud.cfg.d/10-net.cfg"},
		},
		{name: "hotplug of cloud-init only in a comment", root: root("etc/cloud/cloud.cfg", "# when: [hotplug]\n")},
		{name: "cloud-init without network configuration", root: root("var/lib/cloud/hotplug.enabled", "", "etc/cloud/cloud.cfg.d/99.cfg", "network: {config: disabled}\n")},
		{name: "cloud-init is off", root: root("var/lib/cloud/hotplug.enabled", "", "etc/cloud/cloud-init.disabled", "")},
		{
			name: "strict filters", root: root("proc/sys/net/ipv4/conf/all/rp_filter", "0\n", "proc/sys/net/ipv4/conf/default/rp_filter", "1\n",
				"proc/sys/net/ipv4/conf/ens5/rp_filter", "1\n", "proc/sys/net/ipv4/conf/ens6/rp_filter", "2\n", "proc/sys/net/ipv4/conf/eni01/rp_filter", "1\n",
				"usr/lib/sysctl.d/50-default.conf", "-net.ipv4.conf.all.rp_filter = 2\n", "etc/sysctl.d/60.conf", "net/ipv4/conf/default/rp_filter = 1\n"),
			want: []string{"rp-filter risk proc/sys/net/ipv4/conf/ens5/rp_filter", "rp-filter risk etc/sysctl.d/60.conf"},
		},
		{
			name: "loose for all", root: root("proc/sys/net/ipv4/conf/all/rp_filter", "2\n", "proc/sys/net/ipv4/conf/ens5/rp_filter", "1\n"),
		},
		{
			name: "no flowtables", cfg: preflight.Config{Accelerate: true},
			root: root("proc/sys/kernel/osrelease", "6.1\n", "lib/modules/6.1/modules.dep", "kernel/net/netfilter/nft_ct.ko:\n", "lib/modules/6.1/modules.builtin", "kernel/net/netfilter/nf_flow_table_inet.ko\n"),
			want: []string{"no-flowtables info lib/modules/6.1/modules.dep"},
		},
		{
			name: "no flowtables, and none is needed",
			root: root("proc/sys/kernel/osrelease", "6.1\n", "lib/modules/6.1/modules.dep", "kernel/net/netfilter/nft_ct.ko:\n"),
		},
		{
			name: "flowtables", cfg: preflight.Config{Accelerate: true},
			root: root("proc/sys/kernel/osrelease", "6.1\n", "proc/modules", "nft_flow_offload 16384 0 - Live 0x0\n", "lib/modules/6.1/modules.dep", "kernel/net/netfilter/nf_flow_table_inet.ko: kernel/net/netfilter/nf_flow_table.ko\n"),
		},
		{
			name: "many peers", cfg: preflight.Config{Peers: 700},
			root: root("proc/sys/net/ipv4/neigh/default/gc_thresh2", "512\n", "proc/sys/net/ipv4/neigh/default/gc_thresh3", "1024\n",
				"proc/sys/net/ipv6/neigh/default/gc_thresh2", "300\n", "proc/sys/net/ipv6/neigh/default/gc_thresh3", "600\n"),
			want: []string{"neighbors risk proc/sys/net/ipv4/neigh/default/gc_thresh2", "neighbors harm proc/sys/net/ipv6/neigh/default/gc_thresh3"},
		},
		{
			name: "iptables", cfg: preflight.Config{Iptables: true}, root: root("usr/sbin/iptables", ""),
			want: []string{"iptables-backend risk usr/sbin/iptables"},
		},
		{
			name: "iptables under another name", cfg: preflight.Config{Iptables: true}, root: root("sbin/xtables-legacy-multi", ""),
			want: []string{"iptables-backend risk sbin/xtables-legacy-multi"},
		},
		{name: "iptables, but nftables is used", root: root("usr/sbin/iptables", "")},
		{
			name: "no iptables", cfg: preflight.Config{Iptables: true}, root: root("usr/sbin/iptables-apply", ""),
			want: []string{"iptables-backend harm usr/sbin"},
		},
		{
			name: "ufw", root: root("etc/ufw/ufw.conf", "ENABLED=yes\n", "etc/default/ufw", "IPV6=yes\nDEFAULT_FORWARD_POLICY=\"DROP\"\n"),
			want: []string{"ufw harm etc/default/ufw"},
		},
		{name: "ufw, off", root: root("etc/ufw/ufw.conf", "ENABLED=no\n", "etc/default/ufw", "DEFAULT_FORWARD_POLICY=\"DROP\"\n")},
		{name: "ufw that forwards", root: root("etc/ufw/ufw.conf", "ENABLED=yes\n", "etc/default/ufw", "DEFAULT_FORWARD_POLICY=\"ACCEPT\"\n")},
		{
			name: "ufw that forwards for other links", root: root("etc/ufw/ufw.conf", "ENABLED=yes\n", "etc/default/ufw", "DEFAULT_FORWARD_POLICY=\"DROP\"\n", "etc/ufw/user.rules", "-A ufw-user-forward -i docker+ -j ACCEPT\n"),
			want: []string{"ufw harm etc/default/ufw"},
		},
		{name: "ufw that forwards for pods", root: root("etc/ufw/ufw.conf", "ENABLED=yes\n", "etc/default/ufw", "DEFAULT_FORWARD_POLICY=\"DROP\"\n", "etc/ufw/user.rules", "-A ufw-user-forward -i eni+ -j ACCEPT\n")},
		{
			name: "firewalld", root: root("usr/sbin/firewalld", "", firewalldOn, ""),
			want: []string{"firewalld harm " + firewalldOn, "firewalld harm " + firewalldOn},
		},
		{name: "firewalld, not enabled", root: root("usr/sbin/firewalld", "")},
		{
			name: "firewalld with a zone for other links",
			root: root("usr/sbin/firewalld", "", firewalldOn, "", firewalldConf, "IPv6_rpfilter=no\n", "etc/firewalld/zones/public.xml", `<zone><interface name="ens5"/></zone>`),
			want: []string{"firewalld harm " + firewalldOn},
		},
		{
			name: "firewalld that filters reverse paths", root: root("usr/sbin/firewalld", "", firewalldOn, "", firewalldConf, "IPv6_rpfilter=yes\n", "etc/firewalld/zones/trusted.xml", `<zone target="ACCEPT"><interface name="eni+"/></zone>`),
			want: []string{"firewalld harm " + firewalldOn},
		},
		{name: "firewalld with a zone for pods", root: root("usr/sbin/firewalld", "", firewalldOn, "", firewalldConf, "IPv6_rpfilter=loose\n", "etc/firewalld/zones/trusted.xml", `<zone target="ACCEPT"><interface name="eni+"/></zone>`)},
		{
			name: "docker", root: root("usr/bin/dockerd", "", "etc/docker/daemon.json", `{"iptables": true}`),
			want: []string{"docker risk usr/bin/dockerd"},
		},
		{name: "docker without rules", root: root("usr/bin/dockerd", "", "etc/docker/daemon.json", `{"iptables": false}`)},
		{name: "docker that drops nothing", root: root("usr/bin/dockerd", "", "etc/docker/daemon.json", `{"ip-forward-no-drop": true}`)},
		{
			name: "kernel without IPv6", root: root("proc/net/snmp", "", "proc/cmdline", "root=/dev/xvda1 ipv6.disable=1 quiet\n"),
			want: []string{"no-ipv6 info proc/cmdline"},
		},
		{name: "kernel built without IPv6", root: root("proc/net/snmp", "", "proc/cmdline", "quiet\n"), want: []string{"no-ipv6 info proc/net"}},
		{
			name: "IPv6 off by sysctl", root: root("proc/net/snmp", "", "proc/net/if_inet6", "", "proc/sys/net/ipv6/conf/all/disable_ipv6", "1\n"),
			want: []string{"no-ipv6 info proc/sys/net/ipv6/conf/all/disable_ipv6"},
		},
		{name: "IPv6 on", root: root("proc/net/snmp", "", "proc/net/if_inet6", "", "proc/sys/net/ipv6/conf/all/disable_ipv6", "0\n")},
		{
			name: "read-only settings", root: root("proc/mounts", "proc /proc proc rw,nosuid 0 0\nproc /proc/sys proc ro,nosuid 0 0\n"),
			want: []string{"read-only-settings info proc/mounts"},
		},
		{name: "settings writable again", root: root("proc/mounts", "proc /proc/sys proc ro,nosuid 0 0\nproc /proc/sys proc rw,nosuid 0 0\n")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, f := range preflight.Check(tt.root, tt.cfg) {
				got = append(got, fmt.Sprint(f.ID, " ", f.Severity, " ", strings.Join(f.Paths, " ")))
				if f.What == "" || f.Why == "" || f.Do == "" || len(f.Paths) == 0 {
					t.Errorf("finding with an empty field: %+v", f)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

// TestWrittenHelps checks that Write's files remove each finding with Written set.
func TestWrittenHelps(t *testing.T) {
	bad := root(enabled, "", "usr/lib/systemd/network/80-ec2.network", everyENI, "usr/lib/systemd/network/90-all.network", everything,
		"usr/lib/systemd/network/99-default.link", persistent, "usr/sbin/NetworkManager", "", "usr/bin/setup-policy-routes", "")
	written := func(f preflight.Finding) bool { return f.Written }
	if n := len(preflight.Check(bad, primary)); n < 6 {
		t.Fatalf("%d findings without the files, want at least 6", n)
	}
	for _, f := range preflight.Check(with(bad, primary), primary) {
		if written(f) {
			t.Errorf("finding %s despite the files: %+v", f.ID, f)
		}
	}
}

func TestFiles(t *testing.T) {
	var b strings.Builder
	for _, c := range []preflight.Config{{}, primary, {HostLinkPrefix: "pod", Keep: []string{"eth0", "eth3"}, Drivers: []string{"veth"}}} {
		in, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "===== %s\n", in)
		for _, f := range preflight.Files(c) {
			fmt.Fprintf(&b, "--- %s\n%s", f.Path, f.Text)
		}
	}
	golden := filepath.Join("testdata", "files.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	files := preflight.Files(primary)
	var all []string
	for _, f := range files {
		all = append(all, f.Path)
	}
	for _, tt := range []struct {
		name   string
		before func() error
		want   []string
	}{
		{"first", nil, all},
		{"again", nil, nil},
		{"one changed", func() error { return os.WriteFile(filepath.Join(dir, all[1]), []byte("x"), 0o600) }, all[1:2]},
		{"one gone", func() error { return os.Remove(filepath.Join(dir, all[2])) }, all[2:3]},
		{"left by a killed writer", func() error {
			return os.WriteFile(filepath.Join(dir, filepath.Dir(all[0]), "."+filepath.Base(all[0])+".new"), []byte("half"), 0o600)
		}, nil},
	} {
		if tt.before != nil {
			if err := tt.before(); err != nil {
				t.Fatal(err)
			}
		}
		changed, err := preflight.Write(dir, files)
		if err != nil || !slices.Equal(changed, tt.want) {
			t.Errorf("%s: Write = %v, %v, want %v", tt.name, changed, err, tt.want)
		}
		for _, f := range files {
			got, err := os.ReadFile(filepath.Join(dir, f.Path))
			if err != nil || string(got) != f.Text {
				t.Errorf("%s: %s = %q, %v", tt.name, f.Path, got, err)
			}
		}
	}
}

func TestWriteStaysInside(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "etc")); err != nil {
		t.Fatal(err)
	}
	if changed, err := preflight.Write(dir, preflight.Files(primary)); err == nil {
		t.Errorf("Write through a link out of the root = %v, want an error", changed)
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("files outside of the root: %v, %v; want none", left, err)
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []preflight.Config{{HostLinkPrefix: "a b"}, {Keep: []string{""}}, {Keep: []string{"ens5\n[Link]"}}, {Drivers: []string{"*"}}} {
		if c.Validate() == nil {
			t.Errorf("Validate accepts %+v, want an error", c)
		}
	}
	if err := primary.Validate(); err != nil {
		t.Error(err)
	}
}

// ExampleCheck reports the conflicts on an image.
func ExampleCheck() {
	image := fstest.MapFS{"usr/sbin/NetworkManager": {}}
	for _, f := range preflight.Check(image, preflight.Config{}) {
		fmt.Printf("%s (%s)\n", f.ID, f.Severity)
	}
	// Output: networkmanager (harm)
}
