// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/ipam"
)

// withOwn gives the backend of a world own pods with a manager, and a trunk ENI. The link of
// the trunk counts as set up, because there is no kernel.
func withOwn(t *testing.T, n *world, m *eni.Manager, dir string) *ownPods {
	t.Helper()
	cfg := n.node.cfg
	cfg.PodENI, cfg.StateDir = true, dir
	o, err := openOwnPods(&cfg, "boot", cfg.Logger)
	n.check(err)
	limits, err := m.Limits(t.Context())
	n.check(err)
	o.serve(m, limits)
	o.links, o.pool, n.backend.own = n.node.links, n.backend.cfg.Pool, o
	trunk, found := trunkOf(n.manager.Inventory())
	if !found {
		trunk, err = n.manager.Provision(t.Context(), eni.ProvisionInput{Kind: eni.KindTrunk})
		n.check(err)
	}
	o.trunk = trunk.ID
	return o
}

// branches returns the ENIs of the cloud that were created for pods.
func (n *world) branches() (all []enitest.ENI) {
	for _, e := range n.cloud.ENIs() {
		if e.Type != "trunk" && e.ID != n.primary().ID {
			all = append(all, e)
		}
	}
	return all
}

func branchRequest(id string, groups ...string) cniplugin.AddRequest {
	r := addRequest(id)
	r.SecurityGroups, r.Modes = groups, true
	return r
}

// TestSecurityGroups checks pods with branch ENIs as the backend gives them: with the groups of
// the request or of the hook, the same ones for a repeated request and after a restart, known
// to CHECK and GC, and deleted some time after DEL.
func TestSecurityGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		group, err := n.cloud.AddSecurityGroup(n.subnet.VPC, "pods", nil)
		n.check(err)
		dir := t.TempDir()
		o := withOwn(t, n, n.manager, dir)
		n.backend.cfg.SecurityGroups = func(_ context.Context, req cniplugin.AddRequest) ([]string, error) {
			switch req.ContainerID {
			case "hook":
				return []string{group.ID}, nil
			case "refused":
				return nil, errors.New("the policy is not known yet")
			}
			return nil, nil
		}
		n.backend.Serve(n.run(t.Context(), 2))
		for i, req := range []cniplugin.AddRequest{branchRequest("conf", group.ID), branchRequest("hook")} {
			first, err := n.backend.Add(t.Context(), req)
			n.check(err)
			b := first.Mode.Branch
			if b == nil || b.VLAN != i+1 || b.Enforcement != datapath.Strict || first.Addresses[0].Addr.Is6() {
				t.Fatalf("%s: %+v, want VLAN %d under strict", req.ContainerID, first, i+1)
			}
			if got := n.branches()[0]; !slices.Equal(got.Groups, []string{group.ID}) {
				t.Errorf("the branch has the groups %v, want %s", got.Groups, group.ID)
			}
			o = withOwn(t, n, n.manager, dir) // as a new process
			again, err := n.backend.Add(t.Context(), req)
			n.check(err)
			known, err := n.backend.Check(t.Context(), cniplugin.CheckRequest{Attachment: req.Attachment})
			n.check(err)
			if again.Mode.Branch.VLAN != b.VLAN || known.Mode.Branch.VLAN != b.VLAN || known.Addresses[0] != first.Addresses[0] {
				t.Errorf("%s: %+v, then %+v, and CHECK has %+v", req.ContainerID, first, again, known)
			}
		}
		if _, err := n.backend.Add(t.Context(), branchRequest("refused")); err == nil || !strings.Contains(err.Error(), "the policy is not known yet") {
			t.Errorf("the hook fails, and ADD gives %v", err)
		}
		plain, err := n.backend.Add(t.Context(), branchRequest("plain"))
		n.check(err)
		if plain.Mode != (datapath.Mode{}) {
			t.Errorf("a pod that asks for nothing has %+v", plain)
		}
		stale, err := n.backend.GC(t.Context(), cniplugin.GCRequest{Network: "vpcnet", Valid: []cniplugin.Attachment{branchRequest("hook").Attachment}})
		n.check(err)
		if want := cniplugin.Attachment(attachment("conf")); !slices.Contains(stale.Stale, want) || len(stale.Stale) != 2 {
			t.Errorf("stale %v, want %v and the plain pod", stale.Stale, want)
		}
		if pods := n.backend.Pods(); len(pods) != 3 {
			t.Errorf("%d pods, want 3", len(pods))
		}
		for range 2 {
			_, err := n.backend.Del(t.Context(), cniplugin.DelRequest{Attachment: branchRequest("conf").Attachment})
			n.check(err)
		}
		n.check(o.collect(t.Context()))
		if got := n.branches(); len(got) != 2 {
			t.Errorf("%d branches after the DEL, want 2 because one is cooling", len(got))
		}
		time.Sleep(61 * time.Second)
		n.check(o.collect(t.Context()))
		if got := n.branches(); len(got) != 1 {
			t.Errorf("%d branches after the cooldown, want 1", len(got))
		}
	})
}

