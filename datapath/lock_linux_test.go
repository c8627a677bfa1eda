// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/internal/fabric"
)

// TestLock checks that a call waits for the lock until its context ends, that it then
// takes the lock from no later call, and that it gets the lock when the holder gives it up.
func TestLock(t *testing.T) {
	ns, err := fabric.CreateNetns("/run/netns/lock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Delete() })
	var handles [2]*kernel
	for i := range handles {
		if handles[i], err = openKernel(ns.Path()); err != nil {
			t.Fatal(err)
		}
		defer handles[i].Close()
	}
	waited := make(chan error, 1)
	err = handles[0].locked(t.Context(), alone, func() error {
		for _, how := range []int{shared, alone} {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			err := handles[1].locked(ctx, how, func() error { return errors.New("two calls have the lock") })
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("call %d beside the holder: %v, want %v", how, err, context.DeadlineExceeded)
			}
		}
		go func() { waited <- handles[1].locked(t.Context(), alone, func() error { return nil }) }()
		select {
		case err := <-waited:
			t.Errorf("a call did not wait for the holder: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-waited:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("calls that gave up keep the lock from one that waits")
	}
	if err := handles[0].locked(t.Context(), shared, func() error {
		return handles[1].locked(t.Context(), shared, func() error { return nil })
	}); err != nil {
		t.Errorf("two calls that share: %v", err)
	}
}
