// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/vpcnet/vpcnet/eni"
)

// nodeRecord is a record of the node on disk. With it the next agent of the same
// boot can start before EC2 or the metadata service answers. A node record never
// makes an address allocatable; only the journal of the pool and the kernel do.
type nodeRecord struct {
	Boot      string        `json:"boot"`
	Region    string        `json:"region"`
	Inventory eni.Inventory `json:"inventory"`
}

// nodeRecordFile is the name of the file in the state directory.
const nodeRecordFile = "node.json"

// sealed is the content of the file. The checksum shows damage.
type sealed struct {
	CRC32 uint32          `json:"crc32"`
	Node  json.RawMessage `json:"node"`
}

// errDamaged means that the file is damaged.
var errDamaged = errors.New("the file is damaged")

// readNodeRecord reads the node record of an earlier agent of the same boot. It
// returns a zero record if there is none.
func readNodeRecord(dir, boot string) (nodeRecord, error) {
	path := filepath.Join(dir, nodeRecordFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nodeRecord{}, nil
	}
	if err != nil {
		return nodeRecord{}, err
	}
	var s sealed
	var k nodeRecord
	if err := json.Unmarshal(text, &s); err != nil || crc32.ChecksumIEEE(s.Node) != s.CRC32 {
		return nodeRecord{}, fmt.Errorf("%s: %w", path, errDamaged)
	}
	if err := json.Unmarshal(s.Node, &k); err != nil {
		return nodeRecord{}, fmt.Errorf("%s: %w: %w", path, errDamaged, err)
	}
	if k.Boot != boot {
		return nodeRecord{}, nil
	}
	return k, nil
}

// recorder writes the node record when it has changed. The zero value writes
// nothing.
type recorder struct {
	dir, boot string

	mu     sync.Mutex
	region string
	last   []byte
}

// store replaces the file in one step. It does not sync the file, because the record
// is not used after a reboot.
func (r *recorder) store(inv eni.Inventory) error {
	if r.dir == "" {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	node, err := json.Marshal(nodeRecord{Boot: r.boot, Region: r.region, Inventory: inv})
	if err != nil || string(node) == string(r.last) {
		return err
	}
	text, err := json.Marshal(sealed{CRC32: crc32.ChecksumIEEE(node), Node: node})
	if err != nil {
		return err
	}
	path := filepath.Join(r.dir, nodeRecordFile)
	if err := errors.Join(os.WriteFile(path+".new", text, 0o600), os.Rename(path+".new", path)); err != nil {
		return err
	}
	r.last = node
	return nil
}

// knownRegion returns the region, or an empty string before setRegion.
func (r *recorder) knownRegion() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.region
}

func (r *recorder) setRegion(region string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.region = region
}

// record stores the node record. It makes the next start faster; without it that is still
// correct. Its prefixes of the VPC are those that the translation uses: an inventory has
// those of the latest answer of the metadata service, which may lack one by mistake.
func (n *node) record(inv eni.Inventory) {
	if vpc := n.links.VPC(); len(vpc) > 0 {
		inv.Instance.VPC = vpc
	}
	_ = n.recorder.store(inv)
}
