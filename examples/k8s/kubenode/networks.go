// SPDX-License-Identifier: Apache-2.0

package kubenode

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/examples/k8s/eks"
	"github.com/vpcnet/vpcnet/examples/k8s/internal/mirror"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// Networks are the subnet and the security groups of the pods' ENIs, of the ENIConfig of the
// node. Create them with [NewNetworks].
type Networks struct {
	cfg     Config
	client  dynamic.Interface
	keys    eks.ENIConfigKeys
	node    *Node
	file    string
	changed chan struct{}

	mu      sync.Mutex
	all     map[string]eks.ENIConfig
	known   bool
	present eks.ENIConfig // without a name as long as there is none
}

// NewNetworks returns the networks of a node. The latest ENIConfig that the agent took is in
// the directory of its state, for a start without the API server. A file there that cannot be
// read is logged, and does not count.
func NewNetworks(cfg Config, client dynamic.Interface, keys eks.ENIConfigKeys, node *Node, stateDir string) *Networks {
	n := &Networks{
		cfg: cfg, client: client, keys: keys, node: node, file: filepath.Join(stateDir, "eniconfig.json"),
		changed: make(chan struct{}, 1), all: map[string]eks.ENIConfig{},
	}
	if n.cfg.Logger == nil {
		n.cfg.Logger = slog.New(slog.DiscardHandler)
	}
	text, err := os.ReadFile(n.file)
	if err == nil {
		err = json.Unmarshal(text, &n.present)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.cfg.Logger.Warn("ENIConfig of an earlier agent is not used", "err", err)
	}
	node.subscribe(n.changed)
	return n
}

var eniConfigs = schema.GroupVersionResource{Group: "crd.k8s.amazonaws.com", Version: "v1alpha1", Resource: "eniconfigs"}

// Watch watches the ENIConfigs until ctx ends, and then returns nil. As long as the API server
// does not answer, Watch tries again. It must be called once.
func (n *Networks) Watch(ctx context.Context) error {
	mirror.Follow(n.cfg.logged(ctx), n.client, n.client.Resource(eniConfigs), mirror.Kind[*unstructured.Unstructured, eks.ENIConfig]{
		Object: &unstructured.Unstructured{}, Convert: eniConfigOf, Apply: n.apply,
	})
	return nil
}

func eniConfigOf(x *unstructured.Unstructured) eks.ENIConfig {
	// A field of another type than that of the schema counts as absent.
	subnet, _, _ := unstructured.NestedString(x.Object, "spec", "subnet")
	groups, _, _ := unstructured.NestedStringSlice(x.Object, "spec", "securityGroups")
	return eks.ENIConfig{Name: x.GetName(), Subnet: subnet, Groups: groups}
}

func (n *Networks) apply(c mirror.Change[eks.ENIConfig]) {
	n.mu.Lock()
	for _, key := range c.Gone {
		delete(n.all, key.Name)
	}
	for _, x := range c.Set {
		n.all[x.Name] = x
	}
	n.known = true
	n.mu.Unlock()
	signal(n.changed)
}

// Run calls apply, which must use Adjust, when the node has another ENIConfig than before, until
// ctx ends. It then returns nil. After an error the ENIConfig of before counts, and Run calls
// apply again after half a minute. It also counts as long as the ENIConfig that the node asks
// for does not exist, or has no subnet.
func (n *Networks) Run(ctx context.Context, apply func(context.Context) error) error {
	return each(ctx, n.changed, func() error { return n.follow(ctx, apply) })
}

func (n *Networks) follow(ctx context.Context, apply func(context.Context) error) error {
	node, known := n.node.value()
	n.mu.Lock()
	before := n.present
	next, err := n.keys.Choose(node, n.all)
	if known = known && n.known; known && err == nil {
		n.present = next
	}
	n.mu.Unlock()
	switch {
	case !known:
		return nil
	case err != nil:
		n.cfg.Logger.Error("the pods' subnet stays as it is", "eniconfig", before.Name, "err", err)
		return nil // until one of the objects changes
	case reflect.DeepEqual(before, next):
		return nil
	}
	if err := apply(ctx); err != nil {
		n.cfg.Logger.Error("the pods' subnet stays as it is", "eniconfig", before.Name, "refused", next.Name, "err", err)
		n.mu.Lock()
		n.present = before
		n.mu.Unlock()
		return err
	}
	n.cfg.Logger.Info("pods have another subnet", "eniconfig", next.Name, "subnet", next.Subnet, "groups", next.Groups)
	if err := n.save(next); err != nil {
		n.cfg.Logger.Warn("ENIConfig is not kept for the next start", "err", err)
	}
	return nil
}

// save writes the file. A file that is incomplete does not parse, and does not count.
func (n *Networks) save(c eks.ENIConfig) error {
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return os.WriteFile(n.file, text, 0o600)
}

// Adjust sets the subnets and the groups of a configuration. The primary ENI then has no pods.
// Without an ENIConfig no ENI can be created, and existing ones keep their groups.
func (n *Networks) Adjust(cfg *ipamd.Config) {
	n.mu.Lock()
	defer n.mu.Unlock()
	cfg.NoPrimaryPods = true
	cfg.Subnets, cfg.Groups = noNetwork{}, noNetwork{}
	if c := n.present; c.Name != "" {
		networks := ipamd.Networks{Name: c.Name, ByName: map[string]eni.Placement{c.Name: {Subnets: []string{c.Subnet}, Groups: c.Groups}}}
		cfg.Subnets, cfg.Groups = networks, networks
	}
}

// noNetwork selects no subnet, and no groups.
type noNetwork struct{}

// Query returns false.
func (noNetwork) Query(eni.Instance) (q eni.SubnetQuery, ok bool) { return q, false }

// Order returns none.
func (noNetwork) Order(eni.Instance, []eni.Subnet) []eni.Subnet { return nil }

// Groups returns none.
func (noNetwork) Groups(eni.Instance, string, eni.Kind) []string { return nil }
