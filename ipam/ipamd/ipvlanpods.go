// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"fmt"
	"net/netip"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/ipam"
)

// addIPVLAN gives a pod addresses of the pool and an ipvlan link on their ENI.
func (o *ownPods) addIPVLAN(r *podRecord, allocate func() ([]ipam.Allocation, error)) error {
	got, err := allocate()
	if err != nil {
		return err
	}
	m := &datapath.IPVLAN{Direct: o.links.VPC()}
	for _, e := range o.links.Node().ENIs {
		if e.ID == got[0].ENI {
			m.ENI = e
			m.ENI.Sources = nil
		}
		for _, a := range e.Addrs {
			m.Except = append(m.Except, netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))
		}
		m.Except = append(m.Except, e.Sources...)
	}
	for _, a := range got {
		if a.ENI != m.ENI.ID {
			return &cniplugin.AgentError{
				Code: cniplugin.CodeTryAgainLater, Reason: string(ipam.ReasonAllInUse), Message: "an ipvlan link needs addresses of one ENI",
				Details: fmt.Sprintf("%v is of %s and %v of %s", got[0].Addr, got[0].ENI, a.Addr, a.ENI),
			}
		}
		r.Response.Addresses = append(r.Response.Addresses, cniplugin.Address{Addr: a.Addr, ENI: a.ENI, Card: a.Card, Device: a.Device, Table: datapath.Table(a.Card, a.Device)})
	}
	o.settle(r, datapath.Mode{IPVLAN: m})
	return nil
}
