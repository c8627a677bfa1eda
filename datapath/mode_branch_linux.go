// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
	"github.com/vpcnet/vpcnet/internal/rtnl"
)

// refuse refuses a VLAN link that belongs to another pod.
func (m branchMode) refuse(p Pod, links map[string]rtnl.Link) error {
	a := aliasIn(links[m.Link()])
	owner := cmp.Or(a.host, a.owner)
	if l, ok := links[owner]; ok && owner != p.HostLink() && !claims.Ending(l.Group) {
		return fmt.Errorf("%w: link %s of the branch ENI belongs to pod %s", ErrAddressTaken, m.Link(), owner)
	}
	return nil
}

// release deletes the VLAN links of the pod, and the rules by incoming link of a pod
// under Strict.
func (m branchMode) release(ctx context.Context, d *deletion) error {
	errs := []error{d.h.purge(ctx, branchRules(HostLinkName(claims.StrictPrefix, d.pod.ContainerID, d.pod.IfName)))}
	for _, l := range d.aliased {
		// The host link has the same alias as the VLAN link.
		a := aliasIn(l)
		if a.mode != m.kind() || l.Name != a.link {
			continue
		}
		rules := branchRules(l.Name)
		if a.host != "" {
			rules = append(rules, branchRules(a.host)...)
		}
		err := d.h.purge(ctx, rules)
		if err == nil {
			err = d.h.deleteLink(ctx, l.Index)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
