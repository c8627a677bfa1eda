// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"net/netip"
	"time"
)

// DefaultSocket is where the agent listens unless the network configuration
// says otherwise.
const DefaultSocket = "/run/vpcnet/agent.sock"

// DefaultStateDir is the directory that agent and plugin share for what must
// survive a reboot of either.
const DefaultStateDir = "/var/lib/vpcnet"

// The paths of the agent protocol, one for each call. A change that old
// programs would misread gets a new number; new fields do not, because both
// sides ignore fields that they do not know.
const (
	PathAdd    = "/v1/add"
	PathDel    = "/v1/del"
	PathCheck  = "/v1/check"
	PathGC     = "/v1/gc"
	PathStatus = "/v1/status"
)

// Attachment names one interface of one container in one network. It is the key
// of everything that the plugin asks for: the same attachment gets the same
// answer.
type Attachment struct {
	Network     string `json:"network"`
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

// String returns the attachment as network/container/interface.
func (a Attachment) String() string { return a.Network + "/" + a.ContainerID + "/" + a.IfName }

// Pod is what the runtime says about the workload in the sandbox. It is there
// for logs and for people; nothing is keyed by it. Fields are empty when the
// runtime is not run by Kubernetes.
type Pod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// AddRequest asks for the addresses of one attachment.
type AddRequest struct {
	Attachment
	// Netns is the path of the sandbox's network namespace, as the runtime
	// gave it.
	Netns string `json:"netns"`
	Pod   Pod    `json:"pod,omitzero"`
}

// AddResponse is what the plugin needs to wire a pod. A second AddRequest for
// the same attachment must give the same response.
type AddResponse struct {
	// Addresses has at least one entry, and at most one of each family.
	Addresses []Address `json:"addresses"`
	// Layout is the rule layout of the node, spelled as in package datapath.
	Layout string `json:"layout"`
	// MTU is that of the pod's link. Zero leaves it to the kernel.
	MTU int `json:"mtu,omitempty"`
	// HostLinkPrefix begins the names of host side links. Empty means that the
	// agent does not care; otherwise it must equal the plugin's configuration,
	// because the node's rules match links by it.
	HostLinkPrefix string `json:"hostLinkPrefix,omitempty"`
}

// Address is one address of a pod and where its packets leave the node.
type Address struct {
	Addr netip.Addr `json:"addr"`
	// ENI is the ID of the ENI that owns the address, Card and Device its two
	// indexes on the instance.
	ENI    string `json:"eni"`
	Card   int    `json:"card"`
	Device int    `json:"device"`
	// Table is the number of the ENI's route table; that of the primary ENI is
	// 254, the main table.
	Table int `json:"table"`
}

// DelRequest gives the addresses of an attachment back.
type DelRequest struct {
	Attachment
	Pod Pod `json:"pod,omitzero"`
	// Retired means that the pod is cut off and its host side link waits for
	// datapath's Handle.Sweep, if the agent does that.
	Retired bool `json:"retired,omitempty"`
}

// DelResponse answers a DelRequest.
type DelResponse struct {
	// Sweeps means that the agent deletes retired links soon. Otherwise the
	// plugin does it, which takes the kernel tens of milliseconds.
	Sweeps bool `json:"sweeps,omitempty"`
}

// CheckRequest asks what an attachment holds.
type CheckRequest struct {
	Attachment
}

// GCRequest names all attachments of a network that are still in use.
type GCRequest struct {
	Network string       `json:"network"`
	Valid   []Attachment `json:"valid"`
}

// GCResponse names the attachments of that network that hold something without
// being in use. The agent keeps what they hold: the plugin takes each out of
// the kernel first and then sends a DelRequest, so that a crash half way loses
// nothing.
type GCResponse struct {
	Stale []Attachment `json:"stale"`
}

// Tombstone records that an attachment is gone while the agent was away.
type Tombstone struct {
	Attachment
	// At is when the plugin took the attachment down.
	At time.Time `json:"at"`
}
