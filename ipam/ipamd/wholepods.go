// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"fmt"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
)

// addENI gives a pod a whole ENI.
func (o *ownPods) addENI(ctx context.Context, r *podRecord, a asked) error {
	e, err := o.manager.Provision(podCall(ctx), eni.ProvisionInput{Card: o.limits.DefaultCard, OnePod: true, Groups: a.groups, Addrs6: o.addrs6()})
	if err != nil {
		return refusal("ENI", err)
	}
	r.ENI = e.ID
	link, err := o.datapathENI(e)
	if err != nil {
		return err
	}
	if err := o.links.awaitLink(ctx, link.MAC); err != nil {
		return fmt.Errorf("%s with MAC %v: %w", e.ID, link.MAC, err)
	}
	o.respond(r, e, datapath.Mode{Whole: &datapath.WholeENI{ENI: link}})
	return r.wants(o.cfg.Families)
}
