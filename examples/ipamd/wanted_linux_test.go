// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/cniplugin"
)

// TestWantedAddress asks an agent for certain addresses, as a plugin does.
func TestWantedAddress(t *testing.T) {
	h := newHost(t)
	p := h.run(t, map[string]string{"IP_COOLDOWN_PERIOD": "2"})
	var held netip.Addr
	eventually(t, p, func() error {
		got, err := h.client().Add(t.Context(), request("holder"))
		if err == nil {
			held = got.Addresses[0].Addr
		}
		return err
	})
	want := func(id, addr string) (cniplugin.AddResponse, error) {
		req := request(id)
		req.Addrs = []netip.Addr{netip.MustParseAddr(addr)}
		return h.client().Add(t.Context(), req)
	}
	if got, err := want("holder", held.String()); err != nil || got.Addresses[0].Addr != held {
		t.Errorf("the holder asks for its own address: %v, %v", got, err)
	}
	refused := func(id, addr string, code cniplugin.Code, reason, details string) {
		t.Helper()
		_, err := want(id, addr)
		var e *cniplugin.AgentError
		if !errors.As(err, &e) || e.Code != code || e.Reason != reason || !strings.Contains(e.Details, details) || !strings.Contains(e.Message, addr) {
			t.Errorf("%s asks for %s: %+v, want code %d, %s and %q", id, addr, err, code, reason, details)
		}
	}
	refused("other", held.String(), cniplugin.CodeTryAgainLater, "in-use", "default/pod-holder holds it")
	refused("other", "203.0.113.7", cniplugin.CodeInvalidConfig, "no-such-address", "no ENI of this node has it")
	refused("other", "2001:db8::7", cniplugin.CodeInvalidConfig, "no-blocks", "only [IPv4]")
	if _, err := want("holder", "203.0.113.7"); err == nil || !strings.Contains(err.Error(), "default/pod-holder holds ["+held.String()+"] from its first request, not 203.0.113.7") {
		t.Errorf("the holder asks for another address: %v", err)
	}
	if _, err := h.client().Del(t.Context(), cniplugin.DelRequest{Attachment: request("holder").Attachment}); err != nil {
		t.Fatal(err)
	}
	refused("other", held.String(), cniplugin.CodeTryAgainLater, "cooling", "ago")
	eventually(t, p, func() error {
		_, err := want("other", held.String())
		return err
	})
}
