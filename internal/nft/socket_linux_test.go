// SPDX-License-Identifier: Apache-2.0

package nft_test

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
	"github.com/vpcnet/vpcnet/internal/nft"
)

func TestMain(m *testing.M) { isolatetest.Test(m) }

// socket opens a new namespace.
func socket(t *testing.T) *nft.Socket {
	t.Helper()
	isolatetest.Require(t)
	ns, err := fabric.CreateNetns("/run/netns/node")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	s := nft.New(f)
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), f.Close(), ns.Delete()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func add(t *testing.T, s *nft.Socket, name string) {
	t.Helper()
	err := s.Do(func(c *nftables.Conn) error {
		c.AddTable(&nftables.Table{Name: name, Family: nftables.TableFamilyINet})
		return c.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
}

func tables(c *nftables.Conn) (int, error) {
	all, err := c.ListTables()
	return len(all), err
}

func equal(a, b int) bool { return a == b }

// TestRead changes the tables during the first readings. Read returns the first result
// during which nothing changed.
func TestRead(t *testing.T) {
	s := socket(t)
	readings := 0
	got, err := nft.Read(t.Context(), s, equal, func(c *nftables.Conn) (int, error) {
		n, err := tables(c)
		if readings++; readings <= 3 {
			add(t, s, string(rune('a'+readings)))
		}
		return n, err
	})
	if err != nil || got != 3 || readings != 4 {
		t.Errorf("Read = %d, %v after %d readings, want 3 after 4", got, err, readings)
	}
}

// TestReadUnrelatedChanges changes other tables during each reading. Read returns when
// two results are equal.
func TestReadUnrelatedChanges(t *testing.T) {
	s := socket(t)
	readings := 0
	got, err := nft.Read(t.Context(), s, equal, func(*nftables.Conn) (int, error) {
		readings++
		add(t, s, string(rune('a'+readings)))
		return 7, nil
	})
	if err != nil || got != 7 || readings != 2 {
		t.Errorf("Read = %d, %v after %d readings, want 7 after 2", got, err, readings)
	}
}

// TestReadGivesUp has readings that are never consistent, that fail, and that are
// cancelled.
func TestReadGivesUp(t *testing.T) {
	s := socket(t)
	readings := 0
	_, err := nft.Read(t.Context(), s, equal, func(*nftables.Conn) (int, error) {
		readings++
		add(t, s, string(rune('a'+readings)))
		return readings, nil
	})
	if !errors.Is(err, nft.ErrTorn) {
		t.Errorf("Read of a number that always changes = %v, want ErrTorn", err)
	}
	_, err = nft.Read(t.Context(), s, equal, func(*nftables.Conn) (int, error) { return 0, nft.Torn("list", unix.ENOENT) })
	if !errors.Is(err, nft.ErrTorn) || !errors.Is(err, unix.ENOENT) {
		t.Errorf("Read of a set that is always deleted = %v, want ErrTorn", err)
	}
	gone := errors.New("gone")
	readings = 0
	_, err = nft.Read(t.Context(), s, equal, func(*nftables.Conn) (int, error) { readings++; return 0, gone })
	if !errors.Is(err, gone) || readings != 1 {
		t.Errorf("Read = %v after %d readings, want an error after 1", err, readings)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := nft.Read(ctx, s, equal, tables); !errors.Is(err, context.Canceled) {
		t.Errorf("Read with a cancelled context = %v, want context.Canceled", err)
	}
}

// TestDoAfterError has transactions that the kernel refuses, and that f gives up before
// they are sent. The next transaction neither contains their requests nor receives
// their answers.
func TestDoAfterError(t *testing.T) {
	s := socket(t)
	given := errors.New("given up")
	for range 3 {
		err := s.Do(func(c *nftables.Conn) error {
			missing := &nftables.Table{Name: "missing", Family: nftables.TableFamilyINet}
			c.AddChain(&nftables.Chain{Table: missing, Name: "one"})
			c.AddChain(&nftables.Chain{Table: missing, Name: "two"})
			return c.Flush()
		})
		if !errors.Is(err, unix.ENOENT) {
			t.Fatalf("chains of a missing table: %v, want ENOENT", err)
		}
		err = s.Do(func(c *nftables.Conn) error {
			c.AddTable(&nftables.Table{Name: "half", Family: nftables.TableFamilyINet})
			return given
		})
		if !errors.Is(err, given) {
			t.Fatalf("Do = %v, want the error of f", err)
		}
		add(t, s, "table")
		if n, err := nft.Read(t.Context(), s, equal, tables); n != 1 || err != nil {
			t.Fatalf("%d tables, %v, want 1", n, err)
		}
	}
}
