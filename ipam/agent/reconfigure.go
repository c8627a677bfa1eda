// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"slices"

	"github.com/vpcnet/vpcnet/warmpool"
)

// rules are what Reconfigure changes.
type rules struct {
	policy warmpool.Policy
	limits []warmpool.Limits
}

// Reconfigure changes Config.Policy and Config.Limits. The agent decides by them at once.
// A new policy starts without the memory of the earlier one. ENIs and addresses beyond
// lower limits stay until the policy gives them back. It returns an error, and changes
// nothing, for a policy that New refuses, or if the number of cards differs from that of
// Config.Limits.
func (a *Agent) Reconfigure(policy warmpool.Policy, limits []warmpool.Limits) error {
	if err := a.checkPolicy(policy); err != nil {
		return err
	}
	if len(limits) != a.cards {
		return fmt.Errorf("%w has limits of %d cards, want %d", errConfig, len(limits), a.cards)
	}
	a.mu.Lock()
	a.next = &rules{policy, slices.Clone(limits)}
	a.mu.Unlock()
	select {
	case a.changed <- struct{}{}:
	default: // a value is pending already
	}
	return nil
}

// reconfigure takes the rules of the latest Reconfigure.
func (l *loop) reconfigure() {
	l.mu.Lock()
	next := l.next
	l.next = nil
	l.mu.Unlock()
	if next == nil {
		return
	}
	l.policy, l.limits = warmpool.AgentPolicy(next.policy), next.limits
	clear(l.memory)
	clear(l.decided)
	l.log.Info("policy and limits changed", "policy", fmt.Sprintf("%+v", next.policy), "limits", fmt.Sprintf("%+v", next.limits))
}
