// SPDX-License-Identifier: Apache-2.0

package datapathtest

import (
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/trace"
	"github.com/vpcnet/vpcnet/snat"
)

// View returns everything that [trace.Trace] needs: the observed node, the sandbox of
// the first pod, the wanted node and pods, and the table of package snat.
func (l *Lab) View(pods ...datapath.Pod) trace.View {
	l.t.Helper()
	sandbox := ""
	if len(pods) > 0 {
		sandbox = pods[0].Netns
	}
	v, err := trace.Observe(l.t.Context(), l.Netns.Path(), sandbox)
	if err != nil {
		l.t.Fatal(err)
	}
	v.Desired = &datapath.Desired{Node: l.Node, Pods: pods}
	v.Translation = l.translation()
	return v
}

func (l *Lab) translation() *trace.Translation {
	l.t.Helper()
	h, err := snat.Open(l.Netns.Path())
	if err != nil {
		l.t.Fatal(err)
	}
	defer h.Close()
	rules, err := h.Observe(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	translation, ok := rules.Translation()
	if !ok {
		return nil
	}
	t := trace.Translation(translation)
	return &t
}

// Translate configures package snat: addresses outside 10.0.0.0/8 see the node's
// address.
func (l *Lab) Translate() {
	l.t.Helper()
	rules, err := snat.Config{
		NodeAddrs: []netip.Addr{Node4, Node6}, PrimaryLink: "ens5", VPC: Prefixes("10.0.0.0/8"), NodePort: true,
	}.Ruleset()
	if err != nil {
		l.t.Fatal(err)
	}
	h, err := snat.Open(l.Netns.Path())
	if err != nil {
		l.t.Fatal(err)
	}
	defer h.Close()
	if _, err := h.Apply(l.t.Context(), rules); err != nil {
		l.t.Fatal(err)
	}
}
