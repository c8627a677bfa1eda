// SPDX-License-Identifier: Apache-2.0

package egress_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// TestPackets checks by packets that hosts in the internet and in the VPC see the node, that
// pods do not reach each other by the new addresses, and that nothing is left after DEL.
func TestPackets(t *testing.T) {
	eachFamily(t, func(t *testing.T, family string) {
		n := newNode(t, family)
		defer n.wantAsBefore()
		f := families[family]
		vpc := n.vpc
		other := vpc.NodeIn(t, enitest.InstanceInput{Type: "t3.small", IPv6Addrs: 1})
		other.Echo(t, echoAt(addrOf(other, family)))
		p, result := n.add(nil)
		q, _ := n.add(nil)
		for _, pod := range []*vpctest.Pod{p, q} {
			pod.Echo(t, echoAt(n.podAddr(pod.Name())))
			wantSource(t, pod, f.internet, n.addr())
			wantSource(t, pod, addrOf(other, family), n.addr())
			pod.Ping(t, f.internet)
		}
		p.NoAnswer(t, "tcp", echoAt(n.podAddr(q.Name())))
		p.NoAnswer(t, "udp", echoAt(n.podAddr(q.Name())))
		n.Ask(t, "tcp", echoAt(n.podAddr(q.Name()))) // the node itself, for probes
		if out := n.check(p, result, nil); out != "" {
			t.Errorf("CHECK: %s", out)
		}
		n.del(p)
		wantSource(t, q, f.internet, n.addr())
		p.NoAnswer(t, "udp", echoAt(f.internet))
		n.del(q)
		d := vpc.Drops(t)
		for eni, count := range d.Spoofed {
			if count > 0 {
				t.Errorf("%d packets left by %s with another source", count, eni)
			}
		}
	})
}

// TestPacketTooBig makes the way to the internet narrower than the pod's link. The answer of
// the router must reach the pod, or its large segments would be lost.
func TestPacketTooBig(t *testing.T) {
	eachFamily(t, func(t *testing.T, family string) {
		n := newNode(t, family)
		defer n.wantAsBefore()
		f := families[family]
		p, _ := n.add(nil)
		router := n.vpc.Router()
		way := strings.Fields(router.Run(t, "ip", f.ip, "route", "get", f.internet.String()))
		var hop []string
		for i, w := range way {
			if w == "via" || w == "dev" {
				hop = append(hop, w, way[i+1])
			}
		}
		hop = append(hop, "onlink")
		const table, mtu = "77", "1400"
		router.Run(t, "ip", append([]string{f.ip, "route", "add", f.internet.String(), "table", table, "mtu", mtu}, hop...)...)
		router.Run(t, "ip", f.ip, "rule", "add", "priority", "1", "to", f.internet.String(), "lookup", table)
		c := p.Dial(t, "tcp", echoAt(f.internet))
		defer c.Close()
		transfer(t, c)
		if got := p.Run(t, "ip", f.ip, "route", "get", f.internet.String()); !strings.Contains(got, "mtu "+mtu) {
			t.Errorf("the pod's route is %q, want MTU %s", got, mtu)
		}
		n.del(p)
	})
}

// TestRandom checks the way to choose ports.
func TestRandom(t *testing.T) {
	n := newNode(t, "IPv6")
	defer n.wantAsBefore()
	for mode, keeps := range map[string]bool{"none": true, "hashrandom": false, "prng": false, "": false} {
		p, _ := n.add(map[string]any{"randomizeSNAT": mode})
		if rules := n.Run(t, "nft", "list", "table", "inet", "vpcnet-egress-ip6"); strings.Contains(rules, "random") == keeps {
			t.Errorf("%q: rules\n%s", mode, rules)
		}
		wantSource(t, p, vpctest.InternetAddr6, n.Addr6)
		n.del(p)
	}
}

