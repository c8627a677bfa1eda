// SPDX-License-Identifier: Apache-2.0

package agent

import "github.com/vpcnet/vpcnet/warmpool"

// Plan returns the decision of the loop for a snapshot.
func (a *Agent) Plan(s warmpool.Snapshot) warmpool.Decision { return a.newLoop().plan(s) }

// ErrConfig is the error of New for a Config that cannot work.
var ErrConfig = errConfig
