// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// The paths of lists.
const (
	namespacesPath = "/api/v1/namespaces"
	podsPath       = "/api/v1/pods"
	policiesPath   = "/apis/networking.k8s.io/v1/networkpolicies"
	clusterPath    = "/apis/policy.networking.k8s.io/v1beta1/clusternetworkpolicies"
	nodesPath      = "/api/v1/nodes"
	eniConfigsPath = "/apis/crd.k8s.amazonaws.com/v1alpha1/eniconfigs"
	configMapsPath = "/api/v1/namespaces/kube-system/configmaps"
)

// kinds are the apiVersion and the kind of the objects of a path.
var kinds = map[string]metav1.TypeMeta{
	namespacesPath: {APIVersion: "v1", Kind: "Namespace"},
	podsPath:       {APIVersion: "v1", Kind: "Pod"},
	policiesPath:   {APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"},
	clusterPath:    {APIVersion: "policy.networking.k8s.io/v1beta1", Kind: "ClusterNetworkPolicy"},
	nodesPath:      {APIVersion: "v1", Kind: "Node"},
	eniConfigsPath: {APIVersion: "crd.k8s.amazonaws.com/v1alpha1", Kind: "ENIConfig"},
	configMapsPath: {APIVersion: "v1", Kind: "ConfigMap"},
}

// api is an API server with lists and watches. See
// https://kubernetes.io/docs/reference/using-api/api-concepts/.
type api struct {
	at     *vpctest.Host
	addr   netip.AddrPort
	server *http.Server

	mu      sync.Mutex
	events  []event
	written []*corev1.Event // by clients
	changed chan struct{}   // closed by the next event
}

// event is a change of an object.
type event struct {
	path    string
	kind    string // of watch events
	object  metav1.Object
	version int // its position plus one
}

// newAPI returns an API server on lo of a host, which does not run, and the path of the file
// with its address.
func newAPI(t *testing.T, at *vpctest.Host) (a *api, config string) {
	t.Helper()
	a = &api{at: at, addr: netip.MustParseAddrPort("127.0.0.1:8001"), changed: make(chan struct{})}
	config = t.TempDir() + "/config"
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c"}}],"clusters":[{"name":"c","cluster":{"server":"http://%s"}}]}`, a.addr)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return a, config
}

// start lets the server answer until stop.
func (a *api) start(t *testing.T) {
	t.Helper()
	mux := http.NewServeMux()
	for path := range kinds {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, req *http.Request) { a.serve(w, req, path) })
	}
	mux.HandleFunc("POST /api/v1/namespaces/default/events", a.create)
	l := a.at.Listen(t, a.addr)
	a.server = &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	t.Cleanup(a.stop)
	go func() { _ = a.server.Serve(l) }()
}

// create adds an event of a client.
func (a *api) create(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	var o runtime.Object
	if err == nil {
		o, _, err = scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	}
	e, ok := o.(*corev1.Event)
	if !ok {
		http.Error(w, fmt.Sprint(err), http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.written = append(a.written, e)
	e.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Event"}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(e)
}

// stop ends the server and its connections.
func (a *api) stop() { _ = a.server.Close() }

// set adds or replaces an object.
func (a *api) set(path string, o metav1.Object) {
	a.add(event{path: path, kind: "MODIFIED", object: o})
}

// remove deletes an object.
func (a *api) remove(path string, o metav1.Object) {
	a.add(event{path: path, kind: "DELETED", object: o})
}

func (a *api) add(e event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e.version = len(a.events) + 1
	e.object.SetResourceVersion(fmt.Sprint(e.version))
	kind := kinds[e.path]
	e.object.(runtime.Object).GetObjectKind().SetGroupVersionKind(kind.GroupVersionKind())
	a.events = append(a.events, e)
	close(a.changed)
	a.changed = make(chan struct{})
}

// after returns the events of a path after a version that a field selector selects. An object
// that it does not select any more is deleted for the client. has are the objects that the
// client has.
func (a *api) after(path, selector string, has map[string]bool, version int) (found []event, last int, changed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.events[version:] {
		if e.path != path {
			continue
		}
		key := e.object.GetNamespace() + "/" + e.object.GetName()
		selected := e.kind != "DELETED" && selects(selector, e.object)
		if !selected {
			e.kind = "DELETED"
		}
		if selected || has[key] {
			found = append(found, e)
		}
		has[key] = selected
	}
	return found, len(a.events), a.changed
}

// selects reports whether a field selector selects an object.
func selects(selector string, o metav1.Object) bool {
	fields := map[string]string{"metadata.name": o.GetName(), "metadata.namespace": o.GetNamespace()}
	if p, ok := o.(*corev1.Pod); ok {
		fields["spec.nodeName"], fields["status.phase"] = p.Spec.NodeName, string(p.Status.Phase)
	}
	for _, term := range strings.Split(selector, ",") {
		name, value, equal := strings.Cut(term, "=")
		name, unequal := strings.CutSuffix(name, "!")
		if got, ok := fields[name]; equal && (!ok || (got == value) == unequal) {
			return false
		}
	}
	return true
}

// serve answers a list or a watch. It refuses a watch that begins with all objects, as old API
// servers do; clients then ask for a list.
func (a *api) serve(w http.ResponseWriter, req *http.Request, path string) {
	w.Header().Set("Content-Type", "application/json")
	q := req.URL.Query()
	selector := q.Get("fieldSelector")
	enc := json.NewEncoder(w)
	if q.Get("sendInitialEvents") != "" {
		w.WriteHeader(http.StatusUnprocessableEntity)
		_ = enc.Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Reason: metav1.StatusReasonInvalid, Code: http.StatusUnprocessableEntity})
		return
	}
	if q.Get("watch") == "" {
		events, last, _ := a.after(path, selector, map[string]bool{}, 0)
		objects := map[string]metav1.Object{}
		for _, e := range events {
			key := e.object.GetNamespace() + "/" + e.object.GetName()
			if objects[key] = e.object; e.kind == "DELETED" {
				delete(objects, key)
			}
		}
		items := []metav1.Object{}
		for _, o := range objects {
			items = append(items, o)
		}
		_ = enc.Encode(map[string]any{"apiVersion": kinds[path].APIVersion, "kind": kinds[path].Kind + "List", "metadata": map[string]string{"resourceVersion": fmt.Sprint(last)}, "items": items})
		return
	}
	has := map[string]bool{}
	var version int
	if _, err := fmt.Sscan(q.Get("resourceVersion"), &version); err != nil {
		version = 0
	}
	for sent := 0; ; {
		events, last, changed := a.after(path, selector, has, sent)
		sent = last
		for _, e := range events {
			if e.version <= version {
				continue // the client has it from its list
			}
			if enc.Encode(map[string]any{"type": e.kind, "object": e.object}) != nil {
				return
			}
		}
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
