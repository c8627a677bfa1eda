// SPDX-License-Identifier: Apache-2.0

package ipamd_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni"
	enijournal "github.com/vpcnet/vpcnet/eni/waljournal"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	ipamjournal "github.com/vpcnet/vpcnet/ipam/waljournal"
)

// TestReadStored reads a state directory, whole and damaged, and checks that it stays as it is.
func TestReadStored(t *testing.T) {
	dir := t.TempDir()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	journal, _, err := ipamjournal.Open(t.Context(), dir, ipamjournal.Config{BootID: strings.TrimSpace(string(boot))})
	if err != nil {
		t.Fatal(err)
	}
	pool, err := ipam.Open(ipam.Config{Journal: journal})
	if err != nil {
		t.Fatal(err)
	}
	block := netip.MustParsePrefix("10.0.0.16/28")
	for _, err := range []error{
		pool.SetENI(ipam.ENI{ID: "eni-1", Device: 1}), pool.AddBlocks(ipam.Block{Prefix: block, ENI: "eni-1"}), pool.SetReady("eni-1", true),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pool.Allocate(t.Context(), ipam.Request{
		Attachment: ipam.Attachment{Network: "n", ContainerID: "secret-sandbox", IfName: "eth0"},
		Pod:        ipam.PodRef{Namespace: "default", Name: "web-0"},
	}); err != nil {
		t.Fatal(err)
	}
	intents, _, err := enijournal.Open(t.Context(), dir, enijournal.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []eni.Intent{{ID: "a", Op: eni.OpAssign, ENI: "eni-1"}, {ID: "b", Op: eni.OpAssign, Done: true}} {
		if err := intents.Put(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	before := filesIn(t, dir) // the journals are open: an agent that hangs has them so
	s, err := ipamd.ReadStored(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Status.ENIs) != 1 || s.Status.ENIs[0].Table != 2 || s.Status.ENIs[0].Blocks[0] != (ipamd.BlockStatus{Prefix: block, Used: 1, Free: 15}) {
		t.Errorf("ENIs %+v", s.Status.ENIs)
	}
	if a := s.Status.Allocations; len(a) != 1 || a[0].Pod != "web-0" || a[0].ENI != "eni-1" || !block.Contains(a[0].Addr) {
		t.Errorf("allocations %+v", a)
	}
	if len(s.Intents) != 1 || s.Intents[0].ID != "a" || len(s.Problems) != 0 {
		t.Errorf("intents %+v, problems %v", s.Intents, s.Problems)
	}
	if text, err := json.Marshal(s); err != nil || strings.Contains(string(text), "secret") {
		t.Errorf("%s, %v: has the ID of a sandbox", text, err)
	}
	if diff := cmp.Diff(before, filesIn(t, dir)); diff != "" {
		t.Errorf("the directory has changed (-before +after):\n%s", diff)
	}

	if err := os.Truncate(filepath.Join(dir, "pool.log"), 200); err != nil {
		t.Fatal(err)
	}
	if s, err = ipamd.ReadStored(t.Context(), dir); err != nil || len(s.Problems) != 1 || !strings.Contains(s.Problems[0], "journal of the pool") || len(s.Intents) != 1 {
		t.Errorf("damaged: %+v, %v", s, err)
	}
	if s, err = ipamd.ReadStored(t.Context(), t.TempDir()); err != nil || len(s.Problems) != 1 || !strings.Contains(s.Problems[0], "there is no journal") {
		t.Errorf("empty: %+v, %v", s, err)
	}
	if _, err := ipamd.ReadStored(t.Context(), dir+"/none"); err == nil {
		t.Error("no error without a directory")
	}
}

// filesIn returns the files of a directory with their content.
func filesIn(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(text)
	}
	return all
}
