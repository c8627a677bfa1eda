// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/ipam/ipamd/settings"
)

// TestReload deletes a container that runs and adds it again, as `podman network reload`
// does. The agent deletes the link soon, and the container gets its address back, which no
// other container gets meanwhile.
func TestReload(t *testing.T) {
	h := newHost(t)
	p := h.run(t, map[string]string{"WARM_IP_TARGET": "2"})
	w := h.wire(t, p, "reloaded")
	handle, del := onHost(t), cniplugin.DelRequest{Attachment: request("reloaded").Attachment, Retired: true}
	must(t, handle.RetirePod(t.Context(), w.pod))
	links := func() (n int) {
		all, err := net.Interfaces()
		must(t, err)
		return len(all)
	}
	retired, start := links(), time.Now()
	res, err := h.client().Del(t.Context(), del)
	if err != nil || !res.Sweeps {
		t.Fatalf("Del = %+v, %v, want an agent that sweeps", res, err)
	}
	for links() == retired {
		if time.Since(start) > 10*time.Second {
			t.Fatalf("the link stays\n%s", p.log.String())
		}
		time.Sleep(time.Millisecond)
	}
	t.Logf("the link was gone after %v", time.Since(start))
	other, err := h.client().Add(t.Context(), request("other"))
	must(t, err)
	again, err := h.client().Add(t.Context(), request("reloaded"))
	must(t, err)
	if other.Addresses[0].Addr == w.addr() || again.Addresses[0].Addr != w.addr() {
		t.Errorf("after the release of %v another container has %v and the same one %v", w.addr(), other.Addresses[0].Addr, again.Addresses[0].Addr)
	}
}

// TestNoNetwork releases the addresses of a container with a request and a tombstone that
// have no network, from a plugin that could not read its name.
func TestNoNetwork(t *testing.T) {
	h := newHost(t)
	p := h.run(t, map[string]string{"WARM_IP_TARGET": "2"})
	for _, id := range []string{"request", "tombstone", "other"} {
		eventually(t, p, func() error {
			_, err := h.client().Add(t.Context(), request(id))
			return err
		})
	}
	held := func(id string) bool {
		_, err := h.client().Check(t.Context(), cniplugin.CheckRequest{Attachment: request(id).Attachment})
		return err == nil
	}
	nameless := func(id string) cniplugin.Attachment {
		a := request(id).Attachment
		a.Network = ""
		return a
	}
	if _, err := h.client().Check(t.Context(), cniplugin.CheckRequest{Attachment: nameless("request")}); err != nil {
		t.Error(err)
	}
	_, err := h.client().Del(t.Context(), cniplugin.DelRequest{Attachment: nameless("request")})
	must(t, err)
	p.end(t)
	must(t, cniplugin.WriteTombstone(cniplugin.TombstoneDir(h.path("state")), cniplugin.Tombstone{Attachment: nameless("tombstone"), At: time.Now()}))
	q := h.run(t, nil)
	eventually(t, q, func() error {
		if !held("other") || held("request") || held("tombstone") {
			return fmt.Errorf("held: other %t, request %t, tombstone %t; want the first only", held("other"), held("request"), held("tombstone"))
		}
		return nil
	})
}

// TestStatusAtTheEnd reads the status of agents until they have ended, which the race detector
// watches: no reader may meet a kernel that is closed.
func TestStatusAtTheEnd(t *testing.T) {
	h := newHost(t)
	s, err := settings.Parse(nil, h.environment(nil), io.Discard)
	must(t, err)
	cfg, err := s.Agent()
	must(t, err)
	for range 10 {
		a, err := ipamd.New(cfg)
		must(t, err)
		ctx, stop := context.WithCancel(t.Context())
		var ended atomic.Bool
		var all sync.WaitGroup
		all.Go(func() {
			if err := a.Run(ctx); err != nil {
				t.Error(err)
			}
			ended.Store(true)
		})
		<-a.Ready()
		for range 4 {
			all.Go(func() {
				for !ended.Load() {
					a.Status()
				}
			})
		}
		stop()
		all.Wait()
	}
}
