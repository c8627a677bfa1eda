// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"context"
)

// status returns the agent's answer. It replaces codes that have no meaning in an
// answer to STATUS by CodeNotAvailable.
func status(ctx context.Context, c *call) error {
	ctx, cancel := context.WithTimeout(ctx, min(statusTimeout, c.conf.timeout()))
	defer cancel()
	err := c.client(statusTimeout).Status(ctx)
	if err == nil {
		return nil
	}
	e := CNIError(err)
	if e.Code != CodeLimitedConnectivity {
		e.Code = CodeNotAvailable
	}
	return e
}
