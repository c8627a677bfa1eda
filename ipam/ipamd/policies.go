// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath/policy"
	"github.com/vpcnet/vpcnet/ipam"
)

// Policies knows what pods may receive and send. Its methods are called from several
// goroutines, and must be quick: the runtime waits for them.
type Policies interface {
	// Class returns the class of a pod and the name of the class, "" if no policy selects
	// the pod. Classes with the same name are the same. The name "unknown" is taken. It
	// returns false if it does not know yet; then the pod keeps the class that it had, also
	// that of an earlier agent, and a new pod is treated as PolicyMode says. If other pods
	// have a class of that name, the pod has theirs.
	Class(pod cniplugin.Pod) (name string, class policy.Compiled, known bool)
	// Changed has a value when Class may return something else for pods of the node.
	Changed() <-chan struct{}
}

// PolicyMode says what a new pod may do as long as its class is not known. The words are
// those of amazon-vpc-cni-k8s: NETWORK_POLICY_ENFORCING_MODE.
type PolicyMode string

// The modes.
const (
	// PolicyStandard lets the pod receive and send everything.
	PolicyStandard PolicyMode = "standard"
	// PolicyStrict lets it receive and send nothing, except from and to its node.
	PolicyStrict PolicyMode = "strict"
	// PolicyNone enforces no policies: Policies is not used.
	PolicyNone PolicyMode = "none"
)

// unknownClass is the name of the class of new pods with [PolicyStrict]. No class of
// Policies may have it.
const unknownClass = "unknown"

// policyTime bounds the change of the table after a DEL.
const policyTime = 10 * time.Second

// ErrPolicyMode is wrapped by the errors for pods whose packets to some peers pass by the
// forward hook of the node, in which policies are enforced: those on a bridge, with an
// ipvlan link, and with an ENI of their own. A pod that a policy isolates cannot have such a
// mode.
var ErrPolicyMode = errors.New("network policies need a pod with a veth pair or a branch ENI")

// enforcer keeps the classes of the node's pods in the kernel.
type enforcer struct {
	policies Policies // nil if there are none
	mode     PolicyMode
	logLimit uint64
	table    *policy.Handle
	pods     func() []policyPod
	log      *slog.Logger

	// limit returns when all packets of pods for which limits is true pass the table.
	limit func(context.Context) error
	// open has the addresses of the pods that the table does not limit.
	open atomic.Pointer[map[netip.Addr]bool]

	// shown is the last of applied, for what must not wait.
	shown atomic.Pointer[policy.State]

	mu      sync.Mutex
	applied policy.State
	// refused has the pods whose class cannot be enforced, which were logged.
	refused map[ipam.Attachment]bool
}

// policyPod is a pod as the enforcer sees it.
type policyPod struct {
	attachment ipam.Attachment
	pod        cniplugin.Pod
	kind       podKind
	addrs      []netip.Addr
}

// openEnforcer opens the table in the namespace of the node. It changes nothing.
func openEnforcer(ctx context.Context, cfg *Config) (*enforcer, error) {
	table, err := policy.Open("")
	if err != nil {
		return nil, err
	}
	e := &enforcer{policies: cfg.Policies, mode: cfg.PolicyMode, logLimit: uint64(cfg.PolicyLogLimit), table: table, log: cfg.Logger, refused: map[ipam.Attachment]bool{}, limit: func(context.Context) error { return nil }}
	if cfg.PolicyMode == PolicyNone {
		e.policies = nil
	}
	if e.policies == nil {
		return e, nil
	}
	if e.applied, _, err = table.Observe(ctx); err != nil {
		return nil, errors.Join(err, table.Close())
	}
	return e, nil
}

