// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"path"
	"slices"
	"strings"
)

// noIPv6 finds a kernel without IPv6, or with IPv6 off. Each kernel with IPv6 has a file
// if_inet6 beside those of IPv4, even if no link has an address.
func noIPv6(s system, _ Config) []Finding {
	if len(s.has("proc/net/snmp")) > 0 && len(s.has("proc/net/if_inet6")) == 0 {
		f := Finding{
			Severity: Info,
			What:     "the kernel has no IPv6: pods get IPv4 addresses only, and an IPv6 address of an ENI is not used",
			Why:      "the kernel was built without IPv6, or its module is not loaded",
			Do:       "nothing for an IPv4 cluster; otherwise boot a kernel with IPv6",
			Paths:    []string{"proc/net"},
		}
		if line, _ := s.read("proc/cmdline"); slices.Contains(strings.Fields(line), "ipv6.disable=1") {
			f.Why = "ipv6.disable=1 is on the kernel's command line"
			f.Do = "nothing for an IPv4 cluster; otherwise remove ipv6.disable=1 and reboot"
			f.Paths = []string{"proc/cmdline"}
		}
		return []Finding{f}
	}
	const all = "proc/sys/net/ipv6/conf/all/disable_ipv6"
	if s.number(all) == 0 {
		return nil
	}
	return []Finding{{
		Severity: Info,
		What:     "IPv6 is off: it stays off if the node's ENIs have IPv4 addresses only, and otherwise vpcnet switches it on",
		Why:      "net.ipv6.conf.all.disable_ipv6 is 1",
		Do:       "nothing, or set it to 0 in a file of /etc/sysctl.d",
		Paths:    []string{all},
	}}
}

// readOnlySettings finds a /proc/sys that is mounted read-only.
func readOnlySettings(s system, _ Config) []Finding {
	mounts, _ := s.read("proc/mounts")
	readOnly := false
	for line := range strings.Lines(mounts) { // a later mount hides an earlier one
		if f := strings.Fields(line); len(f) > 3 && f[1] == "/proc/sys" {
			readOnly = slices.Contains(strings.Split(f[3], ","), "ro")
		}
	}
	if !readOnly {
		return nil
	}
	return []Finding{{
		Severity: Info,
		What:     "vpcnet cannot write kernel settings; it works if those that it needs have the right values, and otherwise names them in its errors",
		Why:      "/proc/sys is mounted read-only, as in a container without privileges",
		Do:       "set net.ipv4.ip_forward and, with IPv6, net.ipv6.conf.all.forwarding to 1 in a file of /etc/sysctl.d, or mount /proc/sys writable",
		Paths:    []string{"proc/mounts"},
	}}
}

// noFlowtables finds a kernel without the modules for Config.Accelerate: neither the list of
// its modules nor that of its builtin ones has them. It finds nothing if the lists are absent.
func noFlowtables(s system, c Config) []Finding {
	release, _ := s.read("proc/sys/kernel/osrelease")
	dir := path.Join("lib/modules", strings.TrimSpace(release))
	present, listed := s.read(path.Join(dir, "modules.dep"))
	builtin, _ := s.read(path.Join(dir, "modules.builtin"))
	loaded, _ := s.read("proc/modules")
	if !c.Accelerate || release == "" || !listed {
		return nil
	}
	var missing []string
	for _, name := range []string{"nft_flow_offload", "nf_flow_table_inet"} {
		if !strings.Contains(present+builtin, "/"+name+".ko") && !strings.Contains("\n"+loaded, "\n"+name+" ") {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return []Finding{{
		Severity: Info,
		What:     "-accelerate has no effect: packets of all flows pass routing and the rules of the node",
		Why:      "the kernel has no module " + strings.Join(missing, " and "),
		Do:       "nothing, or boot a kernel with flowtables of nftables",
		Paths:    []string{path.Join(dir, "modules.dep")},
	}}
}
