// SPDX-License-Identifier: Apache-2.0

package introspect

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/ipam/ipamd/settings"
)

// Agent is what a [Server] shows. It is an [ipamd.Agent].
type Agent interface {
	Status() ipamd.Status
	View() ipam.View
	Intents(context.Context) ([]eni.Intent, error)
}

// Server has the handlers. Agent and Settings are required. It is safe for concurrent use.
type Server struct {
	Agent Agent
	// Settings returns the present settings.
	Settings func() settings.Settings

	mu            sync.Mutex
	calls, failed []Call // oldest first
}

// maxFailed is how many failed calls to EC2 are kept, and maxCalls how many calls.
const (
	maxFailed = 50
	maxCalls  = 200
)

// Call is an attempt of a call to EC2.
type Call struct {
	At     time.Time `json:"at"`
	Action string    `json:"action"`
	// Caller is the part of the agent that made the call.
	Caller string `json:"caller"`
	// Code is that of eni.Call, empty if the call succeeded.
	Code string `json:"code"`
	Took string `json:"took"`
	// ClockSkew is that of eni.Call as a duration, empty if EC2 accepted the clock.
	ClockSkew string `json:"clockSkew,omitempty"`
}

// Called keeps an attempt of a call to EC2. It is for the hook of that name.
func (s *Server) Called(c eni.Call) {
	call := Call{At: time.Now().UTC(), Action: c.Action, Caller: c.Caller, Code: c.Code, Took: c.Took.String()}
	if c.ClockSkew != 0 {
		call.ClockSkew = c.ClockSkew.String()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = latest(append(s.calls, call), maxCalls)
	if c.Code != "" {
		s.failed = latest(append(s.failed, call), maxFailed)
	}
}

// latest removes all but the last n calls.
func latest(calls []Call, n int) []Call { return slices.Delete(calls, 0, max(0, len(calls)-n)) }

// list returns a copy of a list of calls.
func (s *Server) list(calls *[]Call) []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Call{}, *calls...)
}

// reply writes a value as JSON.
func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v) // an error means that the client has ended
}
