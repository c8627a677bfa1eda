// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/ipam"
)

// containers are the containers of the calls of AfterDel.
type containers struct {
	mu  sync.Mutex
	ids []string
}

func (c *containers) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.ids, " ")
}

// hooked returns a world whose agent runs with hooks. BeforeReply returns refuse, and gone
// has the container of each call of AfterDel.
func hooked(t *testing.T, refuse *error, gone *containers) *world {
	n := newNode(t, nil)
	n.backend.cfg.BeforeReply = func(_ context.Context, req cniplugin.AddRequest, got []ipam.Allocation) error {
		if len(got) != 1 || got[0].ContainerID != req.ContainerID {
			t.Errorf("BeforeReply has %v for %v", got, req)
		}
		return *refuse
	}
	n.backend.cfg.AfterDel = func(all []ipam.Allocation) {
		gone.mu.Lock()
		defer gone.mu.Unlock()
		gone.ids = append(gone.ids, all[0].ContainerID)
	}
	n.backend.Serve(n.run(t.Context(), 2))
	return n
}

func addRequest(id string) cniplugin.AddRequest {
	return cniplugin.AddRequest{Attachment: cniplugin.Attachment(attachment(id)), Pod: cniplugin.Pod{Namespace: "default", Name: id}}
}

// TestComplete checks that the pool gets the request as the hook returns it, that an error of
// the hook reaches the plugin, and that both reach Requested.
func TestComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var refuse error
		var gone containers
		n := hooked(t, &refuse, &gone)
		var failed error
		n.backend.cfg.Complete = func(_ context.Context, req cniplugin.AddRequest) (cniplugin.AddRequest, error) {
			req.Addrs = []netip.Addr{netip.MustParseAddr("203.0.113.7")}
			return req, failed
		}
		var last Request
		n.backend.cfg.Requested = func(r Request) { last = r }
		for _, want := range []string{"203.0.113.7", "the annotation is wrong"} {
			_, err := n.backend.Add(t.Context(), addRequest("a"))
			if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(last.Err, err) || last.Pod.Name != "a" {
				t.Errorf("%v and %+v, want %q", err, last, want)
			}
			failed = errors.New("the annotation is wrong")
		}
	})
}

// TestBeforeReply checks that a pod that the hook refuses gets no address, that its error
// reaches the plugin, and that a refused repetition of an ADD keeps the addresses.
func TestBeforeReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var refuse error
		var gone containers
		n := hooked(t, &refuse, &gone)
		if _, err := n.backend.Add(t.Context(), addRequest("a")); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			refuse error
			code   uint
			text   string
		}{
			{errors.New("the policy is not known yet"), cniplugin.CodeAgent, "the policy is not known yet"},
			{&cniplugin.AgentError{Code: cniplugin.CodeTryAgainLater, Message: "no policy"}, cniplugin.CodeTryAgainLater, "no policy"},
		} {
			refuse = c.refuse
			for _, id := range []string{"a", "b"} {
				_, err := n.backend.Add(t.Context(), addRequest(id))
				var got *cniplugin.AgentError
				if !errors.As(err, &got) || got.Code != c.code || !strings.Contains(got.Message, c.text) {
					t.Errorf("pod %s: %v, want code %d and %q", id, err, c.code, c.text)
				}
			}
			if len(n.pool.Lookup(attachment("a"))) != 1 || len(n.pool.Lookup(attachment("b"))) != 0 {
				t.Errorf("a holds %v, b holds %v; want an address for a only", n.pool.Lookup(attachment("a")), n.pool.Lookup(attachment("b")))
			}
		}
		if got := gone.String(); got != "" {
			t.Errorf("AfterDel was called for %s", got)
		}
	})
}

// TestAfterDel checks that the hook is called once for each pod that ends: by DEL, by a
// tombstone, and by the agent that reclaims a sandbox.
func TestAfterDel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var refuse error
		var gone containers
		n := hooked(t, &refuse, &gone)
		for _, id := range []string{"a", "b"} {
			if _, err := n.backend.Add(t.Context(), addRequest(id)); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if _, err := n.backend.Del(t.Context(), cniplugin.DelRequest{Attachment: cniplugin.Attachment(attachment("a"))}); err != nil {
				t.Fatal(err)
			}
		}
		n.check(cniplugin.WriteTombstone(cniplugin.TombstoneDir(n.node.cfg.StateDir), cniplugin.Tombstone{
			Attachment: cniplugin.Attachment(attachment("b")), At: time.Now(),
		}))
		time.Sleep(auditEvery + time.Second)
		of := func(id, addr string) ipam.Allocation {
			return ipam.Allocation{Attachment: attachment(id), Addr: netip.MustParseAddr(addr)}
		}
		n.backend.reclaimed([]ipam.Allocation{of("c", "10.0.0.9"), of("d", "10.0.0.10"), of("c", "2001:db8::9")})
		if got := gone.String(); got != "a b c d" {
			t.Errorf("AfterDel was called for %q, want a b c d", got)
		}
	})
}

// TestSubscribe checks that each of several readers learns of changes, and that a reader
// that does not read delays nothing.
func TestSubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		a, err := New(Config{})
		n.check(err)
		ctx, cancel := context.WithCancel(t.Context())
		_, stopIdle := a.Subscribe()
		first, stopFirst := a.Subscribe()
		second, stopSecond := a.Subscribe()
		done := make(chan error)
		go func() { done <- a.subs.run(ctx, n.pool) }()
		<-first // the pool is open
		<-second
		change := func(id string) {
			n.check(n.pool.SetENI(ipam.ENI{ID: id, Device: len(n.pool.View().ENIs)}))
			synctest.Wait()
		}
		change("eni-1")
		<-first
		<-second
		stopFirst()
		change("eni-2")
		select {
		case <-first:
			t.Error("a reader got a change after its subscription had ended")
		default:
		}
		<-second
		stopSecond()
		stopIdle()
		cancel()
		n.check(<-done)
	})
}

// TestBadConfig checks that New refuses what no node can have, and names the field.
func TestBadConfig(t *testing.T) {
	for field, cfg := range map[string]Config{
		"Socket":         {Socket: "/" + strings.Repeat("x", maxSocket)},
		"Layout":         {Layout: "round"},
		"PodMTU":         {PodMTU: 9002},
		"MaxENIs":        {MaxENIs: -1},
		"HostLinkPrefix": {HostLinkPrefix: "a-b"},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v, want an error that names it", field, err)
		}
	}
	a, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if s := a.Status(); s.Ready || s.Reason != ipam.ReasonAgentStarting || len(a.View().ENIs) > 0 {
		t.Errorf("status %+v before Run, want only a reason", s)
	}
}