// start makes the table hold the classes of all pods, before the first request is answered.
// Without policies it removes the table of an earlier agent. What keeps it from that, such as a
// missing permission, keeps the links from becoming ready too, so the agent goes on and says so.
func (e *enforcer) start(ctx context.Context) error {
	if e.policies == nil {
		if err := e.table.Remove(ctx); err != nil {
			e.log.Warn("the table of network policies is not removed", "err", err)
		}
		return nil
	}
	return e.enforce(ctx)
}

// run repairs the table and follows the policies until ctx ends.
func (e *enforcer) run(ctx context.Context) error {
	if e.policies == nil {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := e.table.Watch(ctx, policy.WatchConfig{Logger: e.log}); ctx.Err() == nil {
			return err
		}
		return nil
	})
	g.Go(func() error {
		for {
			select {
			case <-e.policies.Changed():
			case <-ctx.Done():
				return nil
			}
			if err := e.enforce(ctx); err != nil && ctx.Err() == nil {
				e.log.Error("network policies not applied", "err", err)
			}
		}
	})
	if e.logLimit > 0 {
		g.Go(func() error {
			if err := e.table.Denials(ctx, e.logDenial); ctx.Err() == nil {
				e.log.Warn("packets that network policies deny are not logged", "err", err)
			}
			return nil
		})
	}
	return g.Wait()
}

// logDenial logs a packet that a policy has denied.
func (e *enforcer) logDenial(d policy.Denial) {
	addr := d.Flow.Dst
	if d.Direction == policy.Egress {
		addr = d.Flow.Src
	}
	var pod cniplugin.Pod
	for _, p := range e.pods() {
		if slices.Contains(p.addrs, addr) {
			pod = p.pod
		}
	}
	e.log.Warn("network policy denied a packet", "pod", pod, "class", d.Class, "direction", d.Direction.String(), "source", d.Flow.Src,
		"destination", d.Flow.Dst, "protocol", d.Flow.Protocol.String(), "port", d.Flow.Port, "reply", d.Reply)
}

// describe adds the classes of pods and what they have denied. It does not wait for changes of
// the table.
func (e *enforcer) describe(s *Status) {
	state := e.shown.Load()
	if state == nil {
		return
	}
	for i, p := range s.Allocations {
		s.Allocations[i].Class = state.Pods[p.Addr]
	}
	var err error
	if s.Denied, err = e.table.Denied(); err != nil {
		e.log.Debug("denied packets not counted", "err", err)
	}
}

// enforce makes the table hold the classes of all pods.
func (e *enforcer) enforce(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	want := policy.State{Classes: map[string]policy.Compiled{}, Pods: map[netip.Addr]string{}, LogLimit: e.logLimit}
	refused := map[ipam.Attachment]bool{}
	for _, p := range e.pods() {
		name, class, known, decided := e.classOf(p)
		if !decided {
			continue
		}
		if !enforceable(p.kind) && isolates(class) {
			refused[p.attachment] = true
			if !e.refused[p.attachment] {
				e.log.Error("network policy not enforced", "pod", p.pod, "class", name, "err", modeError(p))
			}
			continue
		}
		if _, has := want.Classes[name]; name != "" && (known || !has) {
			want.Classes[name] = class // that of Policies, if other pods have it from before
		}
		for _, a := range p.addrs {
			want.Pods[a] = name
		}
	}
	e.refused = refused
	open := openPods(want)
	if err := e.limitBefore(ctx, open); err != nil {
		return err
	}
	if _, err := e.table.Apply(ctx, want); err != nil {
		return err
	}
	e.applied = want
	e.open.Store(&open)
	e.shown.Store(&want)
	return nil
}

// limits reports whether packets to and from an address must pass the table.
func (e *enforcer) limits(a netip.Addr) bool {
	open := e.open.Load()
	return e.policies != nil && (open == nil || !(*open)[a])
}

// openPods returns the addresses that a State does not limit.
func openPods(s policy.State) map[netip.Addr]bool {
	open := map[netip.Addr]bool{}
	for a, name := range s.Pods {
		open[a] = !isolates(s.Classes[name])
	}
	return open
}

