// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"encoding/json"
	"errors"
)

// Conflist describes the network configuration list that a container runtime
// reads from /etc/cni/net.d. Its zero value is useful.
type Conflist struct {
	// Name is the network's. Empty means vpcnet.
	Name string
	// CNIVersion is the newest version of the specification that the runtime
	// speaks. Empty means 1.0.0: containerd 1.6 refuses 1.1.0.
	CNIVersion string
	// Type is the file name of the plugin binary. Empty means vpc-cni.
	Type string
	// Conf is the plugin's own part. Optional.
	Conf NetConf
	// Chained are further plugins, each a JSON object with a type, in the order
	// in which the runtime calls them. Optional.
	Chained []json.RawMessage
}

// JSON renders the list.
func (c Conflist) JSON() ([]byte, error) { return nil, errors.ErrUnsupported }

// WriteFile writes the list to path in one step, so that a runtime that watches
// the directory never reads half of it. It reports whether the file changed.
func (c Conflist) WriteFile(path string) (bool, error) { return false, errors.ErrUnsupported }