// TestRefused checks that ADD names what it refuses, and leaves nothing.
func TestRefused(t *testing.T) {
	n := newNode(t, "IPv6")
	defer n.wantAsBefore()
	ipam := func(change func(map[string]any)) map[string]any {
		m := entry("IPv6", n.dir, n.Addr6, nil)["ipam"].(map[string]any)
		change(m)
		return map[string]any{"ipam": m}
	}
	for _, tt := range []struct {
		fields map[string]any
		want   string
	}{
		{map[string]any{"enabled": "perhaps"}, `invalid enabled \"perhaps\"`},
		{map[string]any{"enabled": []string{}}, "network configuration cannot be read"},
		{map[string]any{"nodeIP": ""}, `invalid nodeIP \"\"`},
		{map[string]any{"nodeIP": "node"}, `invalid nodeIP \"node\"`},
		{map[string]any{"nodeIP": "::ffff:10.0.0.1"}, "invalid nodeIP"},
		{map[string]any{"mtu": "jumbo"}, `invalid mtu \"jumbo\"`},
		{map[string]any{"mtu": 1279}, `invalid mtu \"1279\"`},
		{map[string]any{"mtu": "65536"}, `invalid mtu \"65536\"`},
		{map[string]any{"randomizeSNAT": "fair"}, `invalid randomizeSNAT \"fair\"`},
		{map[string]any{"pluginLogFile": "egress.log"}, "invalid pluginLogFile"},
		{map[string]any{"pluginLogLevel": "loud"}, "invalid pluginLogLevel"},
		{map[string]any{"stateDir": "state"}, "invalid stateDir"},
		{map[string]any{"ipam": nil}, "invalid ipam"},
		{ipam(func(m map[string]any) { m["type"] = "missing" }), `invalid ipam.type \"missing\"`},
		{ipam(func(m map[string]any) { m["ranges"] = [][]map[string]string{{{"subnet": "169.254.172.0/22"}}} }), "the family of nodeIP"},
		{ipam(func(m map[string]any) {
			m["ranges"] = [][]map[string]string{{{"subnet": "fd00::ac:0/118"}}, {{"subnet": "fd00::ad:0/118"}}}
		}), "gave 2 addresses"},
		{ipam(func(m map[string]any) { m["routes"] = []map[string]string{{"dst": "0.0.0.0/0"}} }), "the family of nodeIP"},
		{ipam(func(m map[string]any) { m["routes"] = []map[string]string{{"dst": "::/0", "gw": "fd00::1"}} }), "want no gateway"},
		{map[string]any{"prevResult": nil}, "no prevResult"},
		{map[string]any{"prevResult": map[string]any{"cniVersion": "1.1.0", "ips": []map[string]string{{"address": "2001:db8::5/128"}}}}, "the pod has the address 2001:db8::5"},
	} {
		p := n.Pod(t)
		before := n.state()
		out, ok := n.run(invocation{command: "ADD", id: p.Name(), netns: p.Path(), fields: tt.fields})
		if ok || !strings.Contains(out, tt.want) {
			t.Errorf("%v: success %v, %s, want an error with %s", tt.fields, ok, out, tt.want)
		}
		if after := n.state(); after != before {
			t.Errorf("%v: left behind:\n%s", tt.fields, after)
		}
	}
	if out, ok := n.run(invocation{command: "ADD", id: "c1", netns: n.Path()}); ok || !strings.Contains(out, "namespace of the node") {
		t.Errorf("ADD in the node's namespace: %v, %s", ok, out)
	}
	if out, ok := n.run(invocation{command: "ADD", id: strings.Repeat("c", 300), netns: n.Pod(t).Path()}); ok || !strings.Contains(out, "want at most") {
		t.Errorf("ADD with a long ID: %v, %s", ok, out)
	}
}

