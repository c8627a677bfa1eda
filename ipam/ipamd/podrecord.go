// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
)

// podRecord is what the agent knows of a pod that is not joined by a veth pair with
// addresses of the pool. It is on disk before the agent creates anything for the pod.
type podRecord struct {
	// Boot is the boot of the machine in which the pod runs.
	Boot       string
	Attachment ipam.Attachment
	Pod        ipam.PodRef
	Netns      string
	Sandbox    uint64
	// At is when the pod was first asked for.
	At   time.Time
	Kind podKind
	// ENI is the pod's own ENI. It is empty before EC2 has created the ENI, and for pods
	// that share one.
	ENI string `json:",omitempty"`
	// MAC is that of the pod's interface, if another program has wired it.
	MAC string `json:",omitempty"`
	// Branch is the association of a branch ENI.
	Branch eni.Branch `json:",omitzero"`
	// Response is the answer to the ADD. It has no addresses before the pod has all that
	// it needs.
	Response cniplugin.AddResponse
}

// complete reports whether the pod has all that it needs.
func (r podRecord) complete() bool { return len(r.Response.Addresses) > 0 }

// wiring returns the pod as package datapath wires it.
func (r podRecord) wiring() datapath.Pod {
	p := datapath.Pod{
		ContainerID: r.Attachment.ContainerID, IfName: r.Attachment.IfName, Netns: r.Netns, MTU: r.Response.MTU,
		Layout: datapath.Layout(r.Response.Layout), HostLinkPrefix: r.Response.HostLinkPrefix, Mode: r.Response.Mode,
	}
	if r.MAC != "" {
		p.MAC, _ = net.ParseMAC(r.MAC) // the kernel had it
	}
	for _, a := range r.Response.Addresses {
		p.Addrs = append(p.Addrs, datapath.PodAddr{Addr: a.Addr, Table: a.Table})
	}
	return p
}

// allocations returns the pod's addresses as the pool would list them.
func (r podRecord) allocations() (all []ipam.Allocation) {
	for _, a := range r.Response.Addresses {
		all = append(all, ipam.Allocation{
			Attachment: r.Attachment, Addr: a.Addr, ENI: a.ENI, Card: a.Card, Device: a.Device, Pod: r.Pod, Netns: r.Netns, Sandbox: r.Sandbox, At: r.At,
		})
	}
	return all
}

// podRecordDir is the directory of the records in the state directory.
const podRecordDir = "pods"

// podRecords are the records of pods, in memory and in files, one for each pod. It is safe
// for concurrent use.
type podRecords struct {
	dir string

	mu   sync.Mutex
	pods map[ipam.Attachment]podRecord
}

// openPodRecords reads the records of a boot. It removes those of other boots, because these
// pods have ended, and those of pods that never got what they need. It returns the files that it could
// not read, which it renames.
func openPodRecords(stateDir, boot string) (r *podRecords, bad []string, err error) {
	r = &podRecords{dir: filepath.Join(stateDir, podRecordDir), pods: map[ipam.Attachment]podRecord{}}
	entries, err := os.ReadDir(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil, os.MkdirAll(r.dir, 0o700)
	}
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		path := filepath.Join(r.dir, e.Name())
		if filepath.Ext(path) != recordSuffix || !e.Type().IsRegular() {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, nil, err
		}
		var p podRecord
		switch err := json.Unmarshal(text, &p); {
		case err != nil || r.path(p.Attachment) != path:
			bad = append(bad, path)
			err = os.Rename(path, path+".bad")
			if err != nil {
				return nil, nil, err
			}
		case p.Boot != boot || !p.complete():
			if err := os.Remove(path); err != nil {
				return nil, nil, err
			}
		default:
			r.pods[p.Attachment] = p
		}
	}
	return r, bad, nil
}

const recordSuffix = ".json"

func (r *podRecords) path(at ipam.Attachment) string {
	sum := sha256.Sum256([]byte(at.String()))
	return filepath.Join(r.dir, hex.EncodeToString(sum[:16])+recordSuffix)
}

// get returns the record of an attachment. If its network is empty, get returns that of the
// same container and interface.
func (r *podRecords) get(at ipam.Attachment) (podRecord, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p, ok := r.pods[at]; ok || at.Network != "" {
		return p, ok
	}
	for held, p := range r.pods {
		if held.ContainerID == at.ContainerID && held.IfName == at.IfName {
			return p, true
		}
	}
	return podRecord{}, false
}

// list returns the records in the order of their attachments.
func (r *podRecords) list() []podRecord {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]podRecord, 0, len(r.pods))
	for _, p := range r.pods {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b podRecord) int { return strings.Compare(a.Attachment.String(), b.Attachment.String()) })
	return all
}

// put stores a record: in its file in one step, and then in memory, where it replaces was.
// It returns false if another call has changed the record meanwhile. A zero was means that
// there is none.
func (r *podRecords) put(was, p podRecord) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if have := r.pods[p.Attachment]; !have.At.Equal(was.At) || have.ENI != was.ENI {
		return false, nil
	}
	text, err := json.Marshal(p)
	if err != nil {
		return false, err
	}
	path := r.path(p.Attachment)
	if err := errors.Join(os.WriteFile(path+".new", text, 0o600), os.Rename(path+".new", path)); err != nil {
		return false, fmt.Errorf("record of %s: %w", p.Attachment, err)
	}
	r.pods[p.Attachment] = p
	return true, nil
}

// remove removes a record unless another call has replaced it. It succeeds if there is none.
func (r *podRecords) remove(p podRecord) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if have, ok := r.pods[p.Attachment]; !ok || !have.At.Equal(p.At) {
		return nil
	}
	if err := os.Remove(r.path(p.Attachment)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("record of %s: %w", p.Attachment, err)
	}
	delete(r.pods, p.Attachment)
	return nil
}
