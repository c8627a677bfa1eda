// SPDX-License-Identifier: Apache-2.0

package enitest

import "net/url"

// tokenKey identifies an idempotent call. EC2 stores client tokens by account and
// action; a Cloud has one account.
type tokenKey struct{ action, token string }

type tokenEntry struct {
	parameters string
	answer     any
}

// once does the call, unless a call with the same client token was done before:
// then it returns the answer to that call, or an error if the parameters differ. The
// answer to a mutating call does not lag behind the state.
// https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html
func (c *Cloud) once(call Call, form url.Values, mutating bool, run func(*tx) (any, error)) (any, error) {
	t := c.begin()
	defer t.end()
	t.caller, t.call = call.Caller, true
	if mutating {
		t.view = t.now
	}
	key := tokenKey{call.Action, form.Get("ClientToken")}
	if key.token == "" {
		return run(t)
	}
	parameters := call.Parameters.Encode()
	if before, ok := c.tokens[key]; ok {
		if before.parameters != parameters {
			return nil, errorf("IdempotentParameterMismatch",
				"The request uses the same client token as a previous, but non-identical request.")
		}
		return before.answer, nil
	}
	answer, err := run(t)
	if err == nil {
		c.tokens[key] = tokenEntry{parameters, answer}
	}
	return answer, err
}
