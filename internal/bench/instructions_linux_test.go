// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"os"
	"testing"

	"github.com/vpcnet/vpcnet/datapath"
)

// instructions are the costs of a packet of an established flow one way, in instructions
// relative to those of a packet over a bare veth hop, on the kernel that .ci/kernel fetches.
var instructions = map[string]float64{"flat-0": 1.550, "flat-2000": 1.687, "services": 1.880, "accelerated": 1.151}

// allowed is the share by which a cost may differ.
const allowed = 0.03

// TestInstructions compares the cost of a packet with the recorded one. It runs in the machine
// of internal/vm, where the clock counts instructions: two runs differ by less than 1 %, however
// busy the machine is that emulates it. A change of the kernel or of the emulator changes the
// bare hop too.
func TestInstructions(t *testing.T) {
	if os.Getenv("VPCNET_ICOUNT") == "" {
		t.Log("the clock does not count instructions: internal/vm runs this test")
		return
	}
	f := newFabric(t)
	drain := sink(t, f.Router())
	senders := map[string]*sender{"hop": newSender(t, bareHop(t, f, 0), "hop")}
	for i, pods := range []int{0, 2000} {
		n := newNode(t, f, 1+i, datapath.Flat)
		holder, _ := n.run(0)
		n.addCrowd(holder, pods)
		_, ns := n.run(senderPod)
		name := []string{"flat-0", "flat-2000"}[i]
		senders[name] = newSender(t, ns, name)
	}
	_, _, pod := newServiceNode(t, f, 3)
	senders["services"] = newSender(t, pod, "services")
	pod, ok := newAccelerated(t, f, 4)
	if !ok {
		t.Fatal("the kernel has no flowtables")
	}
	senders["accelerated"] = newSender(t, pod, "accelerated")
	for _, s := range senders {
		s.establish(t, drain)
		s.round(t)
		s.oneWay, s.roundTrip = nil, nil
	}
	for range 4 * turns {
		for _, s := range senders {
			s.round(t)
		}
	}
	cost := func(name string) float64 {
		return float64(senders[name].oneWay.median()) / float64(senders["hop"].oneWay.median())
	}
	for name, want := range instructions {
		got := cost(name)
		t.Logf("%s: %d instructions, round trip %d; %.3f of a bare hop, recorded %.3f", name, senders[name].oneWay.median(), senders[name].roundTrip.median(), got, want)
		if got > want*(1+allowed) || got < want*(1-allowed) {
			t.Errorf("%s: %.3f of a bare hop, want %.3f", name, got, want)
		}
	}
	t.Logf("hop: %d instructions; accelerated/services %.3f, flat-2000/flat-0 %.3f",
		senders["hop"].oneWay.median(), cost("accelerated")/cost("services"), cost("flat-2000")/cost("flat-0"))
}
