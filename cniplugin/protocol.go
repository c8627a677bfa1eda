// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"fmt"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath"
)

// DefaultSocket is the path of the agent's socket, unless the network
// configuration has another one.
const DefaultSocket = "/run/vpcnet/agent.sock"

// DefaultStateDir is the directory in which the agent and the plugin keep files
// that must survive the end of their processes and a reboot.
const DefaultStateDir = "/var/lib/vpcnet"

// The paths of the agent protocol, one for each call. A change that older programs
// would misread gets a new version number. New fields do not, because both sides
// ignore fields that they do not know.
const (
	PathAdd    = "/v1/add"
	PathDel    = "/v1/del"
	PathCheck  = "/v1/check"
	PathGC     = "/v1/gc"
	PathStatus = "/v1/status"
)

// Attachment names one interface of one container in one network. It is the key
// of every request to the agent: a request that is repeated for the same
// attachment gets the same answer.
type Attachment struct {
	Network     string `json:"network"`
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

// String returns the attachment as network/container/interface.
func (a Attachment) String() string { return a.Network + "/" + a.ContainerID + "/" + a.IfName }

// Pod describes the workload in the sandbox, as the runtime knows it. It is for
// logs and operators only; it is never part of a key. Its fields are empty if the
// runtime does not work for Kubernetes.
type Pod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// String returns the pod as namespace/name, or its name if it has no namespace.
func (p Pod) String() string {
	if p.Namespace == "" {
		return p.Name
	}
	return p.Namespace + "/" + p.Name
}

// AddRequest asks for the addresses of one attachment.
type AddRequest struct {
	Attachment
	// Netns is the path of the sandbox's network namespace, as the runtime passed
	// it.
	Netns string `json:"netns"`
	Pod   Pod    `json:"pod,omitzero"`
	// Addrs are the addresses that the runtime asks for, at most one of each family.
	// The response must have all of them; otherwise ADD fails and releases them. A
	// backend that cannot give one returns an AgentError that says why, with a reason
	// such as in-use. It chooses the addresses of other families.
	Addrs []netip.Addr `json:"addrs,omitempty"`
	// MAC is the MAC that the runtime asks for, such as 02:00:00:00:00:01. The plugin
	// sets it. An agent that repairs the network of pods needs it, because the node
	// has a permanent neighbour entry for the pod. Empty means that the plugin derives
	// one from the attachment.
	MAC string `json:"mac,omitempty"`
	// Annotations are those of the pod, at most 256 KiB, if the network configuration
	// has the capability io.kubernetes.cri.pod-annotations.
	Annotations map[string]string `json:"annotations,omitempty"`
	// Interfaces means that the caller wires AddResponse.Interfaces.
	Interfaces bool `json:"interfaces,omitempty"`
	// Mode, SecurityGroups and Enforcement are those of the [NetConf]; a runtime may
	// have replaced the groups.
	Mode           string   `json:"mode,omitempty"`
	SecurityGroups []string `json:"securityGroups,omitempty"`
	Enforcement    string   `json:"enforcement,omitempty"`
	// Modes means that the caller wires AddResponse.Mode.
	Modes bool `json:"modes,omitempty"`
}

// String returns all fields, as in "vpcnet/4f1c/eth0 in /run/netns/4f1c for default/web".
func (r AddRequest) String() string {
	s := r.Attachment.String() + " in " + r.Netns + r.Pod.suffix() + macSuffix(r.MAC)
	if len(r.Addrs) > 0 {
		s += fmt.Sprintf(", wants %v", r.Addrs)
	}
	if len(r.Annotations) > 0 {
		s += fmt.Sprintf(", annotations %q", r.Annotations)
	}
	if r.Mode != "" {
		s += ", mode " + r.Mode
	}
	if len(r.SecurityGroups) > 0 {
		s += fmt.Sprintf(", security groups %v", r.SecurityGroups)
	}
	if r.Enforcement != "" {
		s += ", enforcement " + r.Enforcement
	}
	return s
}

// macSuffix returns " with MAC " and the MAC, empty if there is none.
func macSuffix(mac string) string {
	if mac == "" {
		return ""
	}
	return " with MAC " + mac
}

// suffix returns " for " and the pod, empty if nothing of it is known.
func (p Pod) suffix() string {
	if p == (Pod{}) {
		return ""
	}
	s := " for " + p.String()
	if p.UID != "" {
		s += " (" + p.UID + ")"
	}
	return s
}

// AddResponse is all that the plugin needs to wire a pod. A second AddRequest for
// the same attachment must give the same response.
type AddResponse struct {
	// Addresses has at least one entry, and at most one of each family.
	Addresses []Address `json:"addresses"`
	// Layout is the rule layout of the node, spelled as in package datapath.
	Layout string `json:"layout"`
	// MTU is the MTU of the pod's link. Zero leaves it to the kernel.
	MTU int `json:"mtu,omitempty"`
	// HostLinkPrefix begins the names of host side links. If it is not empty, it
	// must equal the plugin's configuration, because the node's rules match links
	// by this prefix.
	HostLinkPrefix string `json:"hostLinkPrefix,omitempty"`
	// Interfaces are further interfaces of the pod, each with addresses of its own. They
	// belong to the attachment: they are wired after its own interface, and deleted and
	// released with it. Only a request with Interfaces can get them.
	Interfaces []Interface `json:"interfaces,omitempty"`
	// Mode is how the pod is joined to the VPC. Its zero value is a veth pair that the
	// layout routes. Only a request with Modes can get another one.
	Mode datapath.Mode `json:"mode,omitzero"`
}

// Interface is a further interface of a pod, such as one on another network card.
type Interface struct {
	IfName    string    `json:"ifName"`
	Addresses []Address `json:"addresses"`
}

// Address is one address of a pod and the ENI by which its packets leave the
// node.
type Address struct {
	Addr netip.Addr `json:"addr"`
	// ENI is the ID of the ENI that owns the address. Card and Device are the
	// network card index and device index of that ENI.
	ENI    string `json:"eni"`
	Card   int    `json:"card"`
	Device int    `json:"device"`
	// Table is the number of the ENI's route table. The primary ENI has 254, the
	// main table.
	Table int `json:"table"`
}

// DelRequest releases the addresses of an attachment. Network is empty if the plugin
// could not read it: then the request is for the container and interface in any network,
// of which there is at most one.
type DelRequest struct {
	Attachment
	Pod Pod `json:"pod,omitzero"`
	// Retired means that the plugin may have left a host side link that is cut off but
	// not deleted. An agent that sets DelResponse.Sweeps deletes the link with
	// datapath's Handle.Sweep.
	Retired bool `json:"retired,omitempty"`
}

// String returns all fields, as in "vpcnet/4f1c/eth0 for default/web, retired".
func (r DelRequest) String() string {
	s := r.Attachment.String() + r.Pod.suffix()
	if r.Retired {
		s += ", retired"
	}
	return s
}

// DelResponse answers a DelRequest.
type DelResponse struct {
	// Sweeps means that the agent deletes retired links soon. Otherwise the plugin
	// deletes its link, which takes the kernel tens of milliseconds.
	Sweeps bool `json:"sweeps,omitempty"`
}

// CheckRequest asks which addresses an attachment holds. Network may be empty, as in a
// DelRequest.
type CheckRequest struct {
	Attachment
}

// GCRequest names all attachments of a network that are still in use.
type GCRequest struct {
	Network string       `json:"network"`
	Valid   []Attachment `json:"valid"`
}

// GCResponse names the attachments of the network that hold addresses and are not
// in use. The agent does not release the addresses yet: for each attachment the
// plugin first deletes the pod from the kernel and then sends a DelRequest, so
// that a crash in between loses nothing.
type GCResponse struct {
	Stale []Attachment `json:"stale"`
}
