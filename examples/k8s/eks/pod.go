// SPDX-License-Identifier: Apache-2.0

package eks

// Pod is a pod that is bound to the node.
type Pod struct {
	Namespace, Name string
	// UID is the one that the container runtime knows. For a static pod that is not the UID of
	// its object.
	UID string
	// HostNetwork means that the pod is in the network of its node, Ended that its phase is
	// Succeeded or Failed, and Deleted that its deletion has begun.
	HostNetwork, Ended, Deleted bool
	// BranchENI means that the pod asks for the resource [ResourceBranchENI].
	BranchENI bool
}

// ResourceBranchENI is the resource that the webhook of EKS adds to the first container of pods
// with security groups of their own.
const ResourceBranchENI = "vpc.amazonaws.com/pod-eni"

// NeedsAddress reports whether the pod has, or is to get, an address of the node's pool: it has
// not ended, and has neither the network of the node nor a branch ENI. A pod whose deletion has
// begun gets no address any more; one that it has stays its own until the DEL.
func (p Pod) NeedsAddress() bool {
	return !p.HostNetwork && !p.Ended && !p.Deleted && !p.BranchENI
}
