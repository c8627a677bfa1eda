// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"errors"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// TestVPCPrefixes checks that a block that is added to the VPC while the node runs is
// found without a call to EC2.
func TestVPCPrefixes(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.large")
		want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("2001:db8:1::/56")}
		fresh := w.manager(inst, eni.Config{})
		if got, err := fresh.VPCPrefixes(t.Context()); err != nil || !slices.Equal(got, want) {
			t.Errorf("before a Discover: %v, %v", got, err)
		}
		m := w.manager(inst, eni.Config{})
		_, err := m.Discover(t.Context())
		w.check(err)
		w.ResetCalls()
		added := netip.MustParsePrefix("100.64.0.0/16")
		w.check(w.AddVPCPrefix(w.vpc.ID, added))
		want = []netip.Prefix{want[0], added, want[1]}
		if got, err := m.VPCPrefixes(t.Context()); err != nil || !slices.Equal(got, want) {
			t.Errorf("%v, %v; want %v", got, err, want)
		}
		if got := m.Inventory().Instance.VPC; !slices.Equal(got, want) {
			t.Errorf("the inventory has %v, want %v", got, want)
		}
		if calls := w.Calls(); len(calls) > 0 {
			t.Errorf("calls %v", calls)
		}
	})(t)
}

// TestVPCPrefixesRefuses checks that an invalid answer changes nothing.
func TestVPCPrefixesRefuses(t *testing.T) {
	for name, answers := range map[string][2]string{
		"no IPv4 block":  {"", "2001:db8:1::/56"},
		"nothing":        {"", ""},
		"an address":     {"10.0.0.0/16\n10.1.0.0", ""},
		"all of IPv4":    {"0.0.0.0/0", ""},
		"host bits":      {"10.0.0.1/16", ""},
		"HTML":           {"<html>try later</html>", ""},
		"the wrong list": {"10.0.0.0/16", "10.1.0.0/16"},
		"all of IPv6":    {"10.0.0.0/16", "::/0"},
	} {
		t.Run(name, inBubble(func(t *testing.T) {
			w := newWorld(t, enitest.Config{})
			inst := w.run("m5.large")
			broken := false
			client := eni.NewClient(w.config(inst.ID, func(rt http.RoundTripper) http.RoundTripper {
				return roundTripper(func(r *http.Request) (*http.Response, error) {
					for i, key := range []string{"vpc-ipv4-cidr-blocks", "vpc-ipv6-cidr-blocks"} {
						if broken && strings.HasSuffix(r.URL.Path, key) {
							return answer(r, answers[i]), nil
						}
					}
					return rt.RoundTrip(r)
				})
			}), fast)
			m := w.manager(inst, eni.Config{Client: client})
			inv, err := m.Discover(t.Context())
			w.check(err)
			broken = true
			got, err := m.VPCPrefixes(t.Context())
			if !errors.Is(err, eni.ErrNoMetadata) || got != nil {
				t.Errorf("%v, %v; want ErrNoMetadata", got, err)
			}
			_, err = m.Discover(t.Context())
			w.check(err)
			if now := m.Inventory().Instance.VPC; !slices.Equal(now, inv.Instance.VPC) {
				t.Errorf("the inventory has %v now", now)
			}
		}))
	}
}

// answer returns a response with a text.
func answer(r *http.Request, body string) *http.Response {
	return &http.Response{
		StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{},
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: r,
	}
}
