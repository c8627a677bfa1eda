// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestHealth follows the state of a target through checks.
func TestHealth(t *testing.T) {
	c := HealthCheck{Healthy: 2, Unhealthy: 3}.withDefaults()
	for checks, want := range map[string]string{
		"+":       "+",
		"-":       "-",
		"+--":     "+++",
		"+---":    "+++-",
		"+--+--":  "++++++",
		"-+-++":   "----+",
		"-++---+": "--+++--",
	} {
		var h health
		got := ""
		for _, check := range checks {
			h = h.after(check == '+', c)
			got += map[bool]string{true: "+", false: "-"}[h.healthy]
		}
		if got != want {
			t.Errorf("checks %s: states %s, want %s", checks, got, want)
		}
	}
	if (health{}).healthy {
		t.Error("a target without a check is healthy")
	}
}

// TestListener checks the errors of listeners.
func TestListener(t *testing.T) {
	good := netip.MustParseAddrPort("10.0.0.9:80")
	for _, tt := range []struct {
		l    Listener
		want string
	}{
		{Listener{Network: "tcp", Port: 80, Targets: []netip.AddrPort{good}, Check: HealthCheck{HTTPPath: "/healthz"}}, ""},
		{Listener{Network: "icmp", Port: 80}, `network "icmp" is neither tcp nor udp`},
		{Listener{Network: "udp"}, "port is 0"},
		{Listener{Network: "tcp", Port: 80, Targets: []netip.AddrPort{{}}}, "is not an address with a port"},
		{Listener{Network: "tcp", Port: 80, Targets: []netip.AddrPort{netip.AddrPortFrom(good.Addr(), 0)}}, "is not an address with a port"},
		{Listener{Network: "tcp", Port: 80, Check: HealthCheck{HTTPPath: "healthz"}}, `path "healthz" does not begin with /`},
		{Listener{Network: "tcp", Port: 80, Check: HealthCheck{Interval: -time.Second}}, "negative"},
	} {
		err := tt.l.validate()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.l, err, tt.want)
		}
	}
}
