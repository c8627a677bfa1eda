// SPDX-License-Identifier: Apache-2.0

package eks

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

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
	// Annotations are those that [Annotations] lists.
	Annotations map[string]string
}

// AddressAnnotation is the annotation with the addresses that a pod asks for, with commas: at
// most one of each family, which an ENI of the node must have.
const AddressAnnotation = "vpcnet.dev/addresses"

// Annotations are the keys of the annotations of pods that decide something.
var Annotations = []string{ipamd.NICAnnotation, AddressAnnotation}

// ResourceBranchENI is the resource that the webhook of EKS adds to the first container of pods
// with security groups of their own.
const ResourceBranchENI = "vpc.amazonaws.com/pod-eni"

// NeedsAddress reports whether the pod has, or is to get, an address of the node's pool: it has
// not ended, and has neither the network of the node nor a branch ENI. A pod with a deletion that
// has begun gets no address any more; one that it has stays its own until the DEL.
func (p Pod) NeedsAddress() bool {
	return !p.HostNetwork && !p.Ended && !p.Deleted && !p.BranchENI
}

// Complete returns the request of an ADD with what the annotations of its pod ask for. What the
// runtime has asked for stays.
func (p Pod) Complete(req cniplugin.AddRequest) (cniplugin.AddRequest, error) {
	if nic := p.Annotations[ipamd.NICAnnotation]; nic != "" && req.Annotations[ipamd.NICAnnotation] == "" {
		all := map[string]string{ipamd.NICAnnotation: nic}
		maps.Copy(all, req.Annotations)
		req.Annotations = all
	}
	asked := p.Annotations[AddressAnnotation]
	if asked == "" || len(req.Addrs) > 0 {
		return req, nil
	}
	for text := range strings.SplitSeq(asked, ",") {
		a, err := netip.ParseAddr(strings.TrimSpace(text))
		if err != nil {
			return req, &cniplugin.AgentError{Code: cniplugin.CodeInvalidConfig, Message: fmt.Sprintf("annotation %s is %q, want addresses with commas", AddressAnnotation, asked)}
		}
		req.Addrs = append(req.Addrs, a)
	}
	return req, nil
}
