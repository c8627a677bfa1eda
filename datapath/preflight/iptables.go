// SPDX-License-Identifier: Apache-2.0

package preflight

import "path"

// iptablesPrograms are the programs with which package snat/iptables works.
var iptablesPrograms = []string{"iptables-nft", "iptables-legacy", "xtables-nft-multi", "xtables-legacy-multi", "iptables"}

// iptablesBackend finds what an agent that translates with iptables cannot do, or that it
// cannot start.
func iptablesBackend(s system, c Config) []Finding {
	if !c.Iptables {
		return nil
	}
	dirs := []string{"usr/sbin", "sbin", "usr/local/sbin", "usr/bin", "bin"}
	for _, dir := range dirs {
		for _, name := range iptablesPrograms {
			// A pattern also finds a link that leads out of an image.
			if found := s.has(path.Join(dir, name[:len(name)-1]+"["+name[len(name)-1:]+"]")); len(found) > 0 {
				return []Finding{{
					Severity: Risk,
					What:     "pods on second ENIs do not reach Services that have their endpoints outside of the VPC, and with a kube-proxy in nftables mode no Service at all",
					Why:      "the agent translates with iptables, which decides about the way out before the address of a Service is rewritten",
					Do:       "set -snat-backend to nftables or auto; with a kube-proxy in nftables mode at least add the prefix of the Services to -exclude-snat-cidrs",
					Paths:    found,
				}}
			}
		}
	}
	return []Finding{{
		Severity: Harm,
		What:     "the agent does not start",
		Why:      "it is set to translate with iptables, and the system has none of its programs",
		Do:       "set -snat-backend to nftables or auto, or install iptables",
		Paths:    dirs[:1],
	}}
}
