// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// ErrClockSkew is wrapped by the error of a call that EC2 refused because the clock
// of this node is wrong. The text names the difference. The error is also
// ErrUnauthorized.
var ErrClockSkew = errors.New("the node's clock differs from that of EC2")

// skewThreshold is the difference of clocks from which a refusal of credentials is
// blamed on it. EC2 accepts signatures that are up to 5 minutes old; the SDK uses
// the same threshold.
const skewThreshold = 4 * time.Minute

// clockSkew returns how far the clock of EC2 is ahead of that of this node according
// to the answer that err holds. It returns 0 if the answer has no usable time.
func clockSkew(err error) time.Duration {
	var answer *smithyhttp.ResponseError
	if !errors.As(err, &answer) || answer.Response == nil || answer.Response.Response == nil {
		return 0
	}
	header := answer.Response.Header
	at, err := http.ParseTime(header.Get("Date"))
	if err != nil || header.Get("Age") != "" {
		return 0 // a cache answered, at another time
	}
	return time.Until(at)
}

// blameClock names the clock in an error, if the time of the signature explains it. The
// SDK signs with the difference of the clocks at the answer before, so a signature is
// also wrong after the clock of the node has been set right.
func (c *Client) blameClock(e *OpError, answer error) {
	skew := clockSkew(answer)
	if signed := time.Duration(c.skew.Load()); !e.clock || (skew-signed).Abs() < skewThreshold && skew.Abs() < skewThreshold {
		e.clock = false
		return
	}
	c.skew.Store(int64(skew))
	e.skew, e.rest = skew, false
	if skew.Abs() < skewThreshold {
		return
	}
	side := "behind"
	if skew < 0 {
		side = "ahead"
	}
	e.Err = fmt.Errorf("%w: it is %v %s: %w", ErrClockSkew, skew.Abs().Round(time.Second), side, e.Err)
}
