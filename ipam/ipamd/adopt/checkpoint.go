// SPDX-License-Identifier: Apache-2.0

package adopt

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// ErrCheckpoint means that a file is not a checkpoint of amazon-vpc-cni-k8s that can be
// trusted: it is damaged, or has another format.
var ErrCheckpoint = errors.New("not a checkpoint of amazon-vpc-cni-k8s")

// checkpointVersion is the format of all releases of amazon-vpc-cni-k8s since 1.7.
const checkpointVersion = "vpc-cni-ipam/1"

// Entry is an allocation in a checkpoint. Exactly one of IPv4 and IPv6 is valid.
type Entry struct {
	NetworkName string     `json:"networkName"`
	ContainerID string     `json:"containerID"`
	IfName      string     `json:"ifName"`
	IPv4        netip.Addr `json:"ipv4,omitzero"`
	IPv6        netip.Addr `json:"ipv6,omitzero"`
	// Timestamp is in nanoseconds since 1970.
	Timestamp int64    `json:"allocationTimestamp"`
	Metadata  Metadata `json:"metadata"`
	// Card is the network card whose checkpoint has the entry.
	Card int `json:"-"`
}

// Metadata describes the pod of an entry. Interfaces is how many interfaces the pod has; 0
// means 1.
type Metadata struct {
	Namespace  string `json:"k8sPodNamespace,omitempty"`
	Name       string `json:"k8sPodName,omitempty"`
	Interfaces int    `json:"interfacesCount,omitempty"`
}

// addr returns the address of the entry.
func (e Entry) addr() netip.Addr {
	if e.IPv4.IsValid() {
		return e.IPv4
	}
	return e.IPv6
}

// String returns the pod and its address, as in "default/web (aws-cni/4f1c/eth0) with 10.0.0.5".
func (e Entry) String() string {
	key := e.NetworkName + "/" + e.ContainerID + "/" + e.IfName
	if e.Metadata.Name == "" {
		return key + " with " + e.addr().String()
	}
	return fmt.Sprintf("%s/%s (%s) with %s", e.Metadata.Namespace, e.Metadata.Name, key, e.addr())
}

// checkpoint is the content of a file.
type checkpoint struct {
	Version     string  `json:"version"`
	Allocations []Entry `json:"allocations"`
}

// ParseCheckpoint parses the checkpoint of a network card. The error is ErrCheckpoint.
func ParseCheckpoint(text []byte, card int) ([]Entry, error) {
	var c checkpoint
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	if c.Version != checkpointVersion {
		return nil, fmt.Errorf("%w: version %q, want %q", ErrCheckpoint, c.Version, checkpointVersion)
	}
	for i := range c.Allocations {
		e := &c.Allocations[i]
		e.Card = card
		switch {
		case e.NetworkName == "" || e.ContainerID == "" || e.IfName == "":
			return nil, fmt.Errorf("%w: allocation %d lacks network, container or interface", ErrCheckpoint, i)
		case e.IPv4.IsValid() == e.IPv6.IsValid() || e.IPv4.IsValid() && !e.IPv4.Is4() || e.IPv6.IsValid() && (!e.IPv6.Is6() || e.IPv6.Is4In6() || e.IPv6.Zone() != ""):
			return nil, fmt.Errorf("%w: allocation %d has the addresses %q and %q, want one, of its family", ErrCheckpoint, i, e.IPv4, e.IPv6)
		}
	}
	return c.Allocations, nil
}

// FormatCheckpoint returns the checkpoint with the entries.
func FormatCheckpoint(entries []Entry) []byte {
	if entries == nil {
		entries = []Entry{}
	}
	text, err := json.Marshal(checkpoint{checkpointVersion, entries})
	if err != nil {
		panic(err) // the types have no values without a JSON form
	}
	return text
}

// checkpointPath returns the path of the checkpoint of a network card. path is that of card 0.
func checkpointPath(path string, card int) string {
	if card == 0 {
		return path
	}
	return fmt.Sprintf("%s-nic-%d.json", strings.TrimSuffix(path, ".json"), card)
}
