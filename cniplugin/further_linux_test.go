// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/servertest"
	"github.com/vpcnet/vpcnet/datapath"
)

// twoCards is an agent that gives each pod an interface on a second network card.
type twoCards struct {
	*servertest.Agent
	// wrong gives the second interface a name that no link can have.
	wrong bool
}

const secondIfName = "mNicIf1"

func second(at cniplugin.Attachment) cniplugin.Attachment {
	at.IfName = secondIfName
	return at
}

func (c *twoCards) with(first, further cniplugin.AddResponse) cniplugin.AddResponse {
	first.Interfaces = []cniplugin.Interface{{IfName: secondIfName, Addresses: further.Addresses}}
	if c.wrong {
		first.Interfaces[0].IfName = "a/b"
	}
	return first
}

func (c *twoCards) Add(ctx context.Context, req cniplugin.AddRequest) (cniplugin.AddResponse, error) {
	first, err := c.Agent.Add(ctx, req)
	if err != nil || !req.Interfaces {
		return first, err
	}
	req.Attachment = second(req.Attachment)
	further, err := c.Agent.Add(ctx, req)
	return c.with(first, further), err
}

func (c *twoCards) Del(ctx context.Context, req cniplugin.DelRequest) (cniplugin.DelResponse, error) {
	_, err := c.Agent.Del(ctx, cniplugin.DelRequest{Attachment: second(req.Attachment)})
	resp, ownErr := c.Agent.Del(ctx, req)
	return resp, errors.Join(err, ownErr)
}

func (c *twoCards) Check(ctx context.Context, req cniplugin.CheckRequest) (cniplugin.AddResponse, error) {
	first, err := c.Agent.Check(ctx, req)
	if err != nil {
		return first, err
	}
	further, err := c.Agent.Check(ctx, cniplugin.CheckRequest{Attachment: second(req.Attachment)})
	return c.with(first, further), err
}

func (c *twoCards) GC(ctx context.Context, req cniplugin.GCRequest) (cniplugin.GCResponse, error) {
	resp, err := c.Agent.GC(ctx, req)
	resp.Stale = slices.DeleteFunc(resp.Stale, func(a cniplugin.Attachment) bool { return a.IfName == secondIfName })
	return resp, err
}

// TestFurtherInterfaces checks a pod with an interface on a second card in the whole life of
// pods: repeated ADD, CHECK, DEL with and without a previous result and without a sandbox,
// GC, and an answer that cannot be wired. Nothing may be left behind.
func TestFurtherInterfaces(t *testing.T) {
	for _, layout := range []string{"flat", "per-pod"} {
		t.Run(layout, func(t *testing.T) {
			n := newNode(t, ofLayout(layout))
			cards := &twoCards{Agent: n.agent}
			n.backend = cards
			n.stop()
			n.start()
			before := n.state()
			gone := func(how string) {
				t.Helper()
				if after := n.state(); after != before {
					t.Fatalf("%s left behind:\n%s", how, after)
				}
			}
			add := func(id string) []byte {
				t.Helper()
				newSandbox(t, id)
				out := n.must(n.add(id))
				var r cniplugin.Result
				if err := json.Unmarshal(out, &r); err != nil {
					t.Fatal(err)
				}
				var inside []string
				for _, i := range r.Interfaces {
					if i.Sandbox != "" {
						inside = append(inside, i.Name)
					}
				}
				if !slices.Equal(inside, []string{"eth0", secondIfName}) || len(r.IPs) != 4 {
					t.Fatalf("the result has %v and %v, want two interfaces with two addresses each", inside, r.IPs)
				}
				return out
			}
			result := add("a")
			if again := n.must(n.add("a")); len(again) != len(result) {
				t.Errorf("a repeated ADD prints %s, want %s", again, result)
			}
			n.mustCheck("a", result)
			link, err := netlink.LinkByName(datapath.HostLinkName("eni", "a", secondIfName))
			if err == nil {
				err = netlink.LinkSetDown(link)
			}
			if err != nil {
				t.Fatal(err)
			}
			check := invocation{"CHECK", "a", sandboxPath("a"), "eth0", "", n.conf("1.0.0", `"prevResult":`+string(result))}
			if out, status := n.run(check); status == 0 {
				t.Errorf("CHECK succeeds although the second interface is down: %s", out)
			}
			del := n.del("a")
			del.stdin = n.conf("1.0.0", `"prevResult":`+string(result))
			n.must(del)
			gone("DEL with a previous result")
			add("b")
			n.must(n.del("b"))
			gone("DEL without a previous result")
			add("c")
			removeSandbox(t, "c")
			n.must(n.del("c"))
			gone("DEL without a sandbox")
			add("d")
			n.must(n.gc())
			gone("GC")
			cards.wrong = true
			newSandbox(t, "e")
			if out, status := n.run(n.add("e")); status == 0 {
				t.Errorf("ADD with an invalid interface succeeds: %s", out)
			}
			gone("a failed ADD")
		})
	}
}

// TestKilledWithFurtherInterfaces kills ADD and DEL of a pod with two interfaces before each
// step; the DEL after it leaves nothing behind.
func TestKilledWithFurtherInterfaces(t *testing.T) {
	n := newNode(t, ofLayout("per-pod"))
	n.backend = &twoCards{Agent: n.agent}
	n.stop()
	n.start()
	for _, command := range []string{"ADD", "DEL"} {
		t.Run(command, func(t *testing.T) {
			n.killAtEach(t, func(i int, kill func(invocation) bool) bool {
				id := fmt.Sprint("pod", i)
				newSandbox(t, id)
				defer removeSandbox(t, id)
				victim := n.add(id)
				if command == "DEL" {
					n.must(victim)
					victim = n.del(id)
				}
				killed := kill(victim)
				n.must(n.del(id))
				return killed
			})
		})
	}
}
