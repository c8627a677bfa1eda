// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net"

	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// A pod that another program has wired keeps its veth pair under the names and MACs that
// it has, because neither can change without loss of packets: the pod has a permanent
// neighbour entry for the MAC of its host link. The alias of the host link records that the
// link belongs to the pod. It also records the MAC, so that a later change of it can be
// noticed.
//
// A pod on a branch ENI has its VLAN link too, which stays if the sandbox ends without a DEL,
// and the veth pair with it does not. So the VLAN link has the alternative name by which
// DelPod finds the pod, and its alias records the name of the host link.

// adoptedWord and adoptedBranchWord stand in the alias of a host link in the place of a mode.
const (
	adoptedWord       = "adopted"
	adoptedBranchWord = "adopted-branch"
)

// HostSide is the host link of a pod that another program has wired.
type HostSide struct {
	Link string
	// MAC is in lower case with colons.
	MAC string
}

// adoptedAlias returns the alias of the pod's host link s.
func (p Pod) adoptedAlias(s HostSide) alias {
	a := alias{owner: p.ownHostLink(), mode: adoptedWord, link: s.MAC}
	if p.mode().links(p).own != "" {
		a.mode = adoptedBranchWord
	}
	return a
}

// adopted reports whether the alias is that of the host link of a pod that another program
// has wired.
func (a alias) adopted() bool { return a.mode == adoptedWord || a.mode == adoptedBranchWord }

// pairOnly reports whether the host link with the alias is all that its pod has.
func (a alias) pairOnly() bool { return a == alias{} || a.mode == adoptedWord }

// adoptedAmong returns the host links of pods that other programs have wired, by the names
// that the links would otherwise have.
func adoptedAmong(links []netstate.Link) map[string]HostSide {
	found := map[string]HostSide{}
	for _, l := range links {
		if l.Kind != "veth" || l.Alias == "" {
			continue
		}
		a := parseAlias(l.Alias)
		if _, err := net.ParseMAC(a.link); a.adopted() && err == nil {
			found[a.owner] = HostSide{l.Name, a.link}
		}
	}
	return found
}

// resolved returns d with the host links that its pods have on a node with these links.
func (d Desired) resolved(links []netstate.Link) Desired {
	found := adoptedAmong(links)
	if len(found) == 0 {
		return d
	}
	pods := make([]Pod, len(d.Pods))
	for i, p := range d.Pods {
		if s, ok := found[p.ownHostLink()]; ok && p.adoptable() {
			p.Adopted = s
		}
		pods[i] = p
	}
	d.Pods = pods
	return d
}

// AdoptedAlias returns the alias by which [Handle.AdoptPod] marks p.Adopted as p's host link.
func (p Pod) AdoptedAlias() string { return p.adoptedAlias(p.Adopted).String() }
