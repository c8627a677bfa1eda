// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/internal/race"
)

var (
	seeds = flag.Int("seeds", seedsUnlessRace(400), "number of seeds of TestModel")
	seed  = flag.Uint64("seed", 0, "run TestModel with this seed only, with a log")
)

// seedsUnlessRace returns n, or a quarter of it with the race detector, see package race.
func seedsUnlessRace(n int) int {
	if race.Enabled {
		return n / 4
	}
	return n
}

// TestModel drives a Manager with random operations against a cloud that lags,
// throttles, loses answers and refuses calls, and kills the process between and
// within calls. The invariants must hold after each operation. When the faults end,
// all operations must finish without a leak.
func TestModel(t *testing.T) {
	if *seed != 0 {
		synctest.Test(t, func(t *testing.T) { newModel(t, *seed, true).run() })
		return
	}
	shards := uint64(runtime.GOMAXPROCS(0))
	for shard := range shards {
		t.Run(fmt.Sprint(shard), func(t *testing.T) {
			t.Parallel()
			for s := shard + 1; s <= uint64(*seeds); s += shards {
				synctest.Test(t, func(t *testing.T) {
					t.Cleanup(func() {
						if t.Failed() {
							t.Logf("run again with -seed %d", s)
						}
					})
					newModel(t, s, false).run()
				})
			}
		})
	}
}

// model is a world with one node, and what the node's address pool would know.
type model struct {
	*world
	rnd     *rand.Rand
	verbose bool
	inst    enitest.Instance
	foreign map[string]enitest.ENI
	journal *killable
	m       *eni.Manager
	// used are the blocks that pods have, by ENI. They survive a kill, like the
	// pool's own journal.
	used map[string]map[netip.Prefix]bool
	// trunk is the trunk ENI, if there is one. branches are those of its branches
	// that CreateBranch returned and that are not yet retired.
	trunk    string
	branches []eni.Branch
	// faults are functions that remove the active faults.
	faults []func()
	// fuse is how many points are left until the process is killed. 0 means never.
	fuse int
	mu   sync.Mutex // guards fuse while both sources are asked
}

// killed is the value of the panic that simulates a kill of the process.
type killed struct{}

// killable is a journal in memory. Each Put is a point where the process can be
// killed.
type killable struct {
	*eni.Memory
	burn func()
}

func (k *killable) Put(ctx context.Context, in eni.Intent) error {
	k.burn()
	return k.Memory.Put(ctx, in)
}

func newModel(t *testing.T, seed uint64, verbose bool) *model {
	rnd := rand.New(rand.NewPCG(seed, 1))
	seconds := func(most int) time.Duration { return time.Duration(rnd.IntN(most+1)) * time.Second }
	cfg := enitest.Config{
		Delays: enitest.Delays{Attach: seconds(5), Detach: seconds(8), Call: time.Duration(rnd.IntN(300)) * time.Millisecond},
		Lag:    enitest.Lag{Describe: seconds(110), Write: seconds(4), Metadata: seconds(110)},
	}
	x := &model{
		world: newWorld(t, cfg), rnd: rnd, verbose: verbose,
		foreign: map[string]enitest.ENI{}, used: map[string]map[netip.Prefix]bool{},
	}
	x.inst = x.runInstance()
	x.journal = &killable{Memory: eni.NewMemory(), burn: x.burn}
	time.Sleep(5 * time.Minute)
	x.addForeign()
	x.boot()
	return x
}

// runInstance starts the instance. Some types have few slots.
func (x *model) runInstance() enitest.Instance {
	kinds := []string{"m5.large", "t3.medium", "m5.xlarge"}
	return x.world.run(kinds[x.rnd.IntN(len(kinds))])
}

// burn is called at every point where the process can be killed.
func (x *model) burn() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.fuse == 0 {
		return
	}
	if x.fuse--; x.fuse == 0 {
		panic(killed{})
	}
}

