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

// TestRead changes what is read between the first requests: only a look without
// a change is believed.
func TestRead(t *testing.T) {
	s := socket(t)
	looks := 0
	got, err := nft.Read(t.Context(), s, equal, func(c *nftables.Conn) (int, error) {
		n, err := tables(c)
		if looks++; looks <= 3 {
			add(t, s, string(rune('a'+looks)))
		}
		return n, err
	})
	if err != nil || got != 3 || looks != 4 {
		t.Errorf("Read = %d, %v after %d looks, want 3 after 4", got, err, looks)
	}
}

// TestReadBesideOthers: changes of what is not asked for end nobody's reading.
func TestReadBesideOthers(t *testing.T) {
	s := socket(t)
	looks := 0
	got, err := nft.Read(t.Context(), s, equal, func(*nftables.Conn) (int, error) {
		looks++
		add(t, s, string(rune('a'+looks)))
		return 7, nil
	})
	if err != nil || got != 7 || looks != 2 {
		t.Errorf("Read = %d, %v after %d looks, want 7 after 2", got, err, looks)
	}
}

func TestReadGivesUp(t *testing.T) {
	s := socket(t)
	looks := 0
	_, err := nft.Read(t.Context(), s, equal, func(*nftables.Conn) (int, error) {
		looks++
		add(t, s, string(rune('a'+looks)))
		return looks, nil
	})
	if !errors.Is(err, nft.ErrTorn) {
		t.Errorf("Read of what always changes = %v", err)
	}
	gone := errors.New("gone")
	_, err = nft.Read(t.Context(), s, equal, func(*nftables.Conn) (int, error) { return 0, nft.Torn("list", gone) })
	if !errors.Is(err, nft.ErrTorn) || !errors.Is(err, gone) {
		t.Errorf("Read of what is always gone = %v", err)
	}
	looks = 0
	_, err = nft.Read(t.Context(), s, equal, func(*nftables.Conn) (int, error) { looks++; return 0, gone })
	if !errors.Is(err, gone) || looks != 1 {
		t.Errorf("Read = %v after %d looks, want one", err, looks)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := nft.Read(ctx, s, equal, tables); !errors.Is(err, context.Canceled) {
		t.Errorf("Read with a cancelled context = %v", err)
	}
}

// TestDoAfterError: what was refused, or given up before it was sent, leaves nothing
// behind that goes with the next transaction or is taken for its answer.
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
			t.Fatalf("chains of no table: %v, want ENOENT", err)
		}
		err = s.Do(func(c *nftables.Conn) error {
			c.AddTable(&nftables.Table{Name: "half", Family: nftables.TableFamilyINet})
			return given
		})
		if !errors.Is(err, given) {
			t.Fatalf("Do = %v, want what f returned", err)
		}
		add(t, s, "table")
		if n, err := nft.Read(t.Context(), s, equal, tables); n != 1 || err != nil {
			t.Fatalf("%d tables, %v, want 1", n, err)
		}
	}
}
