// SPDX-License-Identifier: Apache-2.0

package datapath

import "github.com/vpcnet/vpcnet/datapath/netstate"

// WholeENI gives a whole ENI to the pod: its link moves into the sandbox under the
// pod's interface name, and the node has no part in the pod's packets any more.
// The pod sends to the VPC router itself, also what is for its own subnet.
//
// DelPod brings the link back under its old name, which the link carries along
// as its alias. When a sandbox ends with an ENI inside, the kernel moves the
// link to the machine's first namespace by itself, if it is hardware.
type WholeENI struct {
	// ENI must not be in Node.ENIs. Its MTU is the pod's.
	ENI ENI
}

func (m *WholeENI) enis() []*ENI            { return []*ENI{&m.ENI} }
func (m *WholeENI) validate(p Pod) error    { return m.ENI.needsSubnet(p) }
func (m *WholeENI) host(Pod) netstate.State { return netstate.State{} }

func (m *WholeENI) sandbox(p Pod) netstate.State {
	s := p.uplink(p.IfName, m.ENI.gatewayFor)
	s.Links = []netstate.Link{{Name: p.IfName, MAC: m.ENI.MAC.String(), MTU: p.MTU, Up: true}}
	s.Sysctls = append(s.Sysctls, refuseRouter(p.IfName))
	if p.speaks(true) {
		// The MAC, and with it the link-local address, is unique in the VPC.
		s.Sysctls = append(s.Sysctls, netstate.LinkSysctl("ipv6", p.IfName, "accept_dad", "0"))
	}
	return s
}
