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

// ErrAgentAway means that no process answers on the agent's socket. [Client]
// returns it, wrapped, after it has tried for Client.Wait.
var ErrAgentAway = errors.New("agent is not running")

// Code is a CNI error code. The specification defines the codes below 100.
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
	// CodeNotAvailable and CodeLimitedConnectivity answer STATUS only. Both mean
	// that no ADD can be served; the latter adds that running pods may be affected.
	CodeNotAvailable        Code = 50
	CodeLimitedConnectivity Code = 51

	// CodeDatapath means that the kernel refused a link, address, route or rule.
	CodeDatapath Code = 100
	// CodeCheckFailed means that CHECK found something missing or changed.
	CodeCheckFailed Code = 101
	// CodeAgent means that the agent failed and that trying again will not help.
	CodeAgent Code = 102
	// CodeInternal is any other failure.
	CodeInternal Code = 999
)

// Reasons that the plugin and package server give; an agent has more.
const (
	// ReasonAgentAway means that no process listens on the agent's socket.
	ReasonAgentAway = "agent-away"
	// ReasonAgentTimeout means that the agent did not answer in time.
	ReasonAgentTimeout = "agent-timeout"
	// ReasonProtocol means that the agent and the plugin do not understand each
	// other.
	ReasonProtocol = "agent-protocol"
	// ReasonAttachmentBusy means that another command for the attachment has not
	// ended.
	ReasonAttachmentBusy = "attachment-busy"
	// ReasonAddressTaken means that an address from the agent leads to another pod.
	ReasonAddressTaken = "address-taken"
	// ReasonAddressLost means that the addresses were released while ADD was wiring
	// them.
	ReasonAddressLost = "address-lost"
	// ReasonNotAllowed means that the user may not call the agent.
	ReasonNotAllowed = "not-allowed"
)

// AgentError is a failure that the agent explains. A backend returns it, the
// protocol transmits it unchanged, and the plugin prints it as the CNI error.
type AgentError struct {
	// Code is the CNI error code. Zero means CodeAgent.
	Code Code
	// Reason is one word of a closed set, such as subnet-full.
	Reason string
	// Message describes the failure in one line.
	Message string
	// Details is the evidence: counts, the answer of EC2, advice.
	Details string
	// RetryAfter is the time after which trying again may help. Zero means unknown.
	RetryAfter time.Duration
}

// agentErrorWire is the JSON form of AgentError, with the time in milliseconds.
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

// Error is a failure of a CNI command, as the runtime reads it from standard
// output. Its JSON form is the error result of the specification.
type Error struct {
	CNIVersion string `json:"cniVersion"`
	Code       Code   `json:"code"`
	// Msg says which value or step is wrong.
	Msg string `json:"msg"`
	// Details says what would be right, or contains the cause.
	Details string `json:"details,omitempty"`
}

// withVersion sets the specification version of err, if it is an [*Error] without
// one.
func withVersion(err error, version string) error {
	if e := (*Error)(nil); errors.As(err, &e) && e.CNIVersion == "" {
		e.CNIVersion = version
	}
	return err
}

// agentFailure returns the CNI error for an error of a Client. The agent's reason
// and message come first, because many runtimes show nothing else.
func agentFailure(err error) *Error {
	var e *AgentError
	switch {
	case errors.As(err, &e):
		details := e.Details
		if e.RetryAfter > 0 {
			details = strings.TrimPrefix(details+"; retry after "+e.RetryAfter.String(), "; ")
		}
		return &Error{Code: cmp.Or(e.Code, CodeAgent), Msg: e.Error(), Details: details}
	case errors.Is(err, ErrAgentAway):
		return &Error{
			Code: CodeTryAgainLater, Msg: ReasonAgentAway + ": " + ErrAgentAway.Error(),
			Details: strings.TrimPrefix(err.Error(), ErrAgentAway.Error()+": "),
		}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &Error{Code: CodeTryAgainLater, Msg: ReasonAgentTimeout + ": the agent did not answer in time", Details: err.Error()}
	}
	return &Error{Code: CodeAgent, Msg: ReasonProtocol + ": the call to the agent failed", Details: err.Error()}
}

// Error returns message and details.
func (e *Error) Error() string {
	if e.Details == "" {
		return e.Msg
	}
	return e.Msg + ": " + e.Details
}
