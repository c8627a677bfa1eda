// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// object is a Kubernetes object as JSON.
type object map[string]any

// resource is a kind of objects that kube-proxy reads, by the path of its list. See
// https://kubernetes.io/docs/reference/using-api/api-concepts/ for lists and watches.
type resource struct {
	path, apiVersion, kind string
}

var (
	services       = resource{"/api/v1/services", "v1", "Service"}
	nodes          = resource{"/api/v1/nodes", "v1", "Node"}
	endpointSlices = resource{"/apis/discovery.k8s.io/v1/endpointslices", "discovery.k8s.io/v1", "EndpointSlice"}
	serviceCIDRs   = resource{"/apis/networking.k8s.io/v1/servicecidrs", "networking.k8s.io/v1", "ServiceCIDR"}
)

// api serves lists and watches of objects. Objects are added and never change.
type api struct {
	mu      sync.Mutex
	objects []added
	changed chan struct{} // closed by the next change
}

// added is an object; its version is its position in api.objects plus one.
type added struct {
	of     resource
	object object
}

// startAPI starts an API server on lo of a host and returns its URL.
func startAPI(t *testing.T, at *vpctest.Host) (a *api, url string) {
	t.Helper()
	a = &api{changed: make(chan struct{})}
	mux := http.NewServeMux()
	for _, r := range []resource{services, nodes, endpointSlices, serviceCIDRs} {
		mux.HandleFunc("GET "+r.path, func(w http.ResponseWriter, req *http.Request) { a.serve(w, req, r) })
	}
	mux.HandleFunc("POST /", func(w http.ResponseWriter, req *http.Request) { // events
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write([]byte(`{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"e","namespace":"default"}}`))
	})
	l := at.Listen(t, netip.MustParseAddrPort("127.0.0.1:0"))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	t.Cleanup(func() { _ = server.Close() })
	go func() { _ = server.Serve(l) }()
	return a, "http://" + l.Addr().String()
}

// add adds an object. It sets the fields that each object of the resource has.
func (a *api) add(r resource, name string, metadata, o object) {
	a.mu.Lock()
	defer a.mu.Unlock()
	version := len(a.objects) + 1
	m := object{"name": name, "uid": fmt.Sprint(version), "resourceVersion": fmt.Sprint(version), "creationTimestamp": "2026-01-01T00:00:00Z"}
	if r != nodes {
		m["namespace"] = "default"
	}
	for k, v := range metadata {
		m[k] = v
	}
	o["apiVersion"], o["kind"], o["metadata"] = r.apiVersion, r.kind, m
	a.objects = append(a.objects, added{r, o})
	close(a.changed)
	a.changed = make(chan struct{})
}

// after returns the objects of a resource with a version after the given one, the last
// version, and what is closed by the next change.
func (a *api) after(r resource, version int) (found []object, last int, changed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range a.objects[version:] {
		if o.of == r {
			found = append(found, o.object)
		}
	}
	return found, len(a.objects), a.changed
}

// serve answers a list or a watch.
func (a *api) serve(w http.ResponseWriter, req *http.Request, r resource) {
	w.Header().Set("Content-Type", "application/json")
	q := req.URL.Query()
	enc := json.NewEncoder(w)
	if q.Get("watch") == "" {
		items, last, _ := a.after(r, 0)
		if items == nil {
			items = []object{}
		}
		_ = enc.Encode(object{"apiVersion": r.apiVersion, "kind": r.kind + "List", "metadata": object{"resourceVersion": fmt.Sprint(last)}, "items": items})
		return
	}
	initial := q.Get("sendInitialEvents") == "true"
	version, err := strconv.Atoi(q.Get("resourceVersion"))
	if initial || err != nil {
		version = 0
	}
	for {
		items, last, changed := a.after(r, version)
		for _, o := range items {
			if enc.Encode(object{"type": "ADDED", "object": o}) != nil {
				return
			}
		}
		if initial {
			end := object{"resourceVersion": fmt.Sprint(last), "annotations": object{"k8s.io/initial-events-end": "true"}}
			_ = enc.Encode(object{"type": "BOOKMARK", "object": object{"apiVersion": r.apiVersion, "kind": r.kind, "metadata": end}})
		}
		version, initial = last, false
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-changed:
		case <-req.Context().Done():
			return
		}
	}
}
