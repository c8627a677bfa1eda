// SPDX-License-Identifier: Apache-2.0

//go:build linux

package iptables_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	goiptables "github.com/coreos/go-iptables/iptables"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/snat"
	"github.com/vpcnet/vpcnet/snat/iptables"
)

// services returns the rules of a kube-proxy for Services with one endpoint each.
func services(n int) string {
	var chains, rules strings.Builder
	chains.WriteString("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n")
	rules.WriteString("-I PREROUTING -j KUBE-SERVICES\n-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n")
	for i := range n {
		fmt.Fprintf(&chains, ":KUBE-SVC-%05d - [0:0]\n:KUBE-SEP-%05d - [0:0]\n", i, i)
		service, endpoint := netip.AddrFrom4([4]byte{172, 20, byte(i >> 8), byte(i)}), netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		fmt.Fprintf(&rules, "-A KUBE-SERVICES -d %s/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-%05d\n", service, i)
		fmt.Fprintf(&rules, "-A KUBE-SVC-%05d -j KUBE-SEP-%05d\n-A KUBE-SEP-%05d -s %s/32 -j KUBE-MARK-MASQ\n", i, i, i, endpoint)
		fmt.Fprintf(&rules, "-A KUBE-SEP-%05d -p tcp -m tcp -j DNAT --to-destination %s:8080\n", i, endpoint)
	}
	return chains.String() + rules.String() + "COMMIT\n"
}

// loads are the numbers of pods of the node and of foreign Services.
var loads = []struct{ pods, services int }{{0, 0}, {737, 0}, {5000, 0}, {0, 5000}}

// withLoad calls bench in a namespace with the links of pods and with foreign Services.
func withLoad(b *testing.B, name string, v iptables.Variant, bench func(b *testing.B, ns *fabric.Netns)) {
	for _, l := range loads {
		b.Run(fmt.Sprintf("%s/pods=%d/services=%d", name, l.pods, l.services), func(b *testing.B) {
			ns := namespace(b)
			tool(b, ns, services(l.services), "iptables-"+string(v)+"-restore", "--noflush")
			tool(b, ns, links(l.pods), "ip", "-batch", "-")
			bench(b, ns)
		})
	}
}

// links returns the commands of ip that make the host links of pods, with their routes.
func links(pods int) string {
	var text strings.Builder
	for i := range pods {
		fmt.Fprintf(&text, "link add eni%d type veth peer name p%d\nlink set eni%d up\n", i, i, i)
		fmt.Fprintf(&text, "route add %s/32 dev eni%d\n", netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), i)
	}
	return text.String()
}

// excluding returns a configuration that excludes a prefix, another one in each turn.
func excluding(turn int) snat.Config {
	return snat.Config{
		NodeAddrs: []netip.Addr{netip.MustParseAddr("10.0.1.10")}, PrimaryLink: "ens5", NodePort: true,
		VPC:      []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")},
		Excluded: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, byte(turn % 2), 0}), 24)},
	}
}

// BenchmarkApply changes one excluded prefix with each backend, beside pods and the rules of a
// kube-proxy.
func BenchmarkApply(b *testing.B) {
	withLoad(b, "nftables", iptables.NFT, func(b *testing.B, ns *fabric.Netns) {
		h, err := snat.Open(ns.Path())
		if err != nil {
			b.Fatal(err)
		}
		defer h.Close()
		for turn := 0; b.Loop(); turn++ {
			r, err := excluding(turn).Ruleset()
			if err != nil {
				b.Fatal(err)
			}
			if _, err := h.Apply(b.Context(), r); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, v := range variants {
		withLoad(b, "iptables-"+string(v), v, func(b *testing.B, ns *fabric.Netns) {
			h := open(b, iptables.Config{Netns: ns.Path(), Variant: v})
			for turn := 0; b.Loop(); turn++ {
				if _, err := h.Apply(b.Context(), turnOf(b, turn)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func turnOf(b *testing.B, turn int) snat.IptablesRuleset {
	r, err := excluding(turn).Iptables()
	if err != nil {
		b.Fatal(err)
	}
	return r
}

// BenchmarkCheck applies the rules that are in place, as each check of Watch does.
func BenchmarkCheck(b *testing.B) {
	for _, v := range variants {
		withLoad(b, "iptables-"+string(v), v, func(b *testing.B, ns *fabric.Netns) {
			h := open(b, iptables.Config{Netns: ns.Path(), Variant: v})
			for b.Loop() {
				if _, err := h.Apply(b.Context(), turnOf(b, 0)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLibrary makes the change of BenchmarkApply with one call of go-iptables for each
// chain and each rule. Packets meet every state between them.
func BenchmarkLibrary(b *testing.B) {
	for _, v := range variants {
		withLoad(b, "iptables-"+string(v), v, func(b *testing.B, ns *fabric.Netns) {
			err := ns.Do(func() error { // the library starts programs in the namespace of the thread
				t4, err := goiptables.New(goiptables.Path("iptables-"+string(v)), goiptables.Timeout(60))
				if err != nil {
					return err
				}
				t6, err := goiptables.New(goiptables.Path("ip6tables-"+string(v)), goiptables.IPFamily(goiptables.ProtocolIPv6), goiptables.Timeout(60))
				if err != nil {
					return err
				}
				for turn := 0; b.Loop(); turn++ {
					r := turnOf(b, turn)
					if err := oneByOne(t4, r.IPv4()); err != nil {
						return err
					}
					if err := oneByOne(t6, r.IPv6()); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
		})
	}
}

// oneByOne makes the chains and rules of a text for iptables-restore.
func oneByOne(t *goiptables.IPTables, text string) error {
	table := ""
	for line := range strings.Lines(text) {
		words := splitRule(line)
		var err error
		switch {
		case line[0] == '*':
			table = words[0][1:]
		case line[0] == ':':
			err = t.ClearChain(table, words[0][1:])
		case line[0] == '-':
			err = t.AppendUnique(table, words[1], words[2:]...)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// splitRule splits a rule into words, of which those in quotes have spaces.
func splitRule(line string) (words []string) {
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			words = append(words, part)
			continue
		}
		words = append(words, strings.Fields(part)...)
	}
	return words
}
