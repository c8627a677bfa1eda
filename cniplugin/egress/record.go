// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/vpcnet/vpcnet/cniplugin/internal/statedir"
	"github.com/vpcnet/vpcnet/snat"
)

// attachment is the CNI attachment that a link belongs to.
type attachment struct {
	Network     string `json:"network"`
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

func (a attachment) String() string { return a.Network + "/" + a.ContainerID + "/" + a.IfName }

// digest returns bytes that only this attachment has.
func (a attachment) digest() [sha256.Size]byte { return sha256.Sum256([]byte(a.String())) }

// hostLink returns the name of the node's end of the link, for a family.
func (a attachment) hostLink(node netip.Addr) string {
	sum := a.digest()
	const length = 11 // with the prefix one less than the kernel allows
	return snat.EgressLinkPrefix(node) + hex.EncodeToString(sum[:])[:length]
}

// mac returns the MAC of an end of the link. It is locally administered.
func (a attachment) mac(host bool) net.HardwareAddr {
	sum := a.digest()
	mac := net.HardwareAddr(sum[16:22])
	mac[0] = mac[0]&^3 | 2
	mac[5] &^= 1
	if host {
		mac[5] |= 1
	}
	return mac
}

// aliasPrefix begins the alias of a node's end, which has the attachment after it.
const aliasPrefix = "egress-cni "

// maxAlias is the kernel's IFALIASZ without the closing zero.
const maxAlias = 255

func (a attachment) alias() string { return aliasPrefix + a.String() }

// attachmentOf is the inverse of alias.
func attachmentOf(alias string) (a attachment, ok bool) {
	rest, ok := strings.CutPrefix(alias, aliasPrefix)
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 3 {
		return a, false
	}
	return attachment{parts[0], parts[1], parts[2]}, true
}

// validate returns an error if the alias cannot hold a.
func (a attachment) validate() error {
	if n := len(a.alias()); n > maxAlias {
		return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("names of network, container and interface have %d bytes", len(a.String())),
			fmt.Sprintf("want at most %d together", len(a.String())-n+maxAlias))
	}
	return nil
}

// record is what the plugin knows about an attachment. Addr is missing until the IPAM
// plugin has answered.
type record struct {
	attachment
	Addr   netip.Addr  `json:"addr,omitzero"`
	Node   netip.Addr  `json:"node"`
	Random snat.Random `json:"random"`
}

// egress returns the translation of the pod.
func (r record) egress() snat.Egress { return snat.Egress{Pod: r.Addr, Node: r.Node, Random: r.Random} }

// records is a directory of records.
type records string

func (d records) path(a attachment) string { return statedir.RecordPath(string(d), a.String()) }

// name returns the file name of a record, which is also the key of the attachment's lock.
func (d records) name(a attachment) string { return filepath.Base(d.path(a)) }

// read returns the record of an attachment. found is false if there is none. A record that
// cannot be read is as none: its writer was interrupted by a crash of the machine, which
// ended the pod.
func (d records) read(a attachment) (r record, found bool, err error) {
	b, err := os.ReadFile(d.path(a))
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err != nil {
		return r, false, err
	}
	return r, json.Unmarshal(b, &r) == nil && r.attachment == a, nil
}

// write replaces the record. It need not survive a crash of the machine.
func (d records) write(r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.temp(r.attachment), b, 0o600); err != nil {
		return err
	}
	return os.Rename(d.temp(r.attachment), d.path(r.attachment))
}

// temp returns the path of a record that is being written.
func (d records) temp(a attachment) string {
	return filepath.Join(string(d), statedir.TempPrefix+d.name(a))
}

// removeTemps removes what interrupted writes have left, but no file that a command which
// holds a lock is writing.
func (d records) removeTemps() error {
	paths, err := filepath.Glob(filepath.Join(string(d), statedir.TempPrefix+"*"))
	errs := []error{err}
	for _, p := range paths {
		lock, err := statedir.TryAcquire(string(d), strings.TrimPrefix(filepath.Base(p), statedir.TempPrefix))
		if err == nil {
			err = os.Remove(p)
			lock.Release()
		}
		if !errors.Is(err, statedir.ErrBusy) && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// remove removes the record and what a write that was interrupted has left.
func (d records) remove(a attachment) error {
	err := os.Remove(d.temp(a))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, statedir.RemoveRecord(string(d), a.String()))
}

// all returns all records in the order of their addresses.
func (d records) all() (all []record, err error) {
	paths, err := filepath.Glob(filepath.Join(string(d), "*"+statedir.RecordSuffix))
	if err != nil {
		return nil, err
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a DEL has removed it
		}
		if err != nil {
			return nil, err
		}
		var r record
		if json.Unmarshal(b, &r) == nil {
			all = append(all, r)
		}
	}
	return all, nil
}

// holds reports whether another attachment than a has the address.
func holds(all []record, a attachment, addr netip.Addr) bool {
	for _, r := range all {
		if r.attachment != a && r.Addr == addr {
			return true
		}
	}
	return false
}
