// SPDX-License-Identifier: Apache-2.0

package snat_test

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
	"github.com/vpcnet/vpcnet/snat"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) { isolatetest.Test(m) }

func addrs(list ...string) (all []netip.Addr) {
	for _, s := range list {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

func prefixes(list ...string) (all []netip.Prefix) {
	for _, s := range list {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func base(change func(*snat.Config)) snat.Config {
	c := snat.Config{
		NodeAddrs:   addrs("10.0.1.10"),
		PrimaryLink: "ens5",
		VPC:         prefixes("10.0.0.0/16"),
		NodePort:    true,
	}
	if change != nil {
		change(&c)
	}
	return c
}

// returns are the secondary ENIs of a node.
var returns = []snat.Return{{Link: "ens7", Mark: 0x02}, {Link: "ens6", Mark: 0x01}, {Link: "ens37", Mark: 0x7f}}

// configs are the golden cases; each has a file in testdata.
var configs = map[string]snat.Config{
	"default": base(nil),
	"excluded": base(func(c *snat.Config) {
		c.VPC = prefixes("100.64.0.0/10", "10.0.0.0/16", "10.0.0.0/16")
		c.Excluded = prefixes("192.168.100.0/24", "10.0.3.0/24", "198.51.100.7/32", "fd00::/8")
	}),
	"exclude-all":       base(func(c *snat.Config) { c.Excluded = prefixes("0.0.0.0/0") }),
	"external":          base(func(c *snat.Config) { c.External, c.VPC = true, nil }),
	"external-no-ports": base(func(c *snat.Config) { c.External, c.NodePort = true, false }),
	"no-node-port":      base(func(c *snat.Config) { c.NodePort = false }),
	"hashrandom":        base(func(c *snat.Config) { c.Random = snat.RandomHash }),
	"random-none":       base(func(c *snat.Config) { c.Random = snat.RandomNone }),
	"ipv6": base(func(c *snat.Config) {
		c.NodeAddrs, c.VPC = addrs("2001:db8::10"), prefixes("2001:db8::/56")
	}),
	"dual": base(func(c *snat.Config) {
		c.NodeAddrs, c.VPC = addrs("10.0.1.10", "2001:db8::10"), prefixes("10.0.0.0/16", "2001:db8::/56")
	}),
	"ports":   base(func(c *snat.Config) { c.Ports = snat.Ports{First: 32768, Last: 60999} }),
	"returns": base(func(c *snat.Config) { c.Returns = returns }),
	"returns-external": base(func(c *snat.Config) {
		c.External, c.VPC, c.Returns = true, nil, returns
	}),
	"returns-other-mask": base(func(c *snat.Config) {
		c.Mark, c.ReturnMask = 0x100, 0xff0000
		c.Returns = []snat.Return{{Link: "ens6", Mark: 0xff0000}, {Link: "ens7", Mark: 0x10000}}
	}),
	"other-names": base(func(c *snat.Config) { c.PrimaryLink, c.HostLinkPrefix, c.Mark = "eth0", "veth", 0x200 }),
}

func ruleset(t testing.TB, c snat.Config) snat.Ruleset {
	t.Helper()
	r, err := c.Ruleset()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestGolden compares the text of each configuration with its golden file.
func TestGolden(t *testing.T) {
	for name, c := range configs {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", name+".nft")
			got := ruleset(t, c).String()
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	files, err := filepath.Glob("testdata/*.nft")
	if err != nil || len(files) != len(configs) {
		t.Errorf("%d golden files for %d configurations, %v", len(files), len(configs), err)
	}
}

// TestOrderDoesNotMatter reverses prefixes and returns.
func TestOrderDoesNotMatter(t *testing.T) {
	c := configs["excluded"]
	c.Returns = returns
	want := ruleset(t, c)
	c.VPC, c.Excluded = slices.Clone(c.VPC), slices.Clone(c.Excluded)
	c.Returns = slices.Clone(returns)
	slices.Reverse(c.Returns)
	slices.Reverse(c.VPC)
	slices.Reverse(c.Excluded)
	if got := ruleset(t, c); !got.Equal(want) {
		t.Errorf("(-want +got):\n%s", cmp.Diff(want.String(), got.String()))
	}
}

// TestOnePort has a range of a single port.
func TestOnePort(t *testing.T) {
	rules, err := base(func(c *snat.Config) { c.Ports = snat.Ports{First: 4000, Last: 4000} }).Ruleset()
	if err != nil || !strings.Contains(rules.String(), ":4000-4000") {
		t.Errorf("%v, rules\n%v", err, rules)
	}
}

// TestBadConfigs has a configuration for each error.
func TestBadConfigs(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*snat.Config)
		want   string
	}{
		"no VPC":            {func(c *snat.Config) { c.VPC = nil }, "VPC has no IPv4 prefix"},
		"VPC of IPv6 only":  {func(c *snat.Config) { c.VPC = prefixes("2001:db8::/56") }, "VPC has no IPv4 prefix"},
		"only excluded":     {func(c *snat.Config) { c.VPC, c.Excluded = nil, c.VPC }, "VPC has no IPv4 prefix"},
		"no link":           {func(c *snat.Config) { c.PrimaryLink = "" }, "primary link"},
		"quote in link":     {func(c *snat.Config) { c.PrimaryLink = `ens5"; drop` }, "primary link"},
		"pattern as link":   {func(c *snat.Config) { c.PrimaryLink = "ens*" }, "primary link"},
		"quote in prefix":   {func(c *snat.Config) { c.HostLinkPrefix = `e"` }, "host link prefix"},
		"long link":         {func(c *snat.Config) { c.PrimaryLink = strings.Repeat("e", 16) }, "primary link"},
		"long prefix":       {func(c *snat.Config) { c.HostLinkPrefix = strings.Repeat("e", 16) }, "host link prefix"},
		"two bits":          {func(c *snat.Config) { c.Mark = 0x81 }, "has 2 bits, want one"},
		"no first port":     {func(c *snat.Config) { c.Ports.Last = 9 }, "want a range"},
		"ports backwards":   {func(c *snat.Config) { c.Ports = snat.Ports{First: 9, Last: 8} }, "want a range"},
		"return no port":    {func(c *snat.Config) { c.NodePort, c.Returns = false, returns }, "returns without NodePort"},
		"return by primary": {func(c *snat.Config) { c.Returns = []snat.Return{{Link: "ens5", Mark: 1}} }, "has two marks"},
		"two returns":       {func(c *snat.Config) { c.Returns = []snat.Return{{Link: "ens6", Mark: 1}, {Link: "ens6", Mark: 2}} }, "has two marks"},
		"return by nothing": {func(c *snat.Config) { c.Returns = []snat.Return{{Mark: 1}} }, "return link"},
		"return unmarked":   {func(c *snat.Config) { c.Returns = []snat.Return{{Link: "ens6"}} }, "want bits of 0x7f"},
		"return too high":   {func(c *snat.Config) { c.Returns = []snat.Return{{Link: "ens6", Mark: 0x81}} }, "want bits of 0x7f"},
		"return mask":       {func(c *snat.Config) { c.ReturnMask = 0xff }, "has the bit 0x80"},
		"random":            {func(c *snat.Config) { c.Random = "dice" }, `"dice": want prng, hashrandom or none`},
		"two of a family":   {func(c *snat.Config) { c.NodeAddrs = addrs("10.0.1.10", "10.0.1.11") }, "want at most one of each family"},
		"mapped address":    {func(c *snat.Config) { c.NodeAddrs = addrs("::ffff:10.0.1.10") }, "want at most one of each family"},
		"invalid prefix":    {func(c *snat.Config) { c.Excluded = []netip.Prefix{{}} }, "zero Prefix"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := base(test.change).Ruleset()
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}
