// SPDX-License-Identifier: Apache-2.0

package introspect

import (
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/instancetype"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/snat"
)

// V1 returns a handler for the paths of amazon-vpc-cni-k8s v1.23:
//
//	/v1/enis                       the ENIs by network card, with their addresses and pods
//	/v1/eni-configs                the name of the placement of pods' ENIs
//	/v1/networkutils-env-settings  settings of the node's network
//	/v1/ipamd-env-settings         settings of the pool
//
// Every other path lists these. As there, the fields containerID and ifName are empty.
func (s *Server) V1() http.Handler {
	paths := []struct {
		path string
		read func() any
	}{
		{"/v1/enis", func() any { return cardsOf(s.Agent.Status()) }},
		{"/v1/eni-configs", func() any { return placementOf(s.Agent.Status()) }},
		{"/v1/networkutils-env-settings", func() any { return s.networkSettings() }},
		{"/v1/ipamd-env-settings", func() any { return s.poolSettings() }},
	}
	mux := http.NewServeMux()
	var commands []string
	for _, p := range paths {
		commands = append(commands, p.path)
		mux.HandleFunc("GET "+p.path, func(w http.ResponseWriter, _ *http.Request) { reply(w, p.read()) })
	}
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, map[string][]string{"AvailableCommands": commands})
	})
	return mux
}

// The following types have the names and order of fields of amazon-vpc-cni-k8s.

type cardV1 struct {
	TotalIPs, AssignedIPs int
	ENIs                  map[string]eniV1
}

type eniV1 struct {
	ID                  string
	IsPrimary           bool
	IsTrunk             bool
	IsEFA               bool
	DeviceNumber        int
	AvailableIPv4Cidrs  map[string]cidrV1
	IPv6Cidrs           map[string]cidrV1
	IsExcludedForPodIPs bool
	RouteTableID        int
	SubnetID            string
}

type cidrV1 struct {
	Cidr          net.IPNet // its mask is bytes in base64
	IPAddresses   map[string]addressV1
	IsPrefix      bool
	AddressFamily string
}

type addressV1 struct {
	Address        string
	IPAMKey        keyV1
	IPAMMetadata   metadataV1
	AssignedTime   time.Time
	UnassignedTime time.Time
}

type keyV1 struct {
	NetworkName string `json:"networkName"`
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

type metadataV1 struct {
	Namespace  string `json:"k8sPodNamespace,omitempty"`
	Pod        string `json:"k8sPodName,omitempty"`
	Interfaces int    `json:"interfacesCount,omitempty"`
}

// cardsOf returns the ENIs of a status by network card.
func cardsOf(st ipamd.Status) map[string]cardV1 {
	out := map[string]cardV1{}
	for _, e := range st.ENIs {
		key := strconv.Itoa(e.Card)
		card, ok := out[key]
		if !ok {
			card.ENIs = map[string]eniV1{}
		}
		x := eniV1{
			ID: e.ID, IsPrimary: e.Card == 0 && e.Device == 0, IsTrunk: e.Kind == eni.KindTrunk, IsEFA: e.Kind == eni.KindEFA || e.Kind == eni.KindEFAOnly,
			DeviceNumber: e.Device, AvailableIPv4Cidrs: map[string]cidrV1{}, IPv6Cidrs: map[string]cidrV1{}, RouteTableID: e.Table, SubnetID: e.Subnet,
		}
		for _, b := range e.Blocks {
			c := cidrOf(b.Prefix, st.Allocations)
			if b.Prefix.Addr().Is4() {
				x.AvailableIPv4Cidrs[b.Prefix.String()] = c
				card.TotalIPs += sizeOf(b.Prefix)
			} else {
				x.IPv6Cidrs[b.Prefix.String()] = c
			}
			card.AssignedIPs += len(c.IPAddresses)
		}
		card.ENIs[e.ID] = x
		out[key] = card
	}
	return out
}

// sizeOf returns the number of addresses in an IPv4 block.
func sizeOf(p netip.Prefix) int { return 1 << (32 - p.Bits()) }

func cidrOf(p netip.Prefix, allocations []ipamd.PodStatus) cidrV1 {
	c := cidrV1{
		Cidr:        net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
		IPAddresses: map[string]addressV1{}, IsPrefix: !p.IsSingleIP(),
	}
	for _, a := range allocations {
		if p.Contains(a.Addr) {
			c.IPAddresses[a.Addr.String()] = addressV1{
				Address: a.Addr.String(), IPAMMetadata: metadataV1{a.Namespace, a.Pod, 1}, AssignedTime: a.At,
			}
		}
	}
	return c
}

// placementOf returns the name of the placement, which is the name of an ENIConfig there.
func placementOf(st ipamd.Status) string {
	if st.Network.Placement == "" {
		return ipamd.DefaultNetwork
	}
	return st.Network.Placement
}

// randomV1 has the numbers for the ways to choose source ports.
var randomV1 = map[snat.Random]int{snat.RandomNone: 0, snat.RandomHash: 1, snat.RandomPRNG: 2}

func (s *Server) networkSettings() any {
	c := s.Settings()
	return map[string]any{
		"AWS_EXTERNAL_SERVICE_CIDRS":         texts(c.ServicePrefixes),
		"AWS_VPC_CNI_NODE_PORT_SUPPORT":      !c.NoNodePorts,
		"AWS_VPC_ENI_MTU":                    c.ENIMTU,
		"AWS_VPC_K8S_CNI_CONNMARK":           0x80,
		"AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS": texts(c.ExcludeSNAT),
		"AWS_VPC_K8S_CNI_EXTERNALSNAT":       c.ExternalSNAT,
		"AWS_VPC_K8S_CNI_RANDOMIZESNAT":      randomV1[c.RandomPorts],
		"AWS_VPC_K8S_CNI_VETHPREFIX":         c.HostLinkPrefix,
	}
}

func (s *Server) poolSettings() any {
	c := s.Settings()
	return map[string]any{
		"AWS_MANAGE_ENIS_NON_SCHEDULABLE":    true, // the agent does not know whether the node is schedulable
		"AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": c.CustomNetwork,
		"ENABLE_SUBNET_DISCOVERY":            c.SubnetDiscovery,
		"WARM_ENI_TARGET":                    c.WarmENITarget,
		"WARM_IP_TARGET":                     c.WarmIPTarget,
	}
}

// texts returns prefixes as texts. Nil is a list too.
func texts(all []netip.Prefix) []string {
	out := []string{}
	for _, p := range all {
		out = append(out, p.String())
	}
	return out
}

// prefixesOf counts the IPv4 prefixes of an ENI.
func prefixesOf(e ipam.ENIView) (n int) {
	for _, b := range e.Blocks {
		if b.Prefix.Addr().Is4() && sizeOf(b.Prefix) == instancetype.PrefixSize {
			n++
		}
	}
	return n
}