// wrap adds two points where the process can be killed to each call to EC2: before
// and after it.
func (x *model) wrap(rt http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Hostname() == "169.254.169.254" {
			return rt.RoundTrip(r)
		}
		x.burn()
		resp, err := rt.RoundTrip(r)
		x.burn()
		return resp, err
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// boot starts a new process.
func (x *model) boot() {
	cfg := fast
	cfg.Random = x.rnd.Float64
	cfg.Attempts = 3
	x.m = x.manager(x.inst, eni.Config{
		Client:  eni.NewClient(x.config(x.inst.ID, x.wrap), cfg),
		Intents: x.journal,
		InUse:   inUse(func(id string, b netip.Prefix) bool { return x.used[id][b] }),
		NewToken: func() string {
			return fmt.Sprintf("t%d-%d", x.rnd.Uint64(), time.Now().UnixNano())
		},
	})
}

// addForeign creates an ENI that the Manager must not change: one that is not
// attached, or one that is attached to the instance and tagged with TagNoManage.
func (x *model) addForeign() {
	api := ec2.NewFromConfig(x.config(x.inst.ID, nil))
	out, err := api.CreateNetworkInterface(x.t.Context(), &ec2.CreateNetworkInterfaceInput{
		SubnetId: aws.String(x.subnet.ID), SecondaryPrivateIpAddressCount: aws.Int32(2),
	})
	x.check(err)
	id := *out.NetworkInterface.NetworkInterfaceId
	time.Sleep(10 * time.Second)
	device := 1
	for _, e := range x.attached(x.inst.ID) {
		device = max(device, e.Attachment.Device+1)
	}
	if x.rnd.IntN(2) == 0 {
		x.check(x.AddTags(id, map[string]string{eni.TagNoManage: "true", eni.TagOwner: "vpcnet", eni.TagInstance: x.inst.ID}))
		_, err = api.AttachNetworkInterface(x.t.Context(), &ec2.AttachNetworkInterfaceInput{
			NetworkInterfaceId: &id, InstanceId: &x.inst.ID, DeviceIndex: aws.Int32(int32(device)),
		})
		x.log("foreign %s attached at %d: %v", id, device, err)
		time.Sleep(10 * time.Second)
	}
	x.foreign[id], _ = x.ENI(id)
}

// log logs with the fake time if the test runs a single seed.
func (x *model) log(format string, args ...any) {
	if x.verbose {
		x.t.Logf("%s  "+format, append([]any{time.Now().Format("04:05.000")}, args...)...)
	}
}

func (x *model) run() {
	for range 25 {
		x.addFaults()
		x.operate()
		x.verify()
		time.Sleep(time.Duration(x.rnd.IntN(40)) * time.Second)
	}
	x.checkEnd()
}

// addFaults lights the fuse or adds faults to the next calls, at random.
func (x *model) addFaults() {
	if x.rnd.IntN(3) == 0 {
		x.fuse = 1 + x.rnd.IntN(12)
	}
	for range x.rnd.IntN(4) {
		x.faults = append(x.faults, x.AddFault(x.fault()))
	}
}

// fault returns a random fault.
func (x *model) fault() enitest.Fault {
	f := enitest.Fault{Action: "*", Skip: x.rnd.IntN(5), Times: 1 + x.rnd.IntN(2)}
	switch x.rnd.IntN(6) {
	case 5:
		f.Err = &enitest.APIError{Code: "UnauthorizedOperation", Message: "not you", Status: 403}
	case 0:
		f.Drop = true
	case 1:
		f.Hang = true
	case 2:
		f.Err = &enitest.APIError{Code: "InternalError", Message: "try again", Status: 500}
	case 3:
		f.Err = &enitest.APIError{Code: "RequestLimitExceeded", Message: "slower", Status: 503}
	case 4:
		f.Delay = time.Duration(x.rnd.IntN(15)) * time.Second
	}
	return f
}

// operate runs one random operation. If the process is killed, it starts a new one.
func (x *model) operate() {
	defer func() {
		x.fuse = 0
		switch p := recover(); p {
		case nil:
		case killed{}:
			x.log("killed")
			x.boot()
			x.resume()
		default:
			panic(p)
		}
	}()
	ctx, cancel := context.WithTimeout(x.t.Context(), time.Duration(5+x.rnd.IntN(200))*time.Second)
	defer cancel()
	switch x.rnd.IntN(11) {
	case 9:
		x.branch(ctx)
	case 10:
		due, err := x.m.Check(ctx)
		changes, rerr := x.m.Reconcile(ctx)
		x.log("check: due %v, %v; reconcile: %d changes, %v", due, err, changes, rerr)
	case 0, 1:
		e, err := x.m.Provision(ctx, eni.ProvisionInput{Slots: x.rnd.IntN(6), Prefixes: x.rnd.IntN(2) == 0, Singles: x.rnd.IntN(3)})
		x.log("provision %s %v: %v", e.ID, e.Blocks(), err)
		if err == nil && (!e.ForPods() || e.Device == 0 || e.Attachment == "" || !e.DeleteOnTermination || !e.Subnet.IsValid()) {
			x.t.Errorf("the new ENI is not complete: %+v", e)
		}
	case 2:
		if id := x.pick(); id != "" {
			err := x.m.Retire(ctx, id)
			x.log("retire %s: %v", id, err)
			x.checkReason(err)
		}
	case 3, 4:
		if id := x.pick(); id != "" {
			got, err := x.m.Assign(ctx, eni.AssignInput{ENI: id, Slots: 1 + x.rnd.IntN(4), Prefixes: x.rnd.IntN(3) == 0, Singles: x.rnd.IntN(2)})
			x.log("assign %s %v: %v", id, got, err)
		}
	case 5, 6:
		x.unassign(ctx)
	case 7:
		x.resume()
	case 8:
		inv, err := x.m.Discover(ctx)
		x.log("discover %v: %v (%v)", slots(inv), err, inv.EC2Err)
	}
	x.allocate()
}

// branch creates the trunk or a branch, or retires a branch.
func (x *model) branch(ctx context.Context) {
	switch {
	case x.trunk == "":
		e, err := x.m.Provision(ctx, eni.ProvisionInput{Kind: eni.KindTrunk})
		x.log("trunk %s: %v", e.ID, err)
		if err == nil && e.Kind == eni.KindTrunk { // it may have finished another ENI
			x.trunk = e.ID
		}
	case len(x.branches) > 0 && x.rnd.IntN(2) == 0:
		b := x.branches[0]
		x.branches = x.branches[1:]
		err := x.m.RetireBranch(ctx, b)
		x.log("retire branch %+v: %v", b, err)
	default:
		_, b, err := x.m.CreateBranch(ctx, eni.BranchInput{Trunk: x.trunk})
		x.log("branch %+v: %v", b, err)
		if err == nil {
			x.branches = append(x.branches, b)
		}
		if errors.Is(err, eni.ErrNotFound) {
			x.trunk = "" // retired by the other branch of operate
		}
	}
}

// pick chooses an ENI: usually one that the node created, sometimes the primary or a
// foreign one.
func (x *model) pick() string {
	var ids []string
	for _, e := range x.m.Inventory().ENIs {
		ids = append(ids, e.ID)
	}
	ids = append(ids, slices.Sorted(maps.Keys(x.foreign))...)
	return ids[x.rnd.IntN(len(ids))]
}

func (x *model) unassign(ctx context.Context) {
	id := x.pick()
	e, ok := x.m.Inventory().ENI(id)
	if !ok {
		return
	}
	blocks := e.Blocks()
	x.rnd.Shuffle(len(blocks), func(i, j int) { blocks[i], blocks[j] = blocks[j], blocks[i] })
	blocks = blocks[:min(len(blocks), x.rnd.IntN(3))]
	err := x.m.Unassign(ctx, eni.UnassignInput{ENI: id, Blocks: blocks})
	x.log("unassign %s %v: %v", id, blocks, err)
	x.checkReason(err)
}

// checkReason checks that the error of an operation carries a reason.
func (x *model) checkReason(err error) {
	var op *eni.OpError
	if err != nil && !errors.As(err, &op) && !errors.Is(err, context.DeadlineExceeded) {
		x.t.Errorf("error without a reason: %v", err)
	}
}

// resume does what a node does at its start.
func (x *model) resume() {
	err := x.m.Resume(x.t.Context())
	x.log("resume: %v", err)
	_, err = x.m.Discover(x.t.Context())
	x.log("discover: %v %v", slots(x.m.Inventory()), err)
}

// allocate gives some blocks of the inventory to pods, and takes some back.
func (x *model) allocate() {
	for _, e := range x.m.Inventory().ENIs {
		if !e.ForPods() {
			continue
		}
		for _, b := range e.Blocks() {
			if x.rnd.IntN(3) != 0 {
				continue
			}
			if x.used[e.ID] == nil {
				x.used[e.ID] = map[netip.Prefix]bool{}
			}
			x.used[e.ID][b] = true
		}
	}
	for id, blocks := range x.used {
		for b := range blocks {
			if (uint64(b.Addr().As16()[15])+uint64(time.Now().UnixNano()))%3 == 0 {
				delete(x.used[id], b)
			}
		}
	}
}

// verify checks the invariants against the state of the cloud.
func (x *model) verify() {
	x.t.Helper()
	owner := map[netip.Prefix]string{}
	for _, e := range x.attached(x.inst.ID) {
		for _, b := range blocks(e) {
			owner[b] = e.ID
		}
	}
	for id, used := range x.used {
		for b := range used {
			if owner[b] != id {
				x.t.Errorf("a pod has %s of %s, but the block is now on %q", b, id, owner[b])
			}
		}
	}
	for _, b := range x.branches {
		if e, _ := x.ENI(b.ENI); e.Trunk == nil || e.Trunk.Trunk != b.Trunk || e.Trunk.VLANID != b.VLANID {
			x.t.Errorf("branch %+v has the association %+v", b, e.Trunk)
		} else if trunk, _ := x.ENI(b.Trunk); trunk.Attachment == nil {
			x.t.Errorf("branch %+v has lost its trunk", b)
		}
	}
	for id, was := range x.foreign {
		if now, _ := x.ENI(id); cmp.Diff(was, now, cmp.Comparer(equal[netip.Addr]), cmp.Comparer(equal[netip.Prefix])) != "" {
			x.t.Errorf("foreign ENI changed (-before +after):\n%s", cmp.Diff(was, now, cmp.Comparer(equal[netip.Addr]), cmp.Comparer(equal[netip.Prefix])))
		}
	}
	for _, c := range x.Audit() {
		if mutates(c.Action) && x.mentionsForeign(c) && c.At.After(x.foreignSince()) {
			x.t.Errorf("%s of a foreign ENI: %v", c.Action, c.Parameters)
		}
	}
	x.ResetCalls()
}

func mutates(action string) bool { return !strings.HasPrefix(action, "Describe") }

func (x *model) mentionsForeign(c enitest.Call) bool {
	return x.foreign[c.Parameters.Get("NetworkInterfaceId")].ID != ""
}

// foreignSince returns when the set-up of the foreign ENI was finished.
func (x *model) foreignSince() time.Time {
	return x.inst.LaunchedAt.Add(5*time.Minute + 20*time.Second)
}

// checkEnd removes all faults and checks the final state: no operation is
// unfinished, the inventory equals the cloud, and no ENI is leaked.
func (x *model) checkEnd() {
	x.t.Helper()
	for _, remove := range x.faults {
		remove()
	}
	time.Sleep(30 * time.Minute)
	for range 3 {
		x.resume()
		time.Sleep(5 * time.Minute)
	}
	open, err := x.m.Unfinished(x.t.Context())
	x.check(err)
	if len(open) > 0 {
		x.t.Errorf("still unfinished: %+v", open)
	}
	swept, err := eni.Sweep(x.t.Context(), eni.NewClient(x.config(x.inst.ID, nil), fast), eni.SweepInput{VPCID: x.vpc.ID})
	x.check(err)
	for _, s := range swept {
		if s.Deleted { // the journal was never lost, so there must be no leak
			x.t.Errorf("leaked and swept: %s", s.ENI.ID)
		}
	}
	want := map[string][]string{}
	for _, e := range x.ENIs() {
		managed := e.Tags[eni.TagOwner] != "" && e.Tags[eni.TagNoManage] == ""
		if e.Attachment == nil && e.Trunk == nil && managed {
			x.t.Errorf("leaked: %s", e.ID)
		}
		if e.Attachment != nil {
			for _, b := range blocks(e) {
				want[e.ID] = append(want[e.ID], b.String())
			}
			slices.Sort(want[e.ID])
		}
	}
	inv := x.m.Inventory()
	got := slots(inv)
	for id := range got {
		slices.Sort(got[id])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		x.t.Errorf("inventory (-cloud +known):\n%s", diff)
	}
	if inv.Trip != nil {
		x.t.Errorf("tripped: %+v", inv.Trip)
	}
	x.verify()
}
