// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// networkManagerManages finds a NetworkManager without configuration that excludes
// host links.
func networkManagerManages(s system, c Config) []Finding {
	found := s.has("usr/sbin/NetworkManager", "usr/bin/NetworkManager")
	if len(found) == 0 {
		return nil
	}
	for _, f := range s.has("etc/NetworkManager/conf.d/*.conf", "run/NetworkManager/conf.d/*.conf", "usr/lib/NetworkManager/conf.d/*.conf", "etc/NetworkManager/NetworkManager.conf") {
		t, _ := s.read(f)
		for key, values := range settings(t) {
			section, name, _ := strings.Cut(key, ".")
			unmanaged := section == "keyfile" && strings.HasPrefix(name, "unmanaged-devices")
			device := strings.HasPrefix(section, "device") && name == "match-device" && no(last(settings(t)[section+".managed"]))
			if (unmanaged || device) && strings.Contains(strings.Join(values, ";"), "interface-name:"+c.prefix()+"*") {
				return nil
			}
		}
	}
	return []Finding{{
		Severity: Harm,
		What:     "NetworkManager manages pods' host links and pod ENIs, requests addresses by DHCP and changes routes",
		Why:      "it manages every device that is not excluded by a file",
		Do:       "write /" + networkManager + " and run systemctl reload NetworkManager",
		Paths:    found, Written: true,
	}}
}

// ec2NetUtils finds amazon-ec2-net-utils, versions 1 and 2.
func ec2NetUtils(s system, c Config) []Finding {
	found := s.has("usr/bin/setup-policy-routes", "usr/lib/udev/rules.d/*vpc-policy-routes.rules",
		"etc/udev/rules.d/*ec2-network-interfaces.rules", "etc/sysconfig/network-scripts/ec2net-functions")
	if len(found) == 0 || len(s.has("etc/systemd/system/policy-routes@.service", "etc/udev/rules.d/99-vpc-policy-routes.rule[s]")) > 0 {
		return nil
	}
	return []Finding{{
		Severity: Harm,
		What:     "amazon-ec2-net-utils adds its own addresses, routes and rules for each ENI, and again every minute",
		Why:      "it configures every new ENI and adds the addresses of pods to the node",
		Do:       "remove the package, or mask it: link /etc/udev/rules.d/99-vpc-policy-routes.rules to /dev/null and run systemctl mask policy-routes@.service refresh-policy-routes@.timer",
		Paths:    found,
	}}
}

// cloudInitHotplug finds a cloud-init that configures new interfaces. On EC2 this is
// the default since version 24.1.
func cloudInitHotplug(s system, _ Config) []Finding {
	if len(s.has("etc/cloud/cloud-init.disabled")) > 0 {
		return nil
	}
	found := s.has("var/lib/cloud/hotplug.enabled", "etc/udev/rules.d/*cloud-init-hook-hotplug.rules", "run/udev/rules.d/*cloud-init-hook-hotplug.rules")
	for _, f := range s.has("etc/cloud/cloud.cfg", "etc/cloud/cloud.cfg.d/*.cfg") {
		t, _ := s.read(f)
		for line := range strings.Lines(t) {
			line, _, _ = strings.Cut(line, "#")
			words := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\n[]{},-'\":", r) })
			if slices.Contains(words, "config") && slices.Contains(words, "disabled") {
				return nil // network: {config: disabled}
			}
			if slices.Contains(words, "hotplug") && !slices.Contains(found, f) {
				found = append(found, f)
			}
		}
	}
	if len(found) == 0 {
		return nil
	}
	return []Finding{{
		Severity: Harm,
		What:     "cloud-init writes network configuration for each new ENI with all its addresses, so the node gets the addresses of pods",
		Why:      "the hotplug event of cloud-init is on",
		Do:       "put `updates: {network: {when: [boot-new-instance]}}` into a file of /etc/cloud/cloud.cfg.d that sorts last, delete the hotplug files named here, and reboot",
		Paths:    found,
	}}
}

// rpFilter finds strict reverse path filters, now or after the next boot.
func rpFilter(s system, c Config) (findings []Finding) {
	const dir = "proc/sys/net/ipv4/conf"
	all := s.number(dir + "/all/rp_filter")
	var strict []string
	for _, f := range s.has(dir + "/*/rp_filter") {
		link := path.Base(path.Dir(f))
		if link == "all" || link == "default" || link == "lo" || strings.HasPrefix(link, c.prefix()) {
			continue
		}
		if max(all, s.number(f)) == 1 {
			strict = append(strict, f)
		}
	}
	const what = "the kernel drops packets to pods that arrive on a different ENI than the one for the answers"
	if len(strict) > 0 {
		findings = append(findings, Finding{
			Severity: Risk, What: what,
			Why:   "the reverse path filter of these links is strict; vpcnet makes it loose only on the ENIs that it sets up",
			Do:    "set rp_filter to 2 for links that vpcnet does not set up",
			Paths: strict,
		})
	}
	var files []string
	for _, f := range s.has("etc/sysctl.conf", "etc/sysctl.d/*.conf", "run/sysctl.d/*.conf", "usr/local/lib/sysctl.d/*.conf", "usr/lib/sysctl.d/*.conf", "lib/sysctl.d/*.conf") {
		t, _ := s.read(f)
		for line := range strings.Lines(t) {
			key, value, ok := strings.Cut(line, "=")
			key = strings.ReplaceAll(strings.TrimLeft(strings.TrimSpace(key), "-"), "/", ".")
			if ok && strings.HasPrefix(key, "net.ipv4.conf.") && strings.HasSuffix(key, ".rp_filter") && strings.TrimSpace(value) == "1" && !slices.Contains(files, f) {
				files = append(files, f)
			}
		}
	}
	if len(files) > 0 {
		findings = append(findings, Finding{
			Severity: Risk, What: what,
			Why:   "these files make the reverse path filter strict, at boot and, by udev, on each new link",
			Do:    "set rp_filter to 2 in these files",
			Paths: files,
		})
	}
	return findings
}

// neighbors finds limits on neighbour entries that are too low for c.Peers.
func neighbors(s system, c Config) (findings []Finding) {
	for _, family := range []string{"ipv4", "ipv6"} {
		dir := "proc/sys/net/" + family + "/neigh/default/"
		soft, hard := s.number(dir+"gc_thresh2"), s.number(dir+"gc_thresh3")
		if hard == 0 || c.Peers <= min(soft, hard) {
			continue
		}
		f := Finding{
			Severity: Risk,
			What:     "the kernel removes neighbour entries that are in use, and must resolve them again",
			Why:      fmt.Sprintf("%d peers are more than gc_thresh2, which is %d", c.Peers, soft),
			Do:       fmt.Sprintf("set net.%s.neigh.default.gc_thresh2 to %d and gc_thresh3 to %d in a file of /etc/sysctl.d", family, 2*c.Peers, 4*c.Peers),
			Paths:    []string{dir + "gc_thresh2"},
		}
		if c.Peers > hard {
			f.Severity = Harm
			f.What = "the kernel refuses more neighbour entries: packets to some addresses of the subnet are lost, and its log says table overflow"
			f.Why = fmt.Sprintf("%d peers are more than gc_thresh3, which is %d", c.Peers, hard)
			f.Paths = []string{dir + "gc_thresh3"}
		}
		findings = append(findings, f)
	}
	return findings
}

// number returns the number in a file, or 0 if there is none.
func (s system) number(name string) int {
	t, _ := s.read(name)
	n, err := strconv.Atoi(strings.TrimSpace(t))
	if err != nil {
		return 0
	}
	return n
}
