// SPDX-License-Identifier: Apache-2.0

package trace_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/datapathtest"
	"github.com/vpcnet/vpcnet/datapath/trace"
)

// TestConfirm changes the node after Observe. The kernel's answer then differs from that
// of Trace in the link, the gateway or the table, or the kernel refuses.
func TestConfirm(t *testing.T) {
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skipf("needs the program ip: %v", err)
	}
	l, p, other := plantLab(t, datapath.Flat, nil)
	vars := []string{"P4=" + p.Addrs[0].Addr.String(), "P6=" + p.Addrs[1].Addr.String()}
	v := l.View(p, other)
	for _, c := range []struct {
		name, do, undo string
		want           [2]string // part of the faults for IPv4 and IPv6; "" means no fault
	}{
		{name: "nothing", do: ":", undo: ":"},
		{"another link", `ip route replace default via 10.0.0.1 dev ens5 onlink table 2; ip -6 route replace default via fe80:ec2::1 dev ens5 table 2`,
			`ip route replace default via 10.0.0.1 dev ens6 table 2 proto 118; ip -6 route replace default via fe80:ec2::1 dev ens6 table 2 proto 118`,
			[2]string{"dev ens5 table 2", "dev ens5 table 2"}},
		{"another gateway", `ip route replace default via 10.0.0.2 dev ens6 onlink table 2; ip -6 route replace default via fe80:ec2::2 dev ens6 table 2`,
			`ip route replace default via 10.0.0.1 dev ens6 table 2 proto 118; ip -6 route replace default via fe80:ec2::1 dev ens6 table 2 proto 118`,
			[2]string{"via 10.0.0.2", "via fe80:ec2::2"}},
		{"another table", `ip route add default via 10.0.0.1 dev ens6 onlink table 77; ip -6 route add default via fe80:ec2::1 dev ens6 table 77; ip rule add pref 700 lookup 77; ip -6 rule add pref 700 lookup 77`,
			`ip rule del pref 700; ip -6 rule del pref 700; ip route flush table 77; ip -6 route flush table 77`,
			[2]string{"table 77", "table 77"}},
		{"strict filtering", `sysctl -w net.ipv4.conf.ens6.rp_filter=1`, `sysctl -w net.ipv4.conf.ens6.rp_filter=2`,
			[2]string{"reverse path filtering", ""}},
		{"the pod's address on the node", `ip addr add $P4/32 dev lo; ip -6 addr add $P6/128 dev lo; until ip -6 route show table local | grep -q "$P6 dev lo"; do sleep 0.02; done`,
			`ip addr del $P4/32 dev lo; ip -6 addr del $P6/128 dev lo`,
			[2]string{"refuses", "to the node itself"}},
	} {
		datapathtest.Shell(t, l.Netns.Path(), c.do, vars...)
		for i := range 2 {
			path := trace.Trace(v, trace.Flow{Src: p.Addrs[i].Addr, Dst: datapathtest.VPCHost4})
			if i == 1 {
				path = trace.Trace(v, trace.Flow{Src: p.Addrs[i].Addr, Dst: datapathtest.VPCHost6})
			}
			faults, err := trace.Confirm(t.Context(), l.Netns.Path(), path)
			if err != nil {
				t.Fatal(err)
			}
			text := ""
			for _, f := range faults {
				text += f.Detail + "\n"
			}
			if want := c.want[i]; (want == "") != (len(faults) == 0) || !strings.Contains(text, want) {
				t.Errorf("%s: Confirm returned %q, want %q in it", c.name, text, want)
			}
		}
		datapathtest.Shell(t, l.Netns.Path(), c.undo, vars...)
	}
}
