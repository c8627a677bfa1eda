// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// maxPending is the number of events that may wait for a reader of the stream. The
// stream of a slower reader ends.
const maxPending = 1024

// control serves the control endpoint: the resources, the calls, the events, the
// faults and the denials of a cloud.
type control struct {
	cloud     *enitest.Cloud
	summarize func(context.Context) (summary, error)

	mu      sync.Mutex
	faults  map[int]func()
	serial  int
	readers map[chan enitest.Event]bool
}

func newControl(cloud *enitest.Cloud, summarize func(context.Context) (summary, error)) *control {
	c := &control{cloud: cloud, summarize: summarize, faults: map[int]func(){}, readers: map[chan enitest.Event]bool{}}
	cloud.OnChange(c.publish)
	return c
}

func (c *control) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		s, err := c.summarize(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		writeJSON(w, s)
	})
	mux.HandleFunc("GET /calls", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, c.cloud.Calls()) })
	mux.HandleFunc("DELETE /calls", func(http.ResponseWriter, *http.Request) { c.cloud.ResetCalls() })
	mux.HandleFunc("GET /audit", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, c.cloud.Audit()) })
	mux.HandleFunc("GET /events", c.stream)
	mux.HandleFunc("POST /faults", c.addFault)
	mux.HandleFunc("DELETE /faults/{id}", c.removeFault)
	mux.HandleFunc("POST /denials", c.denials((*enitest.Cloud).Deny))
	mux.HandleFunc("DELETE /denials", c.denials((*enitest.Cloud).Allow))
	return mux
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // fails if the client has disconnected
}

// publish passes an event to all readers. It does not wait for slow ones.
func (c *control) publish(e enitest.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for reader := range c.readers {
		select {
		case reader <- e:
		default:
			delete(c.readers, reader)
			close(reader)
		}
	}
}

// stream writes one line of JSON for each event, until the client disconnects or
// falls behind.
func (c *control) stream(w http.ResponseWriter, r *http.Request) {
	reader := make(chan enitest.Event, maxPending)
	c.mu.Lock()
	c.readers[reader] = true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.readers, reader)
	}()
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	if err := out.Flush(); err != nil {
		return
	}
	for {
		select {
		case e, ok := <-reader:
			if !ok || json.NewEncoder(w).Encode(e) != nil || out.Flush() != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

// faultParam is an enitest.Fault in JSON. Delay is a text such as "2s".
type faultParam struct {
	Action, Caller string
	Skip, Times    int
	Delay          string
	Hang, Drop     bool
	Err            *enitest.APIError
}

func (c *control) addFault(w http.ResponseWriter, r *http.Request) {
	var p faultParam
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	f := enitest.Fault{Action: p.Action, Caller: p.Caller, Skip: p.Skip, Times: p.Times, Hang: p.Hang, Drop: p.Drop, Err: p.Err}
	if p.Delay != "" {
		var err error
		if f.Delay, err = time.ParseDuration(p.Delay); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	if err := f.Check(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serial++
	c.faults[c.serial] = c.cloud.AddFault(f)
	writeJSON(w, map[string]int{"ID": c.serial})
}

func (c *control) removeFault(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(r.PathValue("id"))
	c.mu.Lock()
	defer c.mu.Unlock()
	remove, ok := c.faults[id]
	if err != nil || !ok {
		http.Error(w, "unknown fault", http.StatusNotFound)
		return
	}
	delete(c.faults, id)
	remove()
}

// denials returns a handler that calls f with the caller and the action of a
// request.
func (c *control) denials(f func(c *enitest.Cloud, caller, action string)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var p struct{ Caller, Action string }
		err := json.NewDecoder(r.Body).Decode(&p)
		if err == nil {
			err = enitest.Fault{Action: p.Action}.Check()
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		f(c.cloud, p.Caller, p.Action)
	}
}