// TestDisabled checks that the prevResult passes unchanged in each version, without any
// other value being looked at, and that DEL and CHECK do nothing.
func TestDisabled(t *testing.T) {
	n := newNode(t, "IPv6")
	defer n.wantAsBefore()
	p := n.Pod(t)
	for _, version := range []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		for _, enabled := range []any{"false", "", nil, false} {
			prev := map[string]any{"cniVersion": version, "ips": []any{map[string]any{"address": "10.0.0.9/32", "version": "4", "x-own": "kept"}}, "dns": map[string]any{}}
			if version < "0.3.0" {
				prev = map[string]any{"cniVersion": version, "ip4": map[string]any{"ip": "10.0.0.9/32"}, "dns": map[string]any{}}
			}
			fields := map[string]any{"enabled": enabled, "nodeIP": "", "mtu": "jumbo", "ipam": map[string]any{"type": "missing"}, "prevResult": prev}
			out := n.must(invocation{command: "ADD", id: p.Name(), netns: p.Path(), version: version, fields: fields})
			var got map[string]any
			if err := json.Unmarshal([]byte(out), &got); err != nil {
				t.Fatal(err)
			}
			want, _ := json.Marshal(prev)
			if have, _ := json.Marshal(got); string(have) != string(want) {
				t.Errorf("%s: %s, want %s", version, have, want)
			}
			commands := []string{"DEL"}
			if version >= "0.4.0" {
				commands = append(commands, "CHECK")
			}
			if version >= "1.1.0" {
				commands = append(commands, "GC", "STATUS")
				fields["cni.dev/valid-attachments"] = []any{}
			}
			for _, c := range commands {
				n.must(invocation{command: c, id: p.Name(), netns: p.Path(), version: version, fields: fields})
			}
		}
	}
}

// TestOthersStay adds egress to a pod that has another interface, and on which IPv6 is
// switched off by default, on a node that does not forward. Everything of the other
// interface stays, and the node keeps accepting router advertisements.
func TestOthersStay(t *testing.T) {
	eachFamily(t, func(t *testing.T, family string) {
		n := newNode(t, family)
		defer n.wantAsBefore()
		f := families[family]
		const off = "echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding; echo 1 > /proc/sys/net/ipv6/conf/ens5/accept_ra"
		n.Run(t, "sh", "-c", off)
		p := n.Pod(t)
		p.Run(t, "sh", "-c", `set -e
echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
ip link add eth0 type veth peer name other
ip link set eth0 up; ip link set other up
ip address add 192.0.2.2/24 dev eth0
ip route add 198.51.100.0/24 via 192.0.2.1
ip rule add priority 7 from 192.0.2.2 lookup main`)
		others := func() string {
			text := p.Run(t, "sh", "-c", `ip -o address; for family in -4 -6; do ip $family route show table all; ip $family rule; done
grep -r . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf 2>/dev/null | grep -v stable_secret`)
			return strings.Join(slices.DeleteFunc(strings.Split(text, "\n"), func(l string) bool { return strings.Contains(l, f.link) }), "\n")
		}
		before := others()
		result := n.must(invocation{command: "ADD", id: p.Name(), netns: p.Path()})
		if diff := cmp.Diff(before, others()); diff != "" {
			t.Errorf("ADD changed other things of the pod (-before +after):\n%s", diff)
		}
		wantSource(t, p, f.internet, n.addr())
		if out := n.check(p, result, nil); out != "" {
			t.Errorf("CHECK: %s", out)
		}
		key, accept := "/proc/sys/net/ipv6/conf/all/forwarding", "2"
		if f.four {
			key, accept = "/proc/sys/net/ipv4/ip_forward", "1"
		}
		if got := strings.Fields(n.Run(t, "cat", key, "/proc/sys/net/ipv6/conf/ens5/accept_ra")); !slices.Equal(got, []string{"1", accept}) {
			t.Errorf("%s and accept_ra of ens5 are %v, want 1 and %s", key, got, accept)
		}
		n.del(p)
		if diff := cmp.Diff(before, others()); diff != "" {
			t.Errorf("left behind in the pod (-before +after):\n%s", diff)
		}
	})
}
