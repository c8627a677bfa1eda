// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"fmt"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath"
)

// podKind is how a pod is joined to the VPC.
type podKind string

const (
	// kindVeth is a veth pair with addresses of the pool.
	kindVeth podKind = ""
	// kindBranch is a branch ENI on the trunk ENI of the node, with the pod's security
	// groups.
	kindBranch podKind = "branch"
	// kindENI is an ENI that moves into the sandbox.
	kindENI podKind = cniplugin.ModeENI
	// kindIPVLAN is an ipvlan link on the ENI of the pool's addresses.
	kindIPVLAN podKind = cniplugin.ModeIPVLAN
	// kindBridge is a port of the node's bridge, with addresses of the node's prefixes.
	kindBridge podKind = cniplugin.ModeBridge
)

// names of the kinds in errors.
var kindNames = map[podKind]string{
	kindVeth: "a veth pair", kindBranch: "a branch ENI with security groups", kindENI: "an ENI of its own", kindIPVLAN: "an ipvlan link",
	kindBridge: "a port of a bridge",
}

// asked is what a request asks for beside addresses.
type asked struct {
	kind   podKind
	groups []string
}

// ask returns what a request asks for, or an error if the node does not give it.
func (b *Backend) ask(ctx context.Context, req cniplugin.AddRequest) (asked, error) {
	a := asked{kind: podKind(req.Mode), groups: req.SecurityGroups}
	if len(a.groups) == 0 && b.cfg.SecurityGroups != nil {
		var err error
		if a.groups, err = b.cfg.SecurityGroups(ctx, req); err != nil {
			return a, b.explain(err, req.Attachment, req.Pod)
		}
	}
	if len(a.groups) > 0 && a.kind == kindVeth {
		a.kind = kindBranch
	}
	if a.kind == kindVeth {
		return a, nil
	}
	return a, b.permit(req, a)
}

// permit returns an error if a pod cannot have what its request asks for.
func (b *Backend) permit(req cniplugin.AddRequest, a asked) error {
	refuse := func(message, details string) error {
		return &cniplugin.AgentError{Code: cniplugin.CodeInvalidConfig, Message: message, Details: details}
	}
	name, known := kindNames[a.kind]
	switch {
	case !known:
		return refuse(fmt.Sprintf("the agent does not know the mode %q", req.Mode), "plugin and agent should come from the same release")
	case !req.Modes:
		return &cniplugin.AgentError{Code: cniplugin.CodeIncompatibleVersion, Message: "the plugin cannot wire a pod with " + name, Details: "plugin and agent should come from the same release"}
	case len(a.groups) > 0 && (a.kind == kindIPVLAN || a.kind == kindBridge):
		return refuse("a pod with "+name+" cannot have security groups", "its ENI has other pods")
	case req.MAC != "":
		return refuse("a pod with "+name+" cannot choose its MAC", "its mode decides it; remove the capability mac")
	case len(req.Addrs) > 0 && a.kind != kindIPVLAN:
		return refuse("a pod with "+name+" cannot choose its address", "the agent or EC2 chooses it; remove the capability ips")
	case req.Annotations[NICAnnotation] != "":
		return refuse("a pod with "+name+" cannot have an interface on each network card", "annotation "+NICAnnotation)
	case b.own == nil:
		return refuse("the agent of this node gives no pod "+name, "")
	}
	return b.own.permit(req, a)
}

// permit returns an error if the node does not give what a request asks for.
func (o *ownPods) permit(req cniplugin.AddRequest, a asked) error {
	e := &cniplugin.AgentError{Code: cniplugin.CodeInvalidConfig}
	switch limits := o.limits; {
	case a.kind == kindBranch && !o.cfg.PodENI:
		e.Message = "the pod asks for security groups of its own, and the agent of this node does not give that"
		e.Details = "-enable-pod-eni (ENABLE_POD_ENI) permits it"
	case a.kind == kindBranch && !limits.Trunk:
		e.Message = fmt.Sprintf("the pod asks for security groups of its own, and instances of type %s have no branch ENIs", limits.Type)
		e.Details = "the type takes no trunk ENI"
	case a.kind == kindBranch && req.Enforcement != "" && datapath.Enforcement(req.Enforcement) != o.enforcement:
		e.Message = fmt.Sprintf("invalid podSGEnforcingMode %q", req.Enforcement)
		e.Details = fmt.Sprintf("the agent uses %q on this node, want the same", o.enforcement)
	case a.kind == kindENI && o.cfg.WholeENIs == 0:
		e.Message = "the pod asks for an ENI of its own, and the agent of this node does not give that"
		e.Details = "-whole-enis (VPCNET_WHOLE_ENIS) permits it"
	case a.kind == kindBridge && len(o.cfg.NodePrefixes) == 0:
		e.Message = "the pod asks for a port of a bridge, and the node has no prefix for such pods"
		e.Details = "-node-prefix (VPCNET_NODE_PREFIX) sets it"
	default:
		return nil
	}
	return e
}
