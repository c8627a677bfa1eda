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

	mu     sync.Mutex
	failed []failedCall // oldest first
}

// maxFailed is how many failed calls to EC2 are kept.
const maxFailed = 50

// failedCall is an attempt of a call to EC2 that failed.
type failedCall struct {
	At     time.Time `json:"at"`
	Action string    `json:"action"`
	// Caller is the part of the agent that made the call.
	Caller string `json:"caller"`
	// Code is that of eni.Call.
	Code string `json:"code"`
	Took string `json:"took"`
}

// Called keeps an attempt of a call to EC2 if it failed. It is for the hook of that name.
func (s *Server) Called(c eni.Call) {
	if c.Code == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = append(s.failed, failedCall{time.Now().UTC(), c.Action, c.Caller, c.Code, c.Took.String()})
	if over := len(s.failed) - maxFailed; over > 0 {
		s.failed = slices.Delete(s.failed, 0, over)
	}
}

func (s *Server) failures() []failedCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]failedCall{}, s.failed...)
}

// reply writes a value as JSON.
func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v) // an error means that the client has ended
}
