// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"log/slog"

	"github.com/vpcnet/vpcnet/datapath"
)

// checkAccelerated leaves the acceleration of flows out if the kernel cannot do it.
func (l *Links) checkAccelerated(ctx context.Context, log *slog.Logger) {
	if err := l.path.Accelerates(ctx); err != nil {
		log.Warn("flows of pods are not accelerated", "err", err)
		l.node.Accelerate = false
	}
}

// desired returns the desired network of the node n and its pods.
func (l *Links) desired(n datapath.Node) datapath.Desired {
	d := datapath.Desired{Node: n, Pods: l.pods()}
	if !n.Accelerate {
		return d
	}
	for _, p := range d.Pods {
		for _, a := range p.Addrs {
			if l.limited(a.Addr) {
				d.Limited = append(d.Limited, a.Addr)
			}
		}
	}
	return d
}

// limit returns when all packets of the limited pods pass the forward hook.
func (l *Links) limit(ctx context.Context) error {
	return l.path.Limit(ctx, func() datapath.Desired { return l.desired(l.node) })
}
