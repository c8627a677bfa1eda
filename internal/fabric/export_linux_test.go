// SPDX-License-Identifier: Apache-2.0

package fabric

import "github.com/vpcnet/vpcnet/internal/fabric/vpcrules"

// Network returns the network as the pure rules see it.
func (f *Fabric) Network() vpcrules.Network {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.network()
}
