// SPDX-License-Identifier: Apache-2.0

package instancetype

// PrefixSize is the number of addresses in a delegated IPv4 prefix (a /28).
const PrefixSize = 16

// PodMode describes how a node gives addresses to its pods. The zero value means
// secondary addresses on the default card.
type PodMode struct {
	// Prefixes means that slots hold /28 prefixes. It has no effect on types
	// without prefix delegation.
	Prefixes bool
	// CustomNetworking means that pods use other subnets than the node, so that
	// the primary ENI has no addresses for them.
	CustomNetworking bool
	// Trunk means that one ENI of the default card is a trunk ENI, on types that
	// support it. The result does not count pods with a branch ENI, see
	// Limits.Branches.
	Trunk bool
	// AllCards means that pods get addresses from ENIs on every network card.
	AllCards bool
	// MaxENIs caps the number of ENIs on each card. 0 means the limit of the type.
	MaxENIs int
	// Cap caps the result of MaxPods. 0 means no cap. EKS uses [EKSCap].
	Cap int
}

// EKSCap returns the highest max-pods of a node in a managed node group of EKS: 110 up
// to 30 vCPUs, which is also what Kubernetes recommends for any node, and 250 above. AWS
// recommends the same caps for other nodes. See
// https://docs.aws.amazon.com/eks/latest/userguide/choosing-instance-type.html.
func EKSCap(vcpus int) int {
	if vcpus > 30 {
		return 250
	}
	return 110
}

// hostNetworkPods is the number of pods without an address of their own in the
// published numbers: kube-proxy and the network agent use the host's address.
const hostNetworkPods = 2

// MaxPods returns the kubelet's max-pods for a node with these limits. For the zero
// mode it is the number that AWS publishes for EKS, which is
// ENIs of the default card x (addresses - 1) + 2. See
// https://docs.aws.amazon.com/eks/latest/userguide/choosing-instance-type.html.
func (l Limits) MaxPods(m PodMode) int {
	n := l.MaxAddresses(m) + hostNetworkPods
	if m.Cap > 0 {
		n = min(n, m.Cap)
	}
	return n
}

// MaxAddresses returns how many pods of a node can have their own address. It ignores
// PodMode.Cap.
func (l Limits) MaxAddresses(m PodMode) int {
	perSlot := 1
	if m.Prefixes && l.Nitro {
		perSlot = PrefixSize
	}
	enis := 0
	for card := range l.Cards {
		if card == l.DefaultCard || m.AllCards {
			enis += l.podENIs(m, card)
		}
	}
	return enis * l.SlotsPerENI() * perSlot
}

// podENIs returns how many ENIs of one card can have addresses for pods.
func (l Limits) podENIs(m PodMode, card int) int {
	n := l.MaxENIs(card)
	if m.MaxENIs > 0 {
		n = min(n, m.MaxENIs)
	}
	if card != l.DefaultCard {
		return n
	}
	if m.CustomNetworking {
		n--
	}
	if m.Trunk && l.Trunk {
		n--
	}
	return max(n, 0)
}
