// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/ipam"
)

// TestPodMAC checks that the agent repairs the network of a pod with the MAC that its
// runtime asked for.
func TestPodMAC(t *testing.T) {
	pool, err := ipam.Open(ipam.Config{})
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(pool.SetENI(ipam.ENI{ID: "eni-0"}), pool.SetReady("eni-0", true),
		pool.AddBlocks(ipam.Block{Prefix: netip.MustParsePrefix("10.0.1.0/28"), ENI: "eni-0"}))
	if err != nil {
		t.Fatal(err)
	}
	b := NewBackend(BackendConfig{Pool: pool})
	for id, mac := range map[string]string{"a": "", "b": "02:00:00:00:00:07"} {
		at := ipam.Attachment{Network: "vpcnet", ContainerID: id, IfName: "eth0"}
		if _, err := pool.Allocate(t.Context(), ipam.Request{Attachment: at, MAC: mac}); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range b.Pods() {
		want := datapath.Pod{ContainerID: p.ContainerID, IfName: p.IfName}.SandboxMAC().String()
		if p.ContainerID == "b" {
			want = "02:00:00:00:00:07"
		}
		if got := p.SandboxMAC().String(); got != want {
			t.Errorf("%s: MAC %s, want %s", p.ContainerID, got, want)
		}
	}
}
