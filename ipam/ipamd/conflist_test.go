// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/ipam"
)

// newPlugins are the upstream plugins of a release with version 1.1.0 of the specification.
var newPlugins = installed{
	"egress-cni": {"0.4.0", "1.0.0", "1.1.0"}, "host-local": {"0.4.0", "1.0.0", "1.1.0"}, "portmap": {"0.4.0", "1.0.0", "1.1.0"},
	"bandwidth": {"0.4.0", "1.0.0", "1.1.0"}, "tuning": {"0.4.0", "1.0.0", "1.1.0"},
}

// primaryOf are the addresses of a primary ENI.
var primaryOf = []netip.Prefix{netip.MustParsePrefix("10.0.0.10/32"), netip.MustParsePrefix("2001:db8::10/128")}

// TestConflistAWS compares the list in the form of amazon-vpc-cni-k8s with a golden file,
// which has the entries and fields of that list.
func TestConflistAWS(t *testing.T) {
	const golden = "testdata/10-aws.conflist"
	got, left := conflistOf(t, Config{
		ConflistFormat: FormatAWS, PluginLogFile: "/var/log/aws-routed-eni/plugin.log", PluginLogLevel: "DEBUG",
	}, newPlugins, primaryOf)
	if len(left) > 0 {
		t.Errorf("left out: %v", left)
	}
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), rewrite with -update:\n%s", golden, diff)
	}
}

// conflistOf returns the list of a configuration, which the CNI library must accept.
func conflistOf(t *testing.T, c Config, have installed, primary []netip.Prefix) (text string, left []string) {
	t.Helper()
	list, left := listOf(t, c, have, primary)
	b, err := list.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := libcni.ConfListFromBytes(b); err != nil {
		t.Fatalf("the CNI library refuses the list: %v\n%s", err, b)
	}
	return string(b), left
}

func listOf(t *testing.T, c Config, have installed, primary []netip.Prefix) (cniplugin.Conflist, []string) {
	t.Helper()
	c, err := c.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	list, left, err := c.conflist(have, primary)
	if err != nil {
		t.Fatal(err)
	}
	return list, left
}

// TestConflistChain checks which plugins are chained, with which versions, and what is said
// about those that are not.
func TestConflistChain(t *testing.T) {
	old := func(versions ...string) installed {
		return installed{"portmap": versions, "bandwidth": {"0.4.0", "1.0.0", "1.1.0"}}
	}
	four, six := []ipam.Family{ipam.IPv4}, []ipam.Family{ipam.IPv6}
	for name, c := range map[string]struct {
		cfg     Config
		have    installed
		primary []netip.Prefix
		want    []string // parts of the entries of chained plugins
		version []string
		left    []string // parts of the sentences
	}{
		"portmap by default":       {Config{}, newPlugins, primaryOf, []string{`"portMappings":true`}, []string{"1.0.0", "1.1.0"}, nil},
		"no portmap":               {Config{NoPortmap: true}, newPlugins, primaryOf, nil, []string{"1.0.0", "1.1.0"}, nil},
		"portmap missing":          {Config{}, installed{}, primaryOf, nil, []string{"1.0.0", "1.1.0"}, []string{"/opt/cni/bin has no plugin portmap: hostPort of pods has no effect"}},
		"portmap of 2022":          {Config{}, old("0.4.0", "1.0.0"), primaryOf, []string{"portmap"}, []string{"1.0.0"}, nil},
		"portmap of 2020":          {Config{}, old("0.3.1", "0.4.0"), primaryOf, []string{"portmap"}, []string{"0.4.0"}, nil},
		"portmap without versions": {Config{}, old(), primaryOf, []string{"portmap"}, []string{"1.0.0"}, nil},
		"all": {Config{Bandwidth: true, DisablePodIPv6: true, EgressIPv6: true, Families: four}, newPlugins, primaryOf,
			[]string{`"nodeIP":"2001:db8::10"`, `"portmap"`, `"bandwidth"`, `"net.ipv6.conf.lo.disable_ipv6":"1"`}, []string{"1.0.0", "1.1.0"}, nil},
		"egress of IPv6 pods": {Config{EgressIPv4: true, NoPortmap: true, Families: six}, newPlugins, primaryOf,
			[]string{`"nodeIP":"10.0.0.10"`}, []string{"1.0.0", "1.1.0"}, nil},
		"egress without an address": {Config{EgressIPv6: true, NoPortmap: true}, newPlugins, primaryOf[:1], nil, []string{"1.0.0", "1.1.0"},
			[]string{"the node has no IPv6 address: pods reach no IPv6 destinations, for which EgressIPv6 (ENABLE_V6_EGRESS) asks"}},
		"egress without host-local": {Config{EgressIPv6: true, NoPortmap: true}, installed{"egress-cni": nil}, primaryOf, nil, []string{"1.0.0", "1.1.0"},
			[]string{"has no plugin host-local: pods reach no IPv6 destinations"}},
		"egress of both families is not needed": {Config{EgressIPv6: true, EgressIPv4: true, NoPortmap: true, Families: []ipam.Family{ipam.IPv4, ipam.IPv6}},
			newPlugins, primaryOf, nil, []string{"1.0.0", "1.1.0"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			list, left := listOf(t, c.cfg, c.have, c.primary)
			if diff := cmp.Diff(c.version, list.CNIVersions); diff != "" {
				t.Errorf("versions (-want +got):\n%s", diff)
			}
			var got []string
			for _, raw := range list.Chained {
				got = append(got, string(raw))
			}
			fits := func(all, parts []string) bool {
				return slices.EqualFunc(all, parts, strings.Contains)
			}
			if !fits(got, c.want) || !fits(left, c.left) {
				t.Errorf("chained %s, left out %q; want %q and %q", got, left, c.want, c.left)
			}
		})
	}
}

// TestConflistMissing checks that a plugin that was asked for by name is an error.
func TestConflistMissing(t *testing.T) {
	c, err := Config{Bandwidth: true}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.conflist(installed{}, primaryOf); err == nil || !strings.Contains(err.Error(), "/opt/cni/bin has no plugin bandwidth, which Bandwidth (ENABLE_BANDWIDTH_PLUGIN) asks for") {
		t.Errorf("error %v, want the plugin and its setting", err)
	}
}

// TestFindPlugins asks programs for their versions.
func TestFindPlugins(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"portmap":   "#!/bin/sh\necho '{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"1.0.0\",\"1.1.0\"]}'\n",
		"bandwidth": "#!/bin/sh\nexit 1\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "tuning"), nil, 0o644); err != nil { // is not executable
		t.Fatal(err)
	}
	got := findPlugins(t.Context(), dir, chainable())
	if diff := cmp.Diff(installed{"portmap": {"1.0.0", "1.1.0"}, "bandwidth": nil}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestEarlierConflists checks which lists a runtime prefers.
func TestEarlierConflists(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"05-other.conf", "10-aws.conflist", "10-vpcnet.conflist", "90-late.conflist", "00-notes.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{filepath.Join(dir, "05-other.conf"), filepath.Join(dir, "10-aws.conflist")}
	if diff := cmp.Diff(want, earlierConflists(filepath.Join(dir, "10-vpcnet.conflist"))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
