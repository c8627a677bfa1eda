// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// ufw finds an enabled ufw that does not forward. Rules for the host links of pods are in its
// files as the command ufw wrote them.
func ufw(s system, c Config) []Finding {
	const switchFile, policyFile, rulesFile = "etc/ufw/ufw.conf", "etc/default/ufw", "etc/ufw/user.rules"
	conf, _ := s.read(switchFile)
	policies, ok := s.read(policyFile)
	policy := strings.Trim(last(settings(policies)[".DEFAULT_FORWARD_POLICY"]), `"`)
	rules, _ := s.read(rulesFile)
	forwards := policy == "ACCEPT" || strings.Contains(rules, "-A ufw-user-forward -i "+c.prefix()+"+ ")
	if !ok || strings.ToLower(last(settings(conf)[".ENABLED"])) != "yes" || forwards {
		return nil
	}
	return []Finding{{
		Severity: Harm,
		What:     "the node forwards no packets of pods: neither between pods, nor out of the node, nor to node ports; and no pod reaches the node",
		Why:      fmt.Sprintf("ufw is enabled, and its policy for forwarded packets is %q", policy),
		Do:       fmt.Sprintf("run ufw route allow in on %[1]s+, ufw route allow out on %[1]s+ and ufw allow in on %[1]s+", c.prefix()),
		Paths:    []string{policyFile},
	}}
}

// firewalld finds an enabled firewalld without a zone for the host links of pods, or with a
// reverse path filter that does not know the ENIs of pods.
func firewalld(s system, c Config) (findings []Finding) {
	const conf = "etc/firewalld/firewalld.conf"
	enabled := s.has("etc/systemd/system/multi-user.target.want[s]/firewalld.service", "etc/systemd/system/dbus-org.fedoraproject.FirewallD1.servic[e]")
	if len(enabled) == 0 || len(s.has("usr/sbin/firewalld", "usr/bin/firewalld")) == 0 {
		return nil
	}
	if !slices.ContainsFunc(s.has("etc/firewalld/zones/*.xml"), func(f string) bool {
		text, _ := s.read(f)
		return strings.Contains(text, `name="`+c.prefix()+`+"`)
	}) {
		findings = append(findings, Finding{
			Severity: Harm,
			What:     "the node refuses packets between pods, out of the node, and from pods and other nodes to pods; node ports work",
			Why:      "firewalld is enabled, and refuses to forward what no zone and no policy accepts",
			Do: fmt.Sprintf("run firewall-cmd --permanent with each of --zone=trusted --add-interface=%s+, --new-policy=pods, --policy=pods --set-target=ACCEPT, "+
				"--policy=pods --add-ingress-zone=ANY and --policy=pods --add-egress-zone=trusted, and then firewall-cmd --reload", c.prefix()),
			Paths: enabled,
		})
	}
	text, _ := s.read(conf)
	if mode := strings.ToLower(last(settings(text)[".IPv6_rpfilter"])); !no(mode) && mode != "loose" && mode != "loose-forward" {
		findings = append(findings, Finding{
			Severity: Harm,
			What:     "the node drops IPv6 packets from and to pods on second ENIs",
			Why:      "the reverse path filter of firewalld is strict, and does not see the rules that choose the ENI of a pod",
			Do:       "set IPv6_rpfilter=no in /" + conf + " and restart firewalld",
			Paths:    enabled,
		})
	}
	return findings
}

// docker finds a Docker that may set the policy of forwarded packets. It does so if it is the
// program that switches forwarding on:
// https://docs.docker.com/engine/network/packet-filtering-firewalls/
func docker(s system, c Config) []Finding {
	found := s.has("usr/bin/dockerd", "usr/sbin/dockerd")
	if len(found) == 0 {
		return nil
	}
	var config struct {
		Iptables        *bool `json:"iptables"`
		IPForwardNoDrop bool  `json:"ip-forward-no-drop"`
	}
	text, _ := s.read("etc/docker/daemon.json")
	if err := json.Unmarshal([]byte(text), &config); err == nil && (config.IPForwardNoDrop || config.Iptables != nil && !*config.Iptables) {
		return nil
	}
	return []Finding{{
		Severity: Risk,
		What:     "the node forwards no packets of pods if Docker starts before vpcnet",
		Why:      "Docker sets the policy of the chain FORWARD to DROP if it switches forwarding on itself",
		Do: fmt.Sprintf(`set "ip-forward-no-drop": true in /etc/docker/daemon.json, or net.ipv4.ip_forward and net.ipv6.conf.all.forwarding to 1 in a file of /etc/sysctl.d; `+
			"on a running node also accept packets in DOCKER-USER: iptables -I DOCKER-USER -i %[1]s+ -j ACCEPT and iptables -I DOCKER-USER -o %[1]s+ -j ACCEPT", c.prefix()),
		Paths: found,
	}}
}
