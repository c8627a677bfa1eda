// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
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
	faults  map[int]addedFault
	denied  map[denial]bool
	serial  int
	readers map[chan enitest.Event]bool
}

func newControl(cloud *enitest.Cloud, summarize func(context.Context) (summary, error)) *control {
	c := &control{cloud: cloud, summarize: summarize, faults: map[int]addedFault{}, denied: map[denial]bool{}, readers: map[chan enitest.Event]bool{}}
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
	mux.HandleFunc("PUT /lag", c.setLag)
	mux.HandleFunc("PUT /delays", c.setDelays)
	mux.HandleFunc("POST /foreign-enis", c.addForeignENI)
	mux.HandleFunc("GET /faults", c.listFaults)
	mux.HandleFunc("POST /faults", c.addFault)
	mux.HandleFunc("DELETE /faults/{id}", c.removeFault)
	mux.HandleFunc("GET /denials", c.listDenials)
	mux.HandleFunc("POST /denials", c.deny(true))
	mux.HandleFunc("DELETE /denials", c.deny(false))
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
// falls behind. It begins with an event for each ENI that is a device of an instance now,
// so that a client needs no other call to learn the state. A change that happens
// meanwhile can be in it twice.
func (c *control) stream(w http.ResponseWriter, r *http.Request) {
	reader := make(chan enitest.Event, maxPending)
	c.mu.Lock()
	present := c.present()
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
	for _, e := range present {
		if json.NewEncoder(w).Encode(e) != nil {
			return
		}
	}
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

// present returns an event of kind Attached for each ENI that is a device of an instance.
func (c *control) present() []enitest.Event {
	running := map[string]bool{}
	for _, i := range c.cloud.Instances() {
		running[i.ID] = i.StoppingAt.IsZero() && i.TerminatingAt.IsZero()
	}
	var all []enitest.Event
	for _, e := range c.cloud.ENIs() {
		if a := e.Attachment; a != nil && running[a.Instance] && a.DetachedAt.IsZero() {
			all = append(all, enitest.Event{Op: enitest.Attached, Instance: a.Instance, ENI: e})
		}
	}
	return all
}

// faultParam is an enitest.Fault in JSON. Delay is a text such as "2s".
type faultParam struct {
	Action string
	Caller string            `json:",omitzero"`
	Skip   int               `json:",omitzero"`
	Times  int               `json:",omitzero"`
	Delay  string            `json:",omitzero"`
	Hang   bool              `json:",omitzero"`
	Drop   bool              `json:",omitzero"`
	Err    *enitest.APIError `json:",omitzero"`
}

// addedFault is a fault that the cloud has, with the function that removes it.
type addedFault struct {
	ID int
	faultParam
	remove func()
}

// denial is a permission that was taken from a caller.
type denial struct {
	Caller string `json:",omitzero"`
	Action string
}

// decode reads the JSON of a request into v. A field that v does not have is an error. If
// decode returns false it has written the answer.
func decode(w http.ResponseWriter, r *http.Request, v any) bool {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

// duration is a time.Duration in JSON: a text such as "2s".
type duration time.Duration

func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err == nil && v < 0 {
		err = fmt.Errorf("duration %s: want 0 or more", v)
	}
	*d = duration(v)
	return err
}

func (c *control) setLag(w http.ResponseWriter, r *http.Request) {
	var p struct {
		Describe, Write, Metadata duration
		Keys                      map[string]duration
	}
	if !decode(w, r, &p) {
		return
	}
	l := enitest.Lag{
		Describe: time.Duration(p.Describe), Write: time.Duration(p.Write), Metadata: time.Duration(p.Metadata),
		Keys: map[string]time.Duration{},
	}
	for key, d := range p.Keys {
		l.Keys[key] = time.Duration(d)
	}
	c.cloud.SetLag(l)
}

func (c *control) setDelays(w http.ResponseWriter, r *http.Request) {
	var p struct{ Attach, Detach, Start, Stop, Terminate, Call duration }
	if decode(w, r, &p) {
		c.cloud.SetDelays(enitest.Delays{
			Attach: time.Duration(p.Attach), Detach: time.Duration(p.Detach), Start: time.Duration(p.Start),
			Stop: time.Duration(p.Stop), Terminate: time.Duration(p.Terminate), Call: time.Duration(p.Call),
		})
	}
}

func (c *control) addForeignENI(w http.ResponseWriter, r *http.Request) {
	var in enitest.ForeignENIInput
	if !decode(w, r, &in) {
		return
	}
	e, err := c.cloud.AddForeignENI(in)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	writeJSON(w, e)
}

func (c *control) listFaults(w http.ResponseWriter, _ *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := []addedFault{}
	for _, id := range slices.Sorted(maps.Keys(c.faults)) {
		all = append(all, c.faults[id])
	}
	writeJSON(w, all)
}

func (c *control) listDenials(w http.ResponseWriter, _ *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := []denial{}
	for d := range c.denied {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b denial) int { return strings.Compare(a.Action+" "+a.Caller, b.Action+" "+b.Caller) })
	writeJSON(w, all)
}

func (c *control) addFault(w http.ResponseWriter, r *http.Request) {
	var p faultParam
	if !decode(w, r, &p) {
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
	c.faults[c.serial] = addedFault{c.serial, p, c.cloud.AddFault(f)}
	writeJSON(w, map[string]int{"ID": c.serial})
}

func (c *control) removeFault(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(r.PathValue("id"))
	c.mu.Lock()
	defer c.mu.Unlock()
	added, ok := c.faults[id]
	if err != nil || !ok {
		http.Error(w, "unknown fault", http.StatusNotFound)
		return
	}
	delete(c.faults, id)
	added.remove()
}

// deny returns a handler that takes a permission from a caller, or gives it back.
func (c *control) deny(denied bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var d denial
		if !decode(w, r, &d) {
			return
		}
		if err := (enitest.Fault{Action: d.Action}).Check(); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if denied {
			c.denied[d] = true
			c.cloud.Deny(d.Caller, d.Action)
			return
		}
		delete(c.denied, d)
		c.cloud.Allow(d.Caller, d.Action)
	}
}
