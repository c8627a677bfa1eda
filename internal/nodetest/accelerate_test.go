// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/eni/vpctest"
)

var errStillOpen = errors.New("the flow is still open")

// TestAccelerate runs the agent with -accelerate. A flow of a pod passes by the forward hook,
// until a policy isolates the pod and stops the flow. On a kernel without flowtables the agent
// warns, and the pod works; internal/vm runs the test on one that has them.
func TestAccelerate(t *testing.T) {
	file := t.TempDir() + "/policies.json"
	writePolicies(t, file, 0)
	n := Start(t, vpctest.New(t).Node(t, "t3.small"), Config{Env: map[string]string{"VPCNET_ACCELERATE": "true", "VPCNET_NETWORK_POLICIES": file}})
	p := n.AddPodWith(t, named("other-1"))
	if got := p.Ask(t, "tcp", internet).Addr(); got != n.Addr {
		t.Errorf("the internet sees %v, want %v", got, n.Addr)
	}
	path, err := datapath.Open(n.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer path.Close()
	if lacking := path.Accelerates(t.Context()); lacking != nil {
		if inVM() {
			t.Fatal(lacking)
		}
		n.Eventually(t, func() error { return logged(n, "flows of pods are not accelerated", "nft_flow_offload") })
		return
	}
	// has returns an error unless the flowtable has the pod's link, or does not have it.
	has := func(want bool) error {
		s, err := path.Observe(t.Context())
		have := slices.ContainsFunc(s.Flows.Links, func(l netstate.FlowLink) bool { return l.Name == p.Result.Interfaces[0].Name && !l.Unhooked })
		if err == nil && have != want {
			err = fmt.Errorf("the flowtable has the link of the pod: %t, want %t", have, want)
		}
		return err
	}
	n.Eventually(t, func() error { return has(true) })
	n.Node.Run(t, "nft", "add table inet seen { chain forward { type filter hook forward priority 5; counter; }; }")
	seen := func() string { return n.Node.Run(t, "nft", "list", "chain", "inet", "seen", "forward") }
	c := p.Dial(t, "udp", internet)
	defer c.Close()
	say := func() error {
		if _, err := c.Write([]byte("hello")); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		_, err := c.Read(make([]byte, 100))
		return err
	}
	n.Eventually(t, func() error {
		before := seen()
		err := errors.Join(say(), say())
		if after := seen(); err == nil && after != before {
			err = fmt.Errorf("the forward hook sees packets of the flow: %s", after)
		}
		return err
	})
	writeFile(t, file, strings.ReplaceAll(fmt.Sprintf(policyText, 1), "locked-*", "other-*"))
	n.Agent.Signal(t, syscall.SIGHUP)
	n.Eventually(t, func() error {
		if say() == nil {
			return errStillOpen
		}
		return has(false)
	})
	writePolicies(t, file, 2)
	n.Agent.Signal(t, syscall.SIGHUP)
	n.Eventually(t, say)
	p.Delete(t)
}
