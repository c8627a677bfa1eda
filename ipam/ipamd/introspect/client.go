// SPDX-License-Identifier: Apache-2.0

package introspect

import (
	"context"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// Answers are what an agent shows with [Server.V2].
type Answers struct {
	Status  ipamd.Status `json:"status"`
	Waiting []Waiting    `json:"waiting"`
	Intents []eni.Intent `json:"intents"`
	// Calls are the last calls to EC2, and Failed those that failed, oldest first.
	Calls    []Call            `json:"calls"`
	Failed   []Call            `json:"failed"`
	Settings map[string]string `json:"settings"`
	Version  Version           `json:"version"`
}

// Read reads all that the agent at an address shows, as [ipamd.ReadStatus] does. The parts are
// read one after the other, so they may be of different moments.
func Read(ctx context.Context, where string) (a Answers, err error) {
	var p struct {
		Waiting []Waiting `json:"waiting"`
	}
	for _, part := range []struct {
		path string
		into any
	}{{"/v2/status", &a.Status}, {"/v2/pool", &p}, {"/v2/intents", &a.Intents}, {"/v2/ec2-calls", &a.Calls}, {"/v2/ec2-errors", &a.Failed}, {"/v2/settings", &a.Settings}, {"/v2/version", &a.Version}} {
		if err := ipamd.ReadJSON(ctx, where, part.path, part.into); err != nil {
			return a, err
		}
	}
	a.Waiting = p.Waiting
	return a, nil
}
