// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// keepAside is how many sets of damaged files stay. A file system that damages
// the log at each start must not fill the disk as well.
const keepAside = 4

const asideSuffix = ".damaged-"

// SetAside renames the files, those of them that exist, to PATH.damaged-N, with
// one number for all, and returns their new names. Of earlier ones it removes
// all but the latest few.
func SetAside(paths ...string) (names []string, err error) {
	last := 0
	for _, path := range paths {
		last = max(last, lastAside(path))
	}
	suffix := asideSuffix + strconv.Itoa(last+1)
	for _, path := range paths {
		switch err := os.Rename(path, path+suffix); {
		case err == nil:
			names = append(names, path+suffix)
		case !errors.Is(err, fs.ErrNotExist):
			return names, err
		}
		// A directory with something in it stays: it is not ours to empty.
		_ = os.Remove(path + asideSuffix + strconv.Itoa(last+1-keepAside))
	}
	return names, nil
}

// lastAside returns the highest number that SetAside gave to path so far.
func lastAside(path string) int {
	last := 0
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return 0 // the rename that follows says what is wrong
	}
	for _, e := range entries {
		number, ours := strings.CutPrefix(e.Name(), filepath.Base(path)+asideSuffix)
		if n, err := strconv.Atoi(number); ours && err == nil {
			last = max(last, n)
		}
	}
	return last
}
