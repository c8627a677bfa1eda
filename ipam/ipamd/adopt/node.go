// SPDX-License-Identifier: Apache-2.0

package adopt

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/snat"
	"github.com/vpcnet/vpcnet/snat/iptables"
)

// Options say where things are on a node. The zero value has the paths of EKS.
type Options struct {
	// Checkpoint is the path of the checkpoint of network card 0. Empty means
	// /var/run/aws-node/ipam.json.
	Checkpoint string
	// Socket is the path of the other agent's socket. Empty means
	// /var/run/aws-node/ipamd.sock.
	Socket string
	// Conflist is the path of the other agent's CNI configuration. Empty means
	// /etc/cni/net.d/10-aws.conflist.
	Conflist string
	// PluginDir is the directory of the CNI plugins. Empty means /opt/cni/bin.
	PluginDir string
	// Sandboxes are the directories in which runtimes mount network namespaces. Empty
	// means /var/run/netns and /var/run/docker/netns.
	Sandboxes []string
	// Results is the directory in which the runtime caches results of plugins. Empty means
	// /var/lib/cni/results.
	Results string
	// DryRun prints the plan and carries nothing out.
	DryRun bool
}

const (
	// saved ends the names that files of the other agent have meanwhile. Runtimes read
	// only configurations with the endings that they know.
	saved = ".before-vpcnet"
	// amazonPlugin and ownPlugin are the names of the plugins.
	amazonPlugin = "aws-cni"
	ownPlugin    = "vpc-cni"
)

// observed is what was observed on a node. [fromAmazon] and [toAmazon] depend on nothing else.
type observed struct {
	Now time.Time
	// Instance is the ID of the instance, and ENIs what EC2 knows.
	Instance string
	ENIs     []eni.ENI
	// Pool are the ENIs as the pool has them, those that will be adopted included.
	Pool []agent.ENI
	// Entries are those of all checkpoints, and Checkpoints the content of the files by path.
	Entries     []Entry
	Checkpoints map[string]string
	// Results are those of pods on branch ENIs in the cache of the runtime, and Branches the
	// branch ENIs that EC2 knows.
	Results  []branchResult
	Branches []ipamd.BranchENI
	// BranchPods are the pods on branch ENIs that our agent knows.
	BranchPods []ipamd.BranchPod
	// State is the network in the kernel. Index has the numbers of its links.
	State     netstate.State
	Index     map[string]int
	Sandboxes []sandbox
	// Journal and Allocations are what our journal has.
	Journal     ipam.View
	Allocations []ipam.Allocation
	// Desired is the network for the pods of our journal, and Translation its translation.
	Desired     datapath.Desired
	Translation snat.Config
	// Families are those of the addresses of pods.
	Families []ipam.Family
	// MTU is that of the links of pods.
	MTU int
	// Owner is the value of our owner tag.
	Owner string
	// Tables are the tables of iptables, and Variant the one that the node uses.
	Tables  map[iptables.Variant]string
	Variant iptables.Variant
	// Table says that the nftables table of the other agent exists.
	Table bool
	// Conflist is the path of our CNI configuration.
	Conflist string
	// Files has the paths of the files that exist, of those that a plan may change.
	Files map[string]bool
	// PluginCopied says that the other agent's plugin is a copy of ours.
	PluginCopied bool
}

// sandbox is a network namespace that may be that of a pod.
type sandbox struct {
	Path string
	// ID is the cookie of the namespace, see [datapath.SandboxID].
	ID    uint64
	Links []sandboxLink
}

// sandboxLink is a link in a sandbox. Peer is the number of its other end.
type sandboxLink struct {
	Name, MAC string
	Peer      int
	Addrs     []netip.Addr
}

// adoptable reports whether an ENI may become ours: it carries the tag that it belongs to
// this instance, and no service of AWS and no tag forbids it.
func adoptable(e eni.ENI, instance string) bool {
	return !e.Primary && e.Attachment != "" && e.ManagedBy == "" && (e.Kind == eni.KindInterface || e.Kind == eni.KindTrunk) &&
		e.Tags[eni.TagInstance] == instance && e.Tags[eni.TagNoManage] != "true" && e.Tags[eni.TagPod] != "true"
}

// eniOf returns the ENI that has the address for pods, and its block.
func (n *observed) eniOf(a netip.Addr) (agent.ENI, netip.Prefix, bool) {
	for _, e := range n.Pool {
		for _, b := range e.Blocks {
			if b.Contains(a) && !e.NoPods {
				return e, b, true
			}
		}
	}
	return agent.ENI{}, netip.Prefix{}, false
}

// linkTo returns the link by which packets to a pod leave, "" if there is none.
func (n *observed) linkTo(a netip.Addr) string {
	dst := netstate.HostPrefix(a)
	for _, r := range n.State.Routes {
		if r.Dst == dst && r.Type == "" && !r.Via.IsValid() && r.Link != "" {
			return r.Link
		}
	}
	return ""
}

// hasLink reports whether the node has a veth link of that name.
func (n *observed) hasLink(name string) bool {
	l, ok := n.State.Link(name)
	return ok && l.Kind == "veth"
}

// linkEnding returns the veth link whose name ends with the digits, "" if there is none.
func (n *observed) linkEnding(digits string) string {
	i := slices.IndexFunc(n.State.Links, func(l netstate.Link) bool { return l.Kind == "veth" && strings.HasSuffix(l.Name, digits) })
	if i < 0 {
		return ""
	}
	return n.State.Links[i].Name
}

// sandboxOf returns the sandbox in which the other end of a link has the address and the name.
func (n *observed) sandboxOf(link, ifName string, a netip.Addr) (sandbox, sandboxLink, bool) {
	for _, s := range n.Sandboxes {
		for _, l := range s.Links {
			if l.Name == ifName && l.Peer == n.Index[link] && slices.Contains(l.Addrs, a) {
				return s, l, true
			}
		}
	}
	return sandbox{}, sandboxLink{}, false
}

// resolvedNode returns the desired node with the links of its ENIs.
func (n *observed) resolvedNode() datapath.Node {
	node, _ := n.Desired.Node.Resolve(n.State.Links) // an ENI without link has nothing in the kernel
	return node
}
