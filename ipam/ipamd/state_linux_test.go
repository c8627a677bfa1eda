// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/server"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/waljournal"
)

// TestStateDirTaken checks that two agents cannot use the same state directory.
func TestStateDirTaken(t *testing.T) {
	dir := t.TempDir()
	j, _, err := waljournal.Open(t.Context(), dir, waljournal.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	synctest.Test(t, func(t *testing.T) {
		a, err := New(Config{Socket: filepath.Join(dir, "agent.sock"), StateDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		err = a.Run(t.Context())
		if !errors.Is(err, waljournal.ErrInUse) || !strings.Contains(err.Error(), "another agent uses the state directory "+dir) {
			t.Errorf("Run: %v, want an error that another agent uses the directory", err)
		}
	})
}

// TestMaxSocket checks that server.Listen accepts the longest path that Config.Socket
// accepts, and no longer one.
func TestMaxSocket(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		bytes int
		ok    bool
	}{{maxSocket, true}, {maxSocket + 1, false}} {
		l, err := server.Listen(filepath.Join(dir, strings.Repeat("x", c.bytes-len(dir)-1)))
		if (err == nil) != c.ok {
			t.Errorf("path of %d bytes: %v, want success: %v", c.bytes, err, c.ok)
		}
		if err == nil {
			_ = l.Close()
		}
	}
}

// TestTombstones checks that an attachment with a tombstone is released, and that
// its tombstone is removed only after that.
func TestTombstones(t *testing.T) {
	n := &node{cfg: Config{StateDir: t.TempDir()}}
	dir := cniplugin.TombstoneDir(n.cfg.StateDir)
	want := attachment("a")
	if err := cniplugin.WriteTombstone(dir, cniplugin.Tombstone{Attachment: cniplugin.Attachment(want), At: time.Now()}); err != nil {
		t.Fatal(err)
	}
	full := errors.New("disk full")
	for i, answer := range []error{full, nil, nil} {
		var got []ipam.Attachment
		err := n.tombstones(t.Context(), func(a ipam.Attachment) error {
			got = append(got, a)
			return answer
		})
		if !errors.Is(err, answer) {
			t.Errorf("collection %d: %v, want %v", i+1, err, answer)
		}
		if left := i < 2; left != slices.Equal(got, []ipam.Attachment{want}) {
			t.Errorf("collection %d releases %v, want %v: %v", i+1, got, want, left)
		}
	}
}

// TestAuditCollectsTombstones checks that an address that a plugin could not
// release, because the agent was too busy or its disk was full, is free a minute
// later.
func TestAuditCollectsTombstones(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		a := n.run(t.Context(), 1)
		for _, id := range []string{"a", "b"} {
			_, err := a.Allocate(t.Context(), ipam.Request{Attachment: attachment(id)})
			n.check(err)
		}
		for _, id := range []string{"a", "unknown"} {
			n.check(cniplugin.WriteTombstone(cniplugin.TombstoneDir(n.node.cfg.StateDir), cniplugin.Tombstone{
				Attachment: cniplugin.Attachment(attachment(id)), At: time.Now(),
			}))
		}
		time.Sleep(auditEvery + time.Second)
		if len(n.pool.Lookup(attachment("a"))) > 0 || len(n.pool.Lookup(attachment("b"))) == 0 {
			t.Errorf("pod a holds %v, pod b %v; want an address for b only", n.pool.Lookup(attachment("a")), n.pool.Lookup(attachment("b")))
		}
		if strings.Contains(n.log.String(), "collect tombstones") {
			t.Errorf("a collection failed, log\n%s", n.log.String())
		}
	})
}
