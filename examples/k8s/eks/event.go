// SPDX-License-Identifier: Apache-2.0

package eks

import (
	"errors"
	"strings"

	"github.com/vpcnet/vpcnet/cniplugin"
)

// failedAdd is the reason of events for errors without a reason.
const failedAdd = "FailedNetwork"

// Event returns the reason and the message of an event for the error of an ADD: subnet-full, for
// example, has the reason SubnetFull.
func Event(err error) (reason, message string) {
	var known *cniplugin.AgentError
	if !errors.As(err, &known) {
		return failedAdd, err.Error()
	}
	for word := range strings.SplitSeq(known.Reason, "-") {
		if word != "" {
			reason += strings.ToUpper(word[:1]) + word[1:]
		}
	}
	if reason == "" {
		reason = failedAdd
	}
	message = known.Message
	if known.Details != "" {
		message += ": " + known.Details
	}
	return reason, message
}
