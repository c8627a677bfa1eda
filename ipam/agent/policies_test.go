// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/warmpool"
)

// policies returns every policy that has a name in warmpool, with settings for a
// small node. The policy "aws" needs a WARM_ENI_TARGET: with zero, it creates and
// deletes an ENI for ever, as the original does.
func policies(t *testing.T) map[string]warmpool.Policy {
	set := map[string]map[string]string{"aws": {"WARM_ENI_TARGET": "1"}}
	out := map[string]warmpool.Policy{
		"aws, addresses": warmpool.AWS{WarmIPTarget: 2, MinimumIPTarget: 4},
		"aws, on demand": warmpool.AWS{MinimumIPTarget: 1},
	}
	for name := range warmpool.PolicyNames() {
		p, err := warmpool.PolicyByName(name, set[name])
		if err != nil {
			t.Fatal(err)
		}
		out[name] = p
	}
	return out
}

// TestEveryPolicyRuns runs the steps of a day under each policy, with and without
// prefixes, and then checks that an idle night passes without a call to EC2.
func TestEveryPolicyRuns(t *testing.T) {
	for name, policy := range policies(t) {
		for _, prefixes := range []bool{false, true} {
			mode := " with addresses"
			if prefixes {
				mode = " with prefixes"
			}
			t.Run(name+mode, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					w.cloud.prefixes = prefixes
					w.config = func(c *agent.Config) { c.Policy = policy }
					w.day(0)
					p := w.boot(0)
					defer p.stop()
					time.Sleep(3 * time.Hour)
					synctest.Wait()
					w.cloud.mu.Lock()
					before := maps.Clone(w.cloud.calls)
					w.cloud.mu.Unlock()
					time.Sleep(24 * time.Hour)
					synctest.Wait()
					if diff := cmp.Diff(before, w.cloud.calls); diff != "" {
						t.Errorf("calls during an idle night (-before +after):\n%s", diff)
					}
					w.check(p)
					w.converged(p)
				})
			})
		}
	}
}
