// SPDX-License-Identifier: Apache-2.0

package agent

import "github.com/vpcnet/vpcnet/warmpool"

// Plan shows what the loop would do in a snapshot.
func (a *Agent) Plan(s warmpool.Snapshot) warmpool.Decision { return a.plan(s) }
