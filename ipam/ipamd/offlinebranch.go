// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
)

// BranchENI is a branch ENI on a trunk ENI of the node.
type BranchENI struct {
	// ENI and Trunk are as EC2 describes them.
	ENI, Trunk eni.ENI
	Branch     eni.Branch
	// Mode joins a pod to the branch ENI. Its Enforcement is that of the configuration, ""
	// if that gives no pods branch ENIs.
	Mode datapath.Branch
}

// BranchPod is a pod with a branch ENI.
type BranchPod struct {
	Attachment ipam.Attachment
	Pod        ipam.PodRef
	// Sandbox is the cookie of the sandbox, see [datapath.SandboxID].
	Sandbox uint64
	At      time.Time
	Branch  eni.Branch
	// Wiring is the pod as package datapath has it, with Mode.Branch. Its MAC is set if
	// another program has wired the pod.
	Wiring datapath.Pod
}

// BranchENIs lists the branch ENIs on the trunk ENIs of the node, those without a pod included.
func (o *Offline) BranchENIs(ctx context.Context) (all []BranchENI, err error) {
	for _, trunk := range o.Manager.Inventory().ENIs {
		if trunk.Kind != eni.KindTrunk {
			continue
		}
		branches, err := o.Manager.Branches(ctx, trunk.ID)
		if err != nil {
			return nil, err
		}
		for _, b := range branches {
			found := BranchENI{Trunk: trunk, Branch: b, Mode: datapath.Branch{VLAN: b.VLANID, Enforcement: o.node.own.enforcement}}
			if found.ENI, err = o.Manager.BranchENI(ctx, b); err != nil {
				return nil, err
			}
			if found.Mode.ENI, err = o.node.own.datapathENI(found.ENI); err != nil {
				return nil, err
			}
			if found.Mode.Trunk, err = o.node.own.datapathENI(trunk); err != nil {
				return nil, err
			}
			all = append(all, found)
		}
	}
	return all, nil
}

// BranchPods returns the pods with branch ENIs that the agent knows.
func (o *Offline) BranchPods() (all []BranchPod) {
	for _, r := range o.node.own.records.list() {
		if r.Kind == kindBranch && r.complete() {
			all = append(all, BranchPod{Attachment: r.Attachment, Pod: r.Pod, Sandbox: r.Sandbox, At: r.At, Branch: r.Branch, Wiring: r.wiring()})
		}
	}
	return all
}

// RecordBranchPod records a pod with a branch ENI, as if the agent had added it. It can be
// repeated.
func (o *Offline) RecordBranchPod(p BranchPod) error {
	own, w := o.node.own, p.Wiring
	r := podRecord{
		Boot: own.boot, Attachment: p.Attachment, Pod: p.Pod, Netns: w.Netns, Sandbox: p.Sandbox, At: p.At, Kind: kindBranch,
		ENI: p.Branch.ENI, MAC: w.MAC.String(), Branch: p.Branch,
	}
	for _, a := range w.Addrs {
		r.Response.Addresses = append(r.Response.Addresses, cniplugin.Address{Addr: a.Addr, ENI: p.Branch.ENI})
	}
	own.settle(&r, w.Mode)
	was, _ := own.records.get(p.Attachment)
	_, err := own.records.put(was, r) // nothing else changes records while the node is offline
	return err
}
