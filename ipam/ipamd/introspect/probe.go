// SPDX-License-Identifier: Apache-2.0

package introspect

import (
	"cmp"
	"context"
	"fmt"

	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// The probes of a container, see [Probe].
const (
	ProbeLive  = "live"
	ProbeReady = "ready"
)

// Probe asks the agent at an address, which is that of [Server.V2] as for [ipamd.ReadStatus].
// It returns nil if the agent answers, and for [ProbeReady] if it has been ready for pods
// since it started. Else the error names what the agent waits for. A full pool or subnet does
// not make an agent unready again: its pods run, and it gives out what they release.
func Probe(ctx context.Context, address, probe string) error {
	if probe != ProbeLive && probe != ProbeReady {
		return fmt.Errorf("probe %q is unknown, want %s or %s", probe, ProbeLive, ProbeReady)
	}
	s, err := ipamd.ReadStatus(ctx, address)
	if err != nil || probe == ProbeLive || s.Ready {
		return err
	}
	err = fmt.Errorf("not ready: %s", cmp.Or(s.Reason, ipam.ReasonAgentStarting))
	if s.Evidence != "" {
		err = fmt.Errorf("%w: %s", err, s.Evidence)
	}
	return err
}
