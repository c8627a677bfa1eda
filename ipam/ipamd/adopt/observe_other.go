// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package adopt

import "github.com/vpcnet/vpcnet/datapath"

func observeSandboxes([]string) (map[string]int, []sandbox, error) {
	return nil, nil, datapath.ErrNotSupported
}

func hasTable() (bool, error) { return false, datapath.ErrNotSupported }

func deleteTable() error { return datapath.ErrNotSupported }