// limitBefore makes all packets of pods that a new table limits pass it, before it is there.
func (e *enforcer) limitBefore(ctx context.Context, next map[netip.Addr]bool) error {
	both := map[netip.Addr]bool{}
	if before := e.open.Load(); before != nil {
		for a := range *before {
			both[a] = (*before)[a] && next[a]
		}
	}
	e.open.Store(&both)
	return e.limit(ctx)
}

// classOf returns the class that a pod must have, "" if nothing limits it, and whether Policies
// knows it. Nothing is decided for a pod that is open only because its class is not known. The table remembers decisions,
// so that pods keep their classes when an agent starts before it knows the policies.
func (e *enforcer) classOf(p policyPod) (name string, class policy.Compiled, known, decided bool) {
	if name, class, known := e.policies.Class(p.pod); known {
		return name, class, true, true
	}
	for _, a := range p.addrs {
		if name, had := e.applied.Pods[a]; had && name != unknownClass {
			return name, e.applied.Classes[name], false, true
		}
	}
	if e.mode == PolicyStrict {
		return unknownClass, denyAll(), false, true
	}
	return "", policy.Compiled{}, false, false
}

// denyAll returns the class that isolates a pod and allows nothing.
func denyAll() policy.Compiled {
	isolated := policy.Rules{Isolated: true}
	c, err := policy.Compile(policy.Class{Ingress: isolated, Egress: isolated})
	if err != nil {
		panic(err) // a class without rules
	}
	return c
}

// admit makes the table hold the class of a new pod, before its ADD is answered.
func (e *enforcer) admit(ctx context.Context, p policyPod) error {
	if name, class := e.classLocked(p); isolates(class) && !enforceable(p.kind) {
		return &cniplugin.AgentError{
			Code: cniplugin.CodeInvalidConfig, Message: modeError(p).Error(),
			Details: fmt.Sprintf("the pod has the class %q, which isolates it", name),
		}
	}
	return e.enforce(ctx)
}

func (e *enforcer) classLocked(p policyPod) (string, policy.Compiled) {
	e.mu.Lock()
	defer e.mu.Unlock()
	name, class, _, _ := e.classOf(p)
	return name, class
}

func isolates(c policy.Compiled) bool { return c.Isolated(policy.Ingress) || c.Isolated(policy.Egress) }

// enforceable reports whether all packets of pods of a kind pass the forward hook.
func enforceable(k podKind) bool { return k == kindVeth || k == kindBranch }

func modeError(p policyPod) error {
	return fmt.Errorf("%w: it has %s", ErrPolicyMode, kindNames[p.kind])
}

// policyPods returns the pods that hold addresses.
func (b *Backend) policyPods() []policyPod {
	byAttachment := map[ipam.Attachment]*policyPod{}
	var order []*policyPod
	add := func(a ipam.Allocation, kind podKind) {
		at := b.owner(a.Attachment)
		p := byAttachment[at]
		if p == nil {
			p = &policyPod{attachment: at, pod: cniplugin.Pod(a.Pod), kind: kind}
			byAttachment[at], order = p, append(order, p)
		}
		p.addrs = append(p.addrs, a.Addr)
	}
	for _, r := range b.own.all() {
		for _, a := range r.allocations() {
			add(a, r.Kind)
		}
	}
	for a := range b.cfg.Pool.Allocations() {
		if r, ok := b.own.record(a.Attachment); !ok || !r.complete() {
			add(a, kindVeth)
		}
	}
	pods := make([]policyPod, len(order))
	for i, p := range order {
		pods[i] = *p
	}
	return pods
}

// policyPod returns one of the pods that hold addresses.
func (b *Backend) policyPod(at ipam.Attachment) policyPod {
	for _, p := range b.policyPods() {
		if p.attachment == at {
			return p
		}
	}
	return policyPod{attachment: at}
}
