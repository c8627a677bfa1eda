// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/internal/statedir"
)

// WriteConflist writes a network configuration list to path in one step, so that
// a runtime that watches the directory never reads half of it, and reports
// whether the file changed. An agent calls it when it can serve the first pod: a
// runtime reports the node as ready once the file exists. WriteConflist
// overwrites a list that an operator has edited, and creates missing directories.
func WriteConflist(path string, c cniplugin.Conflist) (changed bool, err error) {
	b, err := c.JSON()
	if err != nil {
		return false, err
	}
	if path == "" {
		return false, errors.New("write the conflist: the path is empty, want one such as /etc/cni/net.d/10-vpcnet.conflist")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, err
	}
	switch info, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, err
	case !info.Mode().IsRegular(): // to read a FIFO would block
		return false, fmt.Errorf("write %s: it is not a regular file", path)
	default:
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, b) {
			return false, nil
		}
	}
	if err := statedir.WriteFile(path, b, 0o644); err != nil {
		return false, err
	}
	return true, nil
}
