// SPDX-License-Identifier: Apache-2.0

package datapath

import "net/netip"

// direct follows a packet that the sandbox sends into the VPC itself, by an
// ipvlan link or a whole ENI: the node has no part in it. It reports false for any
// other.
func (t *tracer) direct() bool {
	f := t.p.Flow
	if t.v.Sandbox == nil || !t.v.Sandbox.hasAddress(f.Src) {
		return false
	}
	v := t.v.Sandbox.lookup(query{src: f.Src, dst: f.Dst})
	if !v.found || v.local || v.route.Type != "" || isPodGateway(v.route.Via) || isPodGateway(v.route.Dst.Addr()) {
		return false
	}
	link := v.route.Link
	t.hop("pod "+link, "sends it into the VPC, past the node", v.route.String())
	if l, ok := t.v.Sandbox.link(link); !ok || !l.Up {
		t.fault(FaultLinkDown, "link %s of the sandbox is down or missing", link)
		return true
	}
	t.hopBack("pod "+link, "receives the answer from the VPC", "")
	return true
}

// isPodGateway reports whether a is of the addresses that Gateway returns.
func isPodGateway(a netip.Addr) bool {
	if !a.IsValid() {
		return false
	}
	b := a.AsSlice()
	n := int(b[len(b)-1])
	return n > 0 && a == Gateway(a, n-1)
}

// branchOwner returns the branch ENI of the pod with an address.
func (v View) branchOwner(a netip.Addr) (ENI, bool) {
	for _, p := range v.Desired.Pods {
		if p.Mode.Branch != nil && p.has(hostPrefix(a)) {
			e := p.Mode.Branch.ENI
			e.Link = p.Mode.Branch.Link()
			return e, true
		}
	}
	return ENI{}, false
}
