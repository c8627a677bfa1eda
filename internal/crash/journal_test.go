// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// state creates a state directory with a tombstone and a socket.
func state(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"agent.db": "marker", "pool/journal": "events of the pool", tombstones + "/stone": "a pod"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return dir
}

func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	names, err := stateFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, n := range names {
		b, err := os.ReadFile(filepath.Join(dir, n))
		if err != nil {
			t.Fatal(err)
		}
		all[n] = string(b)
	}
	return all
}

func TestStateFiles(t *testing.T) {
	names, err := stateFiles(state(t))
	slices.Sort(names)
	if err != nil || !slices.Equal(names, []string{"agent.db", "pool/journal"}) {
		t.Errorf("stateFiles = %v, %v, want agent.db and pool/journal", names, err)
	}
}

func TestCopyFiles(t *testing.T) {
	dir, old := state(t), t.TempDir()
	if err := copyFiles(dir, old); err != nil {
		t.Fatal(err)
	}
	want := files(t, dir)
	for name, text := range map[string]string{"agent.db": "later", "later.db": "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := copyFiles(old, dir); err != nil {
		t.Fatal(err)
	}
	if got := files(t, dir); len(got) != 2 || got["agent.db"] != want["agent.db"] || got["pool/journal"] != want["pool/journal"] {
		t.Errorf("restored %v, want %v", got, want)
	}
	if _, err := os.Stat(filepath.Join(dir, tombstones, "stone")); err != nil {
		t.Error(err)
	}
}

func TestLoseAndDamage(t *testing.T) {
	for seed := range uint64(200) {
		dir, rng := state(t), rand.New(rand.NewPCG(seed, 0))
		before := files(t, dir)
		done, err := damageFiles(dir, rng)
		after := files(t, dir)
		same := after["agent.db"] == before["agent.db"] && after["pool/journal"] == before["pool/journal"]
		if err != nil || len(done) == 0 || len(after) != 2 {
			t.Fatalf("seed %d: damaged %v, %v", seed, done, err)
		}
		if same {
			// This happens rarely, if bits flip twice or zeroes replace zeroes.
			t.Logf("seed %d: %v changed nothing", seed, done)
		}
		lost, err := loseFiles(dir, rng)
		if err != nil || len(lost)+len(files(t, dir)) != 2 {
			t.Fatalf("seed %d: lost %v, %v", seed, lost, err)
		}
		if _, err := os.Stat(filepath.Join(dir, tombstones, "stone")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEveryDamage(t *testing.T) {
	whole := bytes.Repeat([]byte("journal "), 2000)
	seen := map[string]int{}
	for seed := range uint64(100) {
		b, how := damage(bytes.Clone(whole), rand.New(rand.NewPCG(seed, 1)))
		if bytes.Equal(b, whole) {
			t.Errorf("seed %d: %s changed nothing", seed, how)
		}
		seen[how]++
	}
	if len(seen) != 5 {
		t.Errorf("damages: %v, want 5 kinds", seen)
	}
}
