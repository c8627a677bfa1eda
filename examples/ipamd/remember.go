// SPDX-License-Identifier: Apache-2.0

package main

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

// knowledge is what an agent writes down of the node, so that the next one in the
// same boot can go on before EC2 or the metadata service answers. It never makes
// an address allocatable; the journal of the pool and the kernel do.
type knowledge struct {
	Boot      string        `json:"boot"`
	Region    string        `json:"region"`
	Inventory eni.Inventory `json:"inventory"`
}

// knowledgeFile is the name in the state directory.
const knowledgeFile = "node.json"

// sealed is the file: a checksum keeps a damaged one from being believed.
type sealed struct {
	CRC32 uint32          `json:"crc32"`
	Node  json.RawMessage `json:"node"`
}

// errKnowledge means that the file is damaged.
var errKnowledge = errors.New("the file is damaged")

// recall reads what an earlier agent of the boot knew; nothing if there is none.
func recall(dir, boot string) (knowledge, error) {
	path := filepath.Join(dir, knowledgeFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return knowledge{}, nil
	}
	if err != nil {
		return knowledge{}, err
	}
	var s sealed
	var k knowledge
	if err := json.Unmarshal(text, &s); err != nil || crc32.ChecksumIEEE(s.Node) != s.CRC32 {
		return knowledge{}, fmt.Errorf("%s: %w", path, errKnowledge)
	}
	if err := json.Unmarshal(s.Node, &k); err != nil {
		return knowledge{}, fmt.Errorf("%s: %w: %w", path, errKnowledge, err)
	}
	if k.Boot != boot {
		return knowledge{}, nil
	}
	return k, nil
}

// memory writes knowledge down when it has changed. The zero value writes nothing.
type memory struct {
	dir, boot string

	mu     sync.Mutex
	region string
	last   []byte
}

// store replaces the file in one step. It is not synced: a reboot ends its use.
func (m *memory) store(inv eni.Inventory) error {
	if m.dir == "" {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	node, err := json.Marshal(knowledge{Boot: m.boot, Region: m.region, Inventory: inv})
	if err != nil || string(node) == string(m.last) {
		return err
	}
	text, err := json.Marshal(sealed{CRC32: crc32.ChecksumIEEE(node), Node: node})
	if err != nil {
		return err
	}
	path := filepath.Join(m.dir, knowledgeFile)
	if err := errors.Join(os.WriteFile(path+".new", text, 0o600), os.Rename(path+".new", path)); err != nil {
		return err
	}
	m.last = node
	return nil
}

func (m *memory) setRegion(region string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.region = region
}
