// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam/agent"
)

// vpcAudit follows changes of the VPC's prefixes while the node runs. It reads them
// from the metadata service, and so needs no call to EC2.
type vpcAudit struct {
	*node
	manager *eni.Manager
	// missing are known prefixes that the last update did not show.
	missing []netip.Prefix
}

// update reads the prefixes and applies changes. It adds a new prefix at once, and
// removes a prefix that two updates in a row do not show: if a prefix were removed
// by mistake, traffic inside the VPC would be translated.
func (v *vpcAudit) update(ctx context.Context) {
	shown, err := v.manager.VPCPrefixes(ctx)
	if err != nil {
		v.log.Debug("prefixes of the VPC", "err", err)
		return
	}
	before := v.links.VPC()
	want, missing := nextVPC(before, shown, v.missing)
	v.missing = missing
	if len(before) == 0 || slices.Equal(want, before) {
		return
	}
	if err := v.links.SetVPC(ctx, want); err != nil {
		v.log.Error("apply the prefixes of the VPC", "prefixes", want, "err", err)
		return
	}
	_ = v.recorder.store(v.manager.Inventory()) // else the next agent would begin with those before
	v.log.Info("the prefixes of the VPC have changed", "prefixes", want, "before", before)
	v.recordEvent(agent.Event{Kind: EventVPCChanged, Text: fmt.Sprintf("the VPC has the prefixes %v, before %v", want, before)})
}

// nextVPC returns the prefixes to use from now on, sorted, and the prefixes in before
// that are not in shown. It drops a prefix that is in missingBefore and still not
// shown.
func nextVPC(before, shown, missingBefore []netip.Prefix) (want, missing []netip.Prefix) {
	want = slices.Clone(shown)
	for _, p := range before {
		if slices.Contains(shown, p) {
			continue
		}
		missing = append(missing, p)
		if !slices.Contains(missingBefore, p) {
			want = append(want, p)
		}
	}
	slices.SortFunc(want, netip.Prefix.Compare)
	return slices.Compact(want), missing
}
