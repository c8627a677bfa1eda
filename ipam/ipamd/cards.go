// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/instancetype"
	"github.com/vpcnet/vpcnet/ipam"
)

// NICAnnotation and EachCard are the annotation of amazon-vpc-cni-k8s by which a pod asks
// for an interface on each network card. The runtime passes annotations to the plugin if
// the network configuration has the capability io.kubernetes.cri.pod-annotations.
const (
	NICAnnotation = "k8s.amazonaws.com/nicConfig"
	EachCard      = "multi-nic-attachment"
)

// furtherPrefix begins the names of a pod's interfaces on other cards, as in
// amazon-vpc-cni-k8s. In the pool each of them is an attachment of its own.
const furtherPrefix = "mNicIf"

// isFurther reports whether an interface is one on another card.
func isFurther(ifName string) bool {
	number, ok := strings.CutPrefix(ifName, furtherPrefix)
	_, err := strconv.ParseUint(number, 10, 8)
	return ok && err == nil
}

// requests returns the requests to the pool for a pod: one for its interface, and one for
// each further card if it asks for that.
func (b *Backend) requests(req cniplugin.AddRequest) ([]ipam.Request, error) {
	// If the sandbox has no ID, only its path identifies it.
	sandbox, _ := datapath.SandboxID(req.Netns)
	first := ipam.Request{
		Attachment: ipam.Attachment(req.Attachment), Pod: ipam.PodRef(req.Pod), Netns: req.Netns, Sandbox: sandbox,
		Addrs: req.Addrs, MAC: req.MAC, Card: b.cards[0],
	}
	all := []ipam.Request{first}
	switch asked := req.Annotations[NICAnnotation]; {
	case asked == "":
		return all, nil
	case asked != EachCard:
		return nil, &cniplugin.AgentError{Code: cniplugin.CodeInvalidConfig, Message: fmt.Sprintf("annotation %s is %q, want %q", NICAnnotation, asked, EachCard)}
	case !b.cfg.EachCard:
		return nil, &cniplugin.AgentError{
			Code: cniplugin.CodeInvalidConfig, Message: "the pod asks for an interface on each network card, and the agent of this node does not give that",
			Details: "annotation " + NICAnnotation + "; -enable-multi-nic (ENABLE_MULTI_NIC) permits it",
		}
	case !req.Interfaces:
		return nil, &cniplugin.AgentError{Code: cniplugin.CodeIncompatibleVersion, Message: "the plugin cannot wire several interfaces of a pod", Details: "plugin and agent should come from the same release"}
	}
	for i, card := range b.cards[1:] {
		r := first
		r.IfName, r.Card, r.Addrs, r.MAC = furtherPrefix+strconv.Itoa(i+1), card, nil, ""
		all = append(all, r)
	}
	return all, nil
}

// further returns the attachments of the pod's interfaces on other cards, in order.
func (b *Backend) further(at ipam.Attachment) (all []ipam.Attachment) {
	for a := range b.cfg.Pool.Allocations() {
		if a.Network == at.Network && a.ContainerID == at.ContainerID && a.IfName != at.IfName && isFurther(a.IfName) && !slices.Contains(all, a.Attachment) {
			all = append(all, a.Attachment)
		}
	}
	slices.SortFunc(all, func(x, y ipam.Attachment) int { return strings.Compare(x.IfName, y.IfName) })
	return all
}

// owner returns the attachment to which an interface on another card belongs, and every
// other attachment unchanged, also an interface on another card without an owner.
func (b *Backend) owner(at ipam.Attachment) ipam.Attachment {
	if !isFurther(at.IfName) {
		return at
	}
	for a := range b.cfg.Pool.Allocations() {
		if a.Network == at.Network && a.ContainerID == at.ContainerID && !isFurther(a.IfName) {
			return a.Attachment
		}
	}
	return at
}

// cards returns the network cards with addresses for pods: that of the primary ENI, and with
// EachCard the others in order, except those that only an EFA-only ENI uses.
func (c *Config) cards(l instancetype.Limits, inv eni.Inventory) []int {
	all := []int{l.DefaultCard}
	for card := range l.Cards {
		only := func(k eni.Kind) bool {
			return slices.ContainsFunc(inv.ENIs, func(e eni.ENI) bool { return e.Card == card && e.Kind == k })
		}
		serves := slices.ContainsFunc(inv.ENIs, func(e eni.ENI) bool { return e.Card == card && e.ForPods() })
		if c.EachCard && card != l.DefaultCard && (serves || !only(eni.KindEFAOnly)) {
			all = append(all, card)
		}
	}
	return all
}
