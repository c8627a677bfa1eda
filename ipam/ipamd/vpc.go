// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam/agent"
)

// vpcGoneAfter is how long no answer of the metadata service may have shown a prefix of the
// VPC before it is dropped. It is longer than a short fault of the service, in which checks
// that signals ask for confirm nothing, and shorter than auditEvery, so that two audits in
// a row are enough even if one of them is late.
const vpcGoneAfter = 20 * time.Second

// vpcAudit follows changes of the VPC's prefixes while the node runs. It reads them
// from the metadata service, and so needs no call to EC2.
type vpcAudit struct {
	*node
	manager *eni.Manager
	// missing has the known prefixes that the last update did not show, each with the time
	// of the first update that did not.
	missing map[netip.Prefix]time.Time
}

// update reads the prefixes and applies changes. It adds a new prefix at once, and
// removes a prefix that no update has shown for vpcGoneAfter: if a prefix were removed
// by mistake, traffic inside the VPC would be translated.
func (v *vpcAudit) update(ctx context.Context) {
	now := time.Now()
	shown, err := v.manager.VPCPrefixes(ctx)
	if err != nil {
		v.log.Debug("prefixes of the VPC", "err", err)
		return
	}
	before := v.links.VPC()
	want, missing := nextVPC(now, before, shown, v.missing)
	v.missing = missing
	if len(before) == 0 || slices.Equal(want, before) {
		return
	}
	if err := v.links.SetVPC(ctx, want); err != nil {
		v.log.Error("apply the prefixes of the VPC", "prefixes", want, "err", err)
		return
	}
	v.record(v.manager.Inventory()) // else the next agent would begin with those before
	v.log.Info("the prefixes of the VPC have changed", "prefixes", want, "before", before)
	v.recordEvent(agent.Event{Kind: EventVPCChanged, Text: fmt.Sprintf("the VPC has the prefixes %v, before %v", want, before)})
}

// nextVPC returns the prefixes to use from now on, sorted, and the prefixes in before
// that are not in shown, each with the time since when it is missing. It drops a prefix
// that is missing for vpcGoneAfter.
func nextVPC(now time.Time, before, shown []netip.Prefix, missingBefore map[netip.Prefix]time.Time) (want []netip.Prefix, missing map[netip.Prefix]time.Time) {
	want, missing = slices.Clone(shown), map[netip.Prefix]time.Time{}
	for _, p := range before {
		if slices.Contains(shown, p) {
			continue
		}
		since, known := missingBefore[p]
		if !known {
			since = now
		}
		missing[p] = since
		if now.Sub(since) < vpcGoneAfter {
			want = append(want, p)
		}
	}
	slices.SortFunc(want, netip.Prefix.Compare)
	return slices.Compact(want), missing
}
