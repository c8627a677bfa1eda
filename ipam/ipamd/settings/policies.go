// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path"
	"sync/atomic"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath/policy"
)

// PolicyFile has the network policies of a file, in the form that NetworkPolicies of
// [Settings] describes. It implements [ipamd.Policies].
type PolicyFile struct {
	path    string
	changed chan struct{}
	content atomic.Pointer[policies] // nil as long as the file cannot be read
}

// policies are the content of the file.
type policies struct {
	Classes map[string]policy.Class
	Pods    []struct {
		// Pod is a pattern of NAMESPACE/NAME, see package path.
		Pod   string
		Class string
	}

	compiled map[string]policy.Compiled
}

// NewPolicyFile returns the policies of a file, which Read reads.
func NewPolicyFile(path string) *PolicyFile {
	return &PolicyFile{path: path, changed: make(chan struct{}, 1)}
}

// Read reads the file, and logs that. After an error the policies stay as they are: unknown
// before the first success.
func (f *PolicyFile) Read(log *slog.Logger) {
	p, err := readPolicies(f.path)
	if err != nil {
		log.Error("network policies stay as they are", "err", err)
		return
	}
	f.content.Store(p)
	select {
	case f.changed <- struct{}{}:
	default:
	}
	log.Info("network policies read", "file", f.path, "classes", len(p.Classes))
}

func readPolicies(file string) (*policies, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	p := &policies{compiled: map[string]policy.Compiled{}}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(p); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for name, c := range p.Classes {
		if p.compiled[name], err = policy.Compile(c); err != nil {
			return nil, fmt.Errorf("%s: class %s: %w", file, name, err)
		}
	}
	for _, entry := range p.Pods {
		if _, err := path.Match(entry.Pod, ""); err != nil {
			return nil, fmt.Errorf("%s: pod %q: %w", file, entry.Pod, err)
		}
		if _, ok := p.compiled[entry.Class]; !ok && entry.Class != "" {
			return nil, fmt.Errorf("%s: pod %q: class %q is not in the file", file, entry.Pod, entry.Class)
		}
	}
	return p, nil
}

// Class returns the class of the first entry that matches the pod.
func (f *PolicyFile) Class(pod cniplugin.Pod) (name string, class policy.Compiled, known bool) {
	p := f.content.Load()
	if p == nil {
		return "", class, false
	}
	for _, entry := range p.Pods {
		if ok, _ := path.Match(entry.Pod, pod.Namespace+"/"+pod.Name); ok {
			return entry.Class, p.compiled[entry.Class], true
		}
	}
	return "", class, true
}

// Changed has a value after the file was read.
func (f *PolicyFile) Changed() <-chan struct{} { return f.changed }
