// SPDX-License-Identifier: Apache-2.0

package introspect

import (
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// V2 returns a handler for the paths below /v2/:
//
//	/v2/            the paths
//	/v2/status      ipamd.Status, which has all that the next two have
//	/v2/pool        the addresses by ENI, and the pods that hold or wait for one
//	/v2/decisions   the latest decision of each network card with its reason, the tasks under
//	                way, and the reason why there are no more addresses
//	/v2/intents     operations on ENIs that are not finished
//	/v2/ec2-errors  the last 50 attempts of calls to EC2 that failed
//	/v2/ec2-calls   the last 200 attempts of calls to EC2
//	/v2/version     the version of the program
//	/v2/settings    the settings that are not the default, by the names of their variables
func (s *Server) V2() http.Handler {
	paths := map[string]func(*http.Request) (any, error){
		"/v2/status":     func(*http.Request) (any, error) { return s.Agent.Status(), nil },
		"/v2/pool":       func(*http.Request) (any, error) { return s.pool(), nil },
		"/v2/decisions":  func(*http.Request) (any, error) { return s.decisions(), nil },
		"/v2/intents":    func(r *http.Request) (any, error) { return s.intents(r) },
		"/v2/ec2-errors": func(*http.Request) (any, error) { return s.list(&s.failed), nil },
		"/v2/ec2-calls":  func(*http.Request) (any, error) { return s.list(&s.calls), nil },
		"/v2/version":    func(*http.Request) (any, error) { return ownVersion(), nil },
		"/v2/settings":   func(*http.Request) (any, error) { c := s.Settings(); return c.Variables(), nil },
	}
	mux := http.NewServeMux()
	for path, read := range paths {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			v, err := read(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			reply(w, v)
		})
	}
	mux.HandleFunc("GET /v2/{$}", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, map[string][]string{"paths": slices.Sorted(maps.Keys(paths))})
	})
	return mux
}

type pool struct {
	Free        int                       `json:"free"`
	ENIs        []ipamd.ENIStatus         `json:"enis"`
	Allocations []ipamd.PodStatus         `json:"allocations"`
	Quarantined []ipamd.QuarantinedStatus `json:"quarantined"`
	Waiting     []Waiting                 `json:"waiting"`
}

// Waiting is a pod that waits for an address.
type Waiting struct {
	Namespace string    `json:"namespace"`
	Pod       string    `json:"pod"`
	Since     time.Time `json:"since"`
}

func (s *Server) pool() pool {
	st := s.Agent.Status()
	p := pool{st.Free, st.ENIs, st.Allocations, append([]ipamd.QuarantinedStatus{}, st.Quarantined...), []Waiting{}}
	for _, w := range s.Agent.View().Waiting {
		p.Waiting = append(p.Waiting, Waiting{w.Request.Pod.Namespace, w.Request.Pod.Name, w.Since})
	}
	return p
}

type decisions struct {
	Decisions []string      `json:"decisions"`
	InFlight  []string      `json:"inFlight"`
	Reason    ipam.Reason   `json:"reason"`
	Evidence  string        `json:"evidence"`
	Events    []agent.Event `json:"events"`
}

func (s *Server) decisions() decisions {
	st := s.Agent.Status()
	return decisions{
		append([]string{}, st.Decisions...), append([]string{}, st.InFlight...), st.Reason, st.Evidence, append([]agent.Event{}, st.Events...),
	}
}

func (s *Server) intents(r *http.Request) ([]eni.Intent, error) {
	all, err := s.Agent.Intents(r.Context())
	return append([]eni.Intent{}, all...), err
}