// dying is the transport of a process that ends by SIGKILL at a request: before it is sent, or
// before its answer is read.
type dying struct {
	next   http.RoundTripper
	at     int64
	after  bool
	count  atomic.Int64
	killed chan struct{}
}

func (d *dying) RoundTrip(r *http.Request) (*http.Response, error) {
	n := d.count.Add(1)
	if n == d.at && d.after {
		resp, err := d.next.RoundTrip(r)
		if err == nil {
			resp.Body.Close()
		}
	}
	if n == d.at {
		close(d.killed)
	}
	if n >= d.at {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return d.next.RoundTrip(r)
}

// TestOwnKilled kills an agent before and after each request of an ADD with a branch ENI. The
// next process has the pod with its branch, or neither of them.
func TestOwnKilled(t *testing.T) {
	for _, after := range []bool{false, true} {
		for at, ended := int64(1), false; !ended; at++ {
			synctest.Test(t, func(t *testing.T) { ended = killOnce(t, at, after) })
		}
	}
}

// killOnce reports whether the ADD ended before the request at which it would be killed.
func killOnce(t *testing.T, at int64, after bool) (ended bool) {
	n := newNode(t, eni.NewMemory())
	dir := t.TempDir()
	withOwn(t, n, n.manager, dir)
	cfg := n.config(n.instance.ID)
	d := &dying{next: cfg.HTTPClient.(*http.Client).Transport, at: at, after: after, killed: make(chan struct{})}
	cfg.HTTPClient = &http.Client{Transport: d}
	intents := eni.NewMemory()
	manager := func(client *eni.Client, j eni.Intents) *eni.Manager {
		m, err := eni.New(eni.Config{Client: client, Intents: j, InUse: InUse(n.pool, noUses), Known: n.manager.Inventory()})
		n.check(err)
		return m
	}
	o := withOwn(t, n, manager(eni.NewClient(cfg, eni.ClientConfig{}), intents), dir)
	n.backend.Serve(nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := n.backend.Add(ctx, branchRequest("a", n.primary().Groups...))
		done <- err
	}()
	select {
	case err := <-done:
		n.check(err)
		ended = true
	case <-d.killed:
	}
	// The next process finds a copy of what the killed one had written.
	copied, journal := t.TempDir(), eni.NewMemory()
	n.check(os.CopyFS(copied, os.DirFS(dir)))
	all, err := intents.All(t.Context())
	n.check(err)
	for _, in := range all {
		n.check(journal.Put(t.Context(), in))
	}
	cancel()
	if !ended {
		<-done
	}
	_ = o
	next := manager(eni.NewClient(n.config(n.instance.ID), eni.ClientConfig{}), journal)
	o = withOwn(t, n, next, copied)
	_, err = next.Discover(t.Context())
	n.check(err)
	for range 4 {
		if err := o.collect(t.Context()); err != nil {
			t.Logf("at %d: %v", at, err)
		}
		time.Sleep(3 * time.Minute)
	}
	var held []string
	for _, r := range o.records.list() {
		held = append(held, r.ENI)
	}
	var have []string
	for _, e := range n.branches() {
		have = append(have, e.ID)
	}
	if !slices.Equal(have, held) || ended != (len(held) == 1) {
		t.Errorf("killed at request %d, after its execution %v: branches %v, of pods %v", at, after, have, held)
	}
	return ended
}

// TestPodRecords checks the files of records: those of other boots, of pods that were never
// completed, and damaged ones are not used, and a record that has changed is not replaced.
func TestPodRecords(t *testing.T) {
	dir := t.TempDir()
	open := func(boot string) (*podRecords, []string) {
		t.Helper()
		r, bad, err := openPodRecords(dir, boot)
		if err != nil {
			t.Fatal(err)
		}
		return r, bad
	}
	r, _ := open("b1")
	put := func(was, p podRecord, want bool) {
		t.Helper()
		if stored, err := r.put(was, p); err != nil || stored != want {
			t.Errorf("put: %v, %v, want %v", stored, err, want)
		}
	}
	begun := podRecord{Boot: "b1", Attachment: attachment("a"), At: time.Unix(1, 0), Kind: kindENI}
	put(podRecord{}, begun, true)
	if again, _ := open("b1"); len(again.list()) != 0 {
		t.Errorf("%d pods that were not completed, want none", len(again.list()))
	}
	complete := begun
	complete.ENI, complete.Response.Addresses = "eni-1", []cniplugin.Address{{Addr: netip.MustParseAddr("10.0.0.5")}}
	mac := []byte{2, 0, 0, 0, 0, 1}
	complete.Response.Mode = datapath.Mode{Whole: &datapath.WholeENI{ENI: datapath.ENI{ID: "eni-1", MAC: mac}}}
	put(begun, complete, true)
	put(begun, complete, false) // the record has an ENI meanwhile
	again, _ := open("b1")
	got, ok := again.get(ipam.Attachment{ContainerID: "a", IfName: "eth0"})
	if !ok || got.wiring().Mode.Whole.ENI.MAC.String() != "02:00:00:00:00:01" || got.ENI != "eni-1" {
		t.Errorf("%+v, %v, want the record", got, ok)
	}
	if err := again.remove(podRecord{Attachment: complete.Attachment}); err != nil || len(again.list()) != 1 {
		t.Errorf("remove of another record of the attachment: %v, %d left, want 1", err, len(again.list()))
	}
	path := again.path(complete.Attachment)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text[:len(text)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if again, bad := open("b1"); len(again.list()) != 0 || !slices.Equal(bad, []string{path}) {
		t.Errorf("%d pods, bad files %v, want %s alone", len(again.list()), bad, path)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if again, _ := open("b2"); len(again.list()) != 0 {
		t.Errorf("%d pods of an earlier boot, want none", len(again.list()))
	}
	if left, _ := filepath.Glob(filepath.Join(dir, podRecordDir, "*"+recordSuffix)); len(left) > 0 {
		t.Errorf("files %v, want none", left)
	}
}

// TestWholeENIsAtOnce checks that ADDs at the same time get no more whole ENIs than the node
// gives away, and that the record of an ADD that was interrupted does not count against the
// same pod.
func TestWholeENIsAtOnce(t *testing.T) {
	n := newNode(t, nil)
	cfg := n.node.cfg
	cfg.WholeENIs = 1
	o, err := openOwnPods(&cfg, "boot", cfg.Logger)
	n.check(err)
	first, second := ipam.Attachment(addRequest("first").Attachment), ipam.Attachment(addRequest("second").Attachment)
	end, err := o.begin(first, kindENI)
	n.check(err)
	if _, err := o.begin(second, kindENI); err == nil || !strings.Contains(err.Error(), "no ENI is left") {
		t.Errorf("a second ADD at the same time: %v, want no ENI left", err)
	}
	_, err = o.records.put(podRecord{}, podRecord{Boot: "boot", Attachment: first, Kind: kindENI})
	n.check(err)
	end()
	if _, err := o.begin(second, kindENI); err == nil {
		t.Error("a second ADD after the record of the first one succeeded")
	}
	end, err = o.begin(first, kindENI)
	if err != nil {
		t.Errorf("the repeated ADD of the first pod: %v", err)
	} else {
		end()
	}
}

// TestMaxPodsWithOwnENIs checks that pods with branch ENIs count towards the maximum, and that
// a DEL makes room for another pod.
func TestMaxPodsWithOwnENIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		group, err := n.cloud.AddSecurityGroup(n.subnet.VPC, "pods", nil)
		n.check(err)
		withOwn(t, n, n.manager, t.TempDir())
		n.backend.cfg.Pool.SetMaxPods(2)
		n.backend.Serve(n.run(t.Context(), 2))
		own, plain := branchRequest("own", group.ID), branchRequest("plain")
		for _, req := range []cniplugin.AddRequest{own, plain, own} { // the last one is repeated
			_, err := n.backend.Add(t.Context(), req)
			n.check(err)
		}
		for _, req := range []cniplugin.AddRequest{branchRequest("another", group.ID), branchRequest("more")} {
			var refused *cniplugin.AgentError
			if _, err := n.backend.Add(t.Context(), req); !errors.As(err, &refused) || refused.Reason != string(ipam.ReasonPoolLimit) {
				t.Errorf("%s: %v, want the reason %s", req.ContainerID, err, ipam.ReasonPoolLimit)
			}
		}
		if got := len(n.branches()); got != 1 {
			t.Errorf("%d ENIs for pods, want 1", got)
		}
		_, err = n.backend.Del(t.Context(), cniplugin.DelRequest{Attachment: own.Attachment})
		n.check(err)
		_, err = n.backend.Add(t.Context(), branchRequest("more"))
		n.check(err)
	})
}
