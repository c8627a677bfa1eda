// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/vpcnet/vpcnet/ipam/agent"
)

// vpcAudit makes the node follow the VPC's prefixes, which can be added and
// removed while it runs. The metadata service shows them, so that no call to EC2
// is needed.
type vpcAudit struct {
	*backend
	links    *links
	prefixes func(context.Context) ([]netip.Prefix, error)
	log      *slog.Logger
	// missing are prefixes that the last look did not show.
	missing []netip.Prefix
}

// look takes in what is shown now. What is new counts at once. What is missing
// counts when a second look misses it too: without its prefix, traffic inside the
// VPC would be translated.
func (v *vpcAudit) look(ctx context.Context) {
	shown, err := v.prefixes(ctx)
	if err != nil {
		v.log.Debug("prefixes of the VPC", "err", err)
		return
	}
	had := v.links.vpcPrefixes()
	want, missing := nextVPC(had, shown, v.missing)
	v.missing = missing
	if len(had) == 0 || slices.Equal(want, had) {
		return
	}
	if err := v.links.setVPC(ctx, want); err != nil {
		v.log.Error("follow the prefixes of the VPC", "prefixes", want, "err", err)
		return
	}
	v.log.Info("the VPC has other prefixes", "prefixes", want, "before", had)
	v.note(agent.Event{Kind: eventVPC, Text: fmt.Sprintf("the VPC has the prefixes %v, before %v", want, had)})
}

// nextVPC returns the prefixes to believe in, in order, and those of had that
// shown lacks.
func nextVPC(had, shown, missedBefore []netip.Prefix) (want, missing []netip.Prefix) {
	want = slices.Clone(shown)
	for _, p := range had {
		if slices.Contains(shown, p) {
			continue
		}
		missing = append(missing, p)
		if !slices.Contains(missedBefore, p) {
			want = append(want, p)
		}
	}
	slices.SortFunc(want, netip.Prefix.Compare)
	return slices.Compact(want), missing
}
