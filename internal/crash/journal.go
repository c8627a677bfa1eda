// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// The functions in this file do not interpret the files of the agent's state
// directory: they treat all regular files alike. They do not change tombstones, which
// the plugin writes.

const tombstones = "tombstones"

// stateFiles returns the files of a state directory, relative to it.
func stateFiles(dir string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == tombstones:
			return filepath.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		name, err := filepath.Rel(dir, path)
		files = append(files, name)
		return err
	})
	return files, err
}

// loseFiles removes all files, or in one of four cases a random part of them, and
// returns the files that it removed.
func loseFiles(dir string, rng *rand.Rand) ([]string, error) {
	files, err := stateFiles(dir)
	if err != nil {
		return nil, err
	}
	var lost []string
	some := rng.IntN(4) == 0
	for _, f := range files {
		if some && rng.IntN(2) == 0 {
			continue
		}
		if err := os.Remove(filepath.Join(dir, f)); err != nil {
			return lost, err
		}
		lost = append(lost, f)
	}
	return lost, nil
}

// copyFiles replaces the files of directory to by copies of those of from, except
// tombstones.
func copyFiles(from, to string) error {
	old, err := stateFiles(to)
	if err != nil {
		return err
	}
	for _, f := range old {
		if err := os.Remove(filepath.Join(to, f)); err != nil {
			return err
		}
	}
	files, err := stateFiles(from)
	if err != nil {
		return err
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(from, f))
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(to, f)), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, f), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// damageFiles damages at least one file that is not empty, and returns the damaged
// files with a description of the damage.
func damageFiles(dir string, rng *rand.Rand) ([]string, error) {
	files, err := stateFiles(dir)
	if err != nil || len(files) == 0 {
		return nil, err
	}
	var done []string
	first := rng.IntN(len(files))
	for i := range files {
		f := files[(first+i)%len(files)]
		if len(done) > 0 && rng.IntN(2) == 0 {
			continue
		}
		path := filepath.Join(dir, f)
		b, err := os.ReadFile(path)
		if err != nil {
			return done, err
		}
		if len(b) == 0 {
			continue
		}
		b, how := damage(b, rng)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			return done, err
		}
		done = append(done, f+" "+how)
	}
	return done, nil
}

// damage returns b with one kind of damage, and a description of the damage. It
// changes b.
func damage(b []byte, rng *rand.Rand) ([]byte, string) {
	at, page := rng.IntN(len(b)), 4096
	end := min(len(b), at+1+rng.IntN(page))
	switch rng.IntN(5) {
	case 0:
		return b[:at], "truncated"
	case 1:
		for range 1 + rng.IntN(64) {
			b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
		}
		return b, "with flipped bits"
	case 2:
		for i := at; i < end; i++ {
			b[i] = byte(rng.Uint32())
		}
		return b, "with random bytes"
	case 3:
		clear(b[at:end])
		return b, "with zeroes"
	}
	return append(b, b[at:end]...), "with a piece twice"
}
