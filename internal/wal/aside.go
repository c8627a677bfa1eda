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

// maxAside is how many sets of damaged files are kept. If the file system damages
// the log at each start, the copies must not fill the disk.
const maxAside = 4

const asideSuffix = ".damaged-"

// SetAside renames those of the files that exist to PATH.damaged-N, with the same
// number for all, and returns their new names. It keeps the four latest numbers of
// each path and removes older ones.
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
		// Remove fails for a directory that is not empty, which stays.
		_ = os.Remove(path + asideSuffix + strconv.Itoa(last+1-maxAside))
	}
	return names, nil
}

// lastAside returns the highest number that SetAside has given to path.
func lastAside(path string) int {
	last := 0
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return 0 // the rename that follows returns the error
	}
	for _, e := range entries {
		number, found := strings.CutPrefix(e.Name(), filepath.Base(path)+asideSuffix)
		if n, err := strconv.Atoi(number); found && err == nil {
			last = max(last, n)
		}
	}
	return last
}
