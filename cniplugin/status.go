// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"context"
)

// status passes the agent's word on. Codes that mean something else in answer
// to STATUS become the one for a plugin that cannot serve an ADD.
func status(ctx context.Context, c *call) error {
	ctx, cancel := context.WithTimeout(ctx, min(statusTimeout, c.conf.timeout()))
	defer cancel()
	err := c.client(statusTimeout).Status(ctx)
	if err == nil {
		return nil
	}
	e := agentFailure(err)
	if e.Code != CodeLimitedConnectivity {
		e.Code = CodeNotAvailable
	}
	return e
}
