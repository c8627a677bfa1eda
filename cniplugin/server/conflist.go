// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"errors"
	"io/fs"
	"os"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/internal/statedir"
)

// WriteConflist writes a network configuration list to path in one step, so that
// a runtime that watches the directory never reads half of it, and reports
// whether the file changed. An agent calls it when it can serve the first pod: a
// runtime reports the node as ready once the file exists. WriteConflist
// overwrites a list that an operator has edited.
func WriteConflist(path string, c cniplugin.Conflist) (changed bool, err error) {
	b, err := c.JSON()
	if err != nil {
		return false, err
	}
	switch old, err := os.ReadFile(path); {
	case err == nil && bytes.Equal(old, b):
		return false, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	return true, statedir.WriteFile(path, b, 0o644)
}
