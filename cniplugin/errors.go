// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrNotSupported is returned on systems other than Linux.
var ErrNotSupported = fmt.Errorf("cniplugin: %w", errors.ErrUnsupported)

// ErrAgentAway means that nobody answers on the agent's socket. [Client]
// returns it, wrapped, after it has tried for as long as it was allowed to.
var ErrAgentAway = errors.New("agent is not running")

// Code is a CNI error code. Those below 100 are the specification's.
//
// https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md#error
type Code uint

// The codes that this package uses.
const (
	CodeIncompatibleVersion Code = 1
	CodeUnsupportedField    Code = 2
	CodeUnknownContainer    Code = 3
	CodeInvalidEnvironment  Code = 4
	CodeIOFailure           Code = 5
	CodeDecodingFailure     Code = 6
	CodeInvalidConfig       Code = 7
	CodeTryAgainLater       Code = 11
	// CodeNotAvailable and CodeLimitedConnectivity answer STATUS only: no ADD
	// can be served; the latter adds that running pods may be affected.
	CodeNotAvailable        Code = 50
	CodeLimitedConnectivity Code = 51

	// CodeDatapath means that the kernel refused a link, address, route or rule.
	CodeDatapath Code = 100
	// CodeCheckFailed means that CHECK found something missing or changed.
	CodeCheckFailed Code = 101
	// CodeAgent means that the agent failed in a way that waiting will not mend.
	CodeAgent Code = 102
	// CodeInternal is any other failure.
	CodeInternal Code = 999
)

// Reasons that this package gives on its own; the agent has more.
const (
	// ReasonAgentAway: nobody listens on the agent's socket.
	ReasonAgentAway = "agent-away"
	// ReasonAgentTimeout: the agent took the call and did not answer in time.
	ReasonAgentTimeout = "agent-timeout"
	// ReasonProtocol: agent and plugin do not understand each other.
	ReasonProtocol = "agent-protocol"
	// ReasonAttachmentBusy: another command for the attachment has not ended.
	ReasonAttachmentBusy = "attachment-busy"
	// ReasonAddressTaken: an address that the agent gave leads to another pod.
	ReasonAddressTaken = "address-taken"
	// ReasonAddressLost: the addresses were taken back while ADD was wiring them.
	ReasonAddressLost = "address-lost"
	// ReasonNotAllowed: this user may not call the agent.
	ReasonNotAllowed = "not-allowed"
)

// AgentError is a failure that the agent explains. A backend returns it, the
// protocol carries it as it is, and the plugin prints it as the CNI error.
type AgentError struct {
	// Code is the CNI error code; zero counts as CodeAgent.
	Code Code
	// Reason is one word of a closed set, such as subnet-full.
	Reason string
	// Message says what happened, in one line.
	Message string
	// Details is the evidence: counts, the answer of EC2, what to do.
	Details string
	// RetryAfter is when asking again may help. Zero means not known.
	RetryAfter time.Duration
}

// agentErrorWire is AgentError in JSON, with the time in milliseconds.
type agentErrorWire struct {
	Code             Code   `json:"code"`
	Reason           string `json:"reason,omitempty"`
	Message          string `json:"message"`
	Details          string `json:"details,omitempty"`
	RetryAfterMillis int64  `json:"retryAfterMillis,omitempty"`
}

// Error returns reason and message.
func (e *AgentError) Error() string {
	if e.Reason == "" {
		return e.Message
	}
	return e.Reason + ": " + e.Message
}

// MarshalJSON implements [json.Marshaler].
func (e *AgentError) MarshalJSON() ([]byte, error) {
	return json.Marshal(agentErrorWire{e.Code, e.Reason, e.Message, e.Details, e.RetryAfter.Milliseconds()})
}

// UnmarshalJSON implements [json.Unmarshaler].
func (e *AgentError) UnmarshalJSON(b []byte) error {
	var w agentErrorWire
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	*e = AgentError{w.Code, w.Reason, w.Message, w.Details, time.Duration(w.RetryAfterMillis) * time.Millisecond}
	return nil
}

// Error is a failure of a CNI verb as the runtime reads it from standard
// output. Its JSON form is the specification's error result.
type Error struct {
	CNIVersion string `json:"cniVersion"`
	Code       Code   `json:"code"`
	Msg        string `json:"msg"`
	Details    string `json:"details,omitempty"`
}

func newError(code Code, msg, details string) *Error {
	return &Error{Code: code, Msg: msg, Details: details}
}

// withVersion sets the version that an error is printed in.
func withVersion(err error, version string) error {
	if e := (*Error)(nil); errors.As(err, &e) && e.CNIVersion == "" {
		e.CNIVersion = version
	}
	return err
}

// agentFailure turns what a Client returned into a CNI error. Reason and
// message of the agent stand in front, because many a runtime shows no more.
func agentFailure(err error) *Error {
	var e *AgentError
	switch {
	case errors.As(err, &e):
		details := e.Details
		if e.RetryAfter > 0 {
			details = strings.TrimPrefix(details+"; retry after "+e.RetryAfter.String(), "; ")
		}
		return newError(cmp.Or(e.Code, CodeAgent), e.Error(), details)
	case errors.Is(err, ErrAgentAway):
		return newError(CodeTryAgainLater, ReasonAgentAway+": "+ErrAgentAway.Error(),
			strings.TrimPrefix(err.Error(), ErrAgentAway.Error()+": "))
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return newError(CodeTryAgainLater, ReasonAgentTimeout+": the agent has not answered in time", err.Error())
	}
	return newError(CodeAgent, ReasonProtocol+": the agent cannot be asked", err.Error())
}

// Error returns message and details.
func (e *Error) Error() string {
	if e.Details == "" {
		return e.Msg
	}
	return e.Msg + ": " + e.Details
}
