// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPreflight(t *testing.T) {
	dir := t.TempDir()
	for path, text := range map[string]string{
		"etc/systemd/system/multi-user.target.wants/systemd-networkd.service": "",
		"usr/lib/systemd/network/80-ec2.network":                              "[Match]\nDriver=ena\n[Network]\nDHCP=yes\n",
		"proc/net/snmp":                                                       "",
		"proc/cmdline":                                                        "ipv6.disable=1",
		"proc/net/route":                                                      "Iface Destination Gateway Flags RefCnt Use Metric Mask\nens5 00000000 0100000A 0003 0 0 512 00000000\nens5 0000000A 00000000 0001 0 0 0 00FFFFFF\n",
	} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		want   []string
	}{
		{"report", nil, 3, []string{"networkd-foreign (risk)", "networkd-pod-enis (harm)", "found: /usr/lib/systemd/network/80-ec2.network"}},
		{"write", []string{"-write"}, 0, []string{"wrote /etc/systemd/network/05-vpcnet-pod-enis.network", "no-ipv6 (info)", "No conflicts found"}},
		{"again", []string{"-write"}, 0, []string{"No conflicts found"}},
		{"bad format", []string{"-o", "xml"}, 2, []string{"want text, json or yaml"}},
		{"bad link", []string{"-keep", "ens 5"}, 2, []string{"is not the name of a link"}},
		{"help", []string{"-h"}, 0, []string{"Exit status 3"}},
	} {
		var out bytes.Buffer
		status := run(t.Context(), stdio{out: &out, err: &out}, append([]string{"preflight", "-root", dir}, tt.args...))
		if status != tt.status {
			t.Errorf("%s: exit status %d, want %d", tt.name, status, tt.status)
		}
		for _, w := range tt.want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%s: want %q in:\n%s", tt.name, w, out.String())
			}
		}
	}
	var out bytes.Buffer
	if status := run(t.Context(), stdio{out: &out, err: &out}, []string{"preflight", "-root", dir, "-o", "json"}); status != 0 {
		t.Errorf("JSON: exit status %d, want 0", status)
	}
	var r preflightReport
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || len(r.Keep) != 1 || r.Keep[0] != "ens5" || len(r.Findings) != 1 || r.Findings[0].ID != "no-ipv6" {
		t.Errorf("JSON: %+v, %v", r, err)
	}
}
