// SPDX-License-Identifier: Apache-2.0

package introspect_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/ipam/ipamd/introspect"
)

// withStatus is an agent with a status.
type withStatus struct {
	fakeAgent
	status ipamd.Status
}

func (a withStatus) Status() ipamd.Status { return a.status }

// TestProbe checks what the probes say of agents in different states.
func TestProbe(t *testing.T) {
	full := ipamd.Status{Reason: ipam.ReasonSubnetFull, Evidence: "subnet-1 has no free address"}
	fullLater := full
	fullLater.Ready = true
	for _, c := range []struct {
		name   string
		status ipamd.Status
		probe  string
		want   string // in the error, which is nil if empty
	}{
		{"live before it is ready", full, introspect.ProbeLive, ""},
		{"not ready", full, introspect.ProbeReady, "not ready: subnet-full: subnet-1 has no free address"},
		{"not ready without a reason", ipamd.Status{}, introspect.ProbeReady, "not ready: agent-starting"},
		{"ready", ipamd.Status{Ready: true}, introspect.ProbeReady, ""},
		{"full after it was ready", fullLater, introspect.ProbeReady, ""},
		{"unknown probe", fullLater, "startup", `probe "startup" is unknown, want live or ready`},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := httptest.NewServer((&introspect.Server{Agent: withStatus{status: c.status}}).V2())
			defer s.Close()
			err := introspect.Probe(t.Context(), s.Listener.Addr().String(), c.probe)
			if got := text(err); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
	socket := "unix:" + t.TempDir() + "/none.sock"
	for _, probe := range []string{introspect.ProbeLive, introspect.ProbeReady} {
		if err := introspect.Probe(t.Context(), socket, probe); !strings.Contains(text(err), socket) {
			t.Errorf("%s without an agent: %v, want an error that names %s", probe, err, socket)
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
