// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// WholeENI gives a whole ENI to the pod: its link moves into the sandbox under the
// pod's interface name, and the node no longer handles the pod's packets. The pod sends
// everything to the VPC router, packets for its own subnet included.
//
// DelPod brings the link back under its old name, which the link carries along as its
// alias. If the sandbox ends while the ENI is inside, the kernel moves the link to the
// machine's first namespace by itself, provided that it is hardware.
type WholeENI struct {
	// ENI must not be in Node.ENIs. Its MTU is the pod's.
	ENI ENI
}

// eniMode is the mode of a pod with a WholeENI.
type eniMode struct{ *WholeENI }

func (m *WholeENI) asMode() mode { return eniMode{m} }

func (m eniMode) kind() string                           { return "eni" }
func (m eniMode) hostPrefix(p Pod) string                { return vethMode{}.hostPrefix(p) }
func (m eniMode) links(Pod) podLinks                     { return podLinks{moved: m.ENI.Link} }
func (m eniMode) nodeLink(Pod) string                    { return "" }
func (m eniMode) mac(Pod) net.HardwareAddr               { return m.ENI.MAC }
func (m eniMode) gateway(_ Pod, a netip.Addr) netip.Addr { return m.ENI.gatewayFor(a) }
func (m eniMode) host(Pod) netstate.State                { return netstate.State{} }
func (m eniMode) validate(p Pod) error                   { return m.ENI.needsSubnet(p) }
func (m eniMode) enis() []*ENI                           { return []*ENI{&m.ENI} }

func (m eniMode) alias(p Pod) alias {
	return alias{owner: p.HostLink(), mode: m.kind(), link: m.ENI.Link}
}

func (m eniMode) sandbox(p Pod) netstate.State {
	s := p.uplink(p.IfName, m.ENI.gatewayFor)
	s.Links = []netstate.Link{{Name: p.IfName, MAC: m.ENI.MAC.String(), MTU: p.MTU, Up: true}}
	s.Sysctls = append(s.Sysctls, refuseRouter(p.IfName))
	if p.hasFamily(netstate.IPv6) {
		// The MAC, and with it the link-local address, is unique in the VPC.
		s.Sysctls = append(s.Sysctls, netstate.LinkSysctl("ipv6", p.IfName, "accept_dad", "0"))
	}
	return s
}
