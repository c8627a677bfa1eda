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

	"github.com/containernetworking/cni/pkg/types"
)

// ErrNotSupported is returned on systems other than Linux.
var ErrNotSupported = fmt.Errorf("cniplugin: %w", errors.ErrUnsupported)

// ErrAgentAway means that no process answers on the agent's socket. [Client]
// returns it, wrapped, after it has tried for Client.Wait.
var ErrAgentAway = errors.New("agent is not running")

// Code is a CNI error code. The specification defines the codes below 100.
//
// https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md#error
type Code = uint

// The codes that this package uses.
const (
	CodeIncompatibleVersion Code = types.ErrIncompatibleCNIVersion
	CodeUnsupportedField    Code = types.ErrUnsupportedField
	CodeUnknownContainer    Code = types.ErrUnknownContainer
	CodeInvalidEnvironment  Code = types.ErrInvalidEnvironmentVariables
	CodeIOFailure           Code = types.ErrIOFailure
	CodeDecodingFailure     Code = types.ErrDecodingFailure
	CodeInvalidConfig       Code = types.ErrInvalidNetworkConfig
	CodeTryAgainLater       Code = types.ErrTryAgainLater
	// CodeNotAvailable and CodeLimitedConnectivity answer STATUS only. Both mean
	// that no ADD can be served; the latter adds that running pods may be affected.
	CodeNotAvailable        Code = types.ErrPluginNotAvailable
	CodeLimitedConnectivity Code = types.ErrLimitedConnectivity

	// CodeDatapath means that the kernel refused a link, address, route or rule.
	CodeDatapath Code = 100
	// CodeCheckFailed means that CHECK found something missing or changed.
	CodeCheckFailed Code = 101
	// CodeAgent means that the agent failed and that trying again will not help.
	CodeAgent Code = 102
	// CodeInternal is any other failure, for example a panic.
	CodeInternal Code = types.ErrInternal
)

// The reasons that the plugin and package server give. An agent has more.
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
	// ReasonNotAllocated means that the attachment holds no address. Backends give it
	// with CodeUnknownContainer.
	ReasonNotAllocated = "not-allocated"
	// ReasonNotAllowed means that the user may not call the agent.
	ReasonNotAllowed = "not-allowed"
	// ReasonAgentPanic means that the agent has a defect, by which it panicked.
	ReasonAgentPanic = "agent-panic"
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

// Error returns reason and message, or the code if there is neither.
func (e *AgentError) Error() string {
	switch {
	case e == nil:
		return "nil AgentError"
	case e.Reason != "" && e.Message != "":
		return e.Reason + ": " + e.Message
	case e.Reason != "" || e.Message != "":
		return e.Reason + e.Message
	}
	return fmt.Sprintf("the agent refused the call with code %d", cmp.Or(e.Code, CodeAgent))
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

// Error is a failure of a CNI command. Its Msg says which value or step is wrong, and
// its Details say what would be right, or contain the cause.
type Error = types.Error

// CNIError returns the error that the runtime gets if an [Allocator], or a call of
// a [Client], returns err. It is the [Error] in err if there is one. The reason and
// message of an [AgentError] come first, because some runtimes show nothing else. It is
// nil if err is nil.
func CNIError(err error) *Error {
	var own *Error
	var e *AgentError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &own) && own != nil:
		e := *own
		return &e
	case errors.As(err, &e) && e != nil:
		details := e.Details
		if e.RetryAfter > 0 {
			details = strings.TrimPrefix(details+"; retry after "+shortDuration(e.RetryAfter), "; ")
		}
		return &Error{Code: cmp.Or(e.Code, CodeAgent), Msg: e.Error(), Details: details}
	case errors.Is(err, ErrAgentAway):
		return &Error{
			Code: CodeTryAgainLater, Msg: ReasonAgentAway + ": " + ErrAgentAway.Error(),
			Details: strings.TrimPrefix(err.Error(), ErrAgentAway.Error()+": "),
		}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &Error{Code: CodeTryAgainLater, Msg: ReasonAgentTimeout + ": " + err.Error()}
	}
	if own, e = (*Error)(nil), (*AgentError)(nil); errors.As(err, &own) || errors.As(err, &e) {
		return &Error{Code: CodeInternal, Msg: fmt.Sprintf("an allocator or a wiring returned a nil %T as its error", err)}
	}
	return &Error{Code: CodeAgent, Msg: err.Error()}
}

// shortDuration returns d in tenths of a second or, if it is short, in milliseconds.
func shortDuration(d time.Duration) string {
	if d < time.Second {
		return max(d.Round(time.Millisecond), time.Millisecond).String()
	}
	return d.Round(time.Second / 10).String()
}
