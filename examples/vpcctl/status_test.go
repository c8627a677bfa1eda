// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/ipam/ipamd/introspect"
)

var noon = time.Date(2026, 3, 25, 12, 0, 0, 0, time.UTC)

// fullNode is what the agent of a node says when its subnet is full.
func fullNode() introspect.Answers {
	return introspect.Answers{
		Status: ipamd.Status{
			Ready: true, Reason: ipam.ReasonSubnetFull, Evidence: "assign eni-2: InsufficientFreeAddressesInSubnet",
			Decisions: []string{"card 0: want 2 spare, have 0; assign eni-2 2 slots"}, InFlight: []string{"assign eni-2 2 slots"},
			Network: ipamd.NetworkStatus{Layout: "flat", HostLinkPrefix: "eni", SNATBackend: "nftables"},
			Cards:   []ipamd.CardStatus{{Card: 0, MaxENIs: 3, SlotsPerENI: 3, AddressesPerSlot: 1}},
			ENIs: []ipamd.ENIStatus{
				{ID: "eni-1", MAC: "06:00:00:00:00:01", Kind: eni.KindInterface, Subnet: "subnet-1", Table: 254, Mark: 1, Ready: true, Blocks: []ipamd.BlockStatus{
					{Prefix: netip.MustParsePrefix("10.0.0.5/32"), Used: 1}, {Prefix: netip.MustParsePrefix("10.0.0.6/32"), Used: 1, Quarantined: 1},
				}},
				{ID: "eni-2", MAC: "06:00:00:00:00:02", Device: 1, Subnet: "subnet-1", Table: 2, Mark: 2, Blocks: []ipamd.BlockStatus{
					{Prefix: netip.MustParsePrefix("10.0.0.9/32"), Cooling: 1}, {Prefix: netip.MustParsePrefix("2001:db8::/80"), Used: 1, Free: 1<<31 - 2},
				}},
			},
			Allocations: []ipamd.PodStatus{
				{Addr: netip.MustParseAddr("10.0.0.5"), ENI: "eni-1", Namespace: "default", Pod: "web-0", Link: "eni01", At: noon.Add(-time.Hour), Class: "web"},
				{Addr: netip.MustParseAddr("2001:db8::1"), ENI: "eni-2", Namespace: "default", Pod: "web-0", Link: "eni01", At: noon.Add(-time.Hour)},
				{Addr: netip.MustParseAddr("10.9.0.1"), ENI: "eni-9", Namespace: "default", Pod: "own", Link: "vlan1", At: noon},
			},
			Quarantined: []ipamd.QuarantinedStatus{{Addr: netip.MustParseAddr("10.0.0.6"), ENI: "eni-1", By: "route by eni77", Since: noon}},
			Events:      []agent.Event{{At: noon, Kind: "address-quarantined", Addr: netip.MustParseAddr("10.0.0.6"), ENI: "eni-1", Text: "in use by route by eni77"}},
		},
		Waiting: []introspect.Waiting{{Namespace: "default", Pod: "web-1", Since: noon}},
		Intents: []eni.Intent{{ID: "i", Op: eni.OpAssign, ENI: "eni-2", Start: noon}},
		Calls: []introspect.Call{
			{At: noon, Action: "DescribeSubnets", Caller: "refill", Took: "1ms"}, {At: noon, Action: "CreateNetworkInterface", Caller: "refill", Took: "2ms"},
			{At: noon.Add(time.Second), Action: "AssignPrivateIpAddresses", Caller: "refill", Code: "InsufficientFreeAddressesInSubnet", Took: "3ms"},
		},
		Failed: []introspect.Call{{At: noon.Add(time.Second), Action: "AssignPrivateIpAddresses", Caller: "refill", Code: "InsufficientFreeAddressesInSubnet", Took: "3ms"}},
	}
}

// serveAgent serves the answers of an agent and returns its address.
func serveAgent(t *testing.T, a introspect.Answers) string {
	t.Helper()
	mux := http.NewServeMux()
	for path, v := range map[string]any{
		"/v2/status": a.Status, "/v2/pool": map[string]any{"waiting": a.Waiting}, "/v2/intents": a.Intents,
		"/v2/ec2-calls": a.Calls, "/v2/version": a.Version, "/v2/ec2-errors": a.Failed, "/v2/settings": a.Settings,
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v) })
	}
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// shows runs commands and checks exit status and output.
func shows(t *testing.T, with []string, rows []shown) {
	t.Helper()
	for _, c := range rows {
		code, out, stderr := vpcctl(t, append(strings.Fields(c.args), with...)...)
		if code != c.code {
			t.Errorf("%s: exit %d, want %d: %s", c.args, code, c.code, stderr)
		}
		for _, w := range c.want {
			if !strings.Contains(out+stderr, w) {
				t.Errorf("%s: want %q in:\n%s%s", c.args, w, out, stderr)
			}
		}
	}
}

// shown is a command line, its exit status and texts of its output.
type shown struct {
	args string
	code int
	want []string
}

func TestStatus(t *testing.T) {
	shows(t, []string{"-agent", serveAgent(t, fullNode())}, []shown{
		{"status", 0, []string{
			"ready, but there are no more addresses", "blocker    subnet-full: assign eni-2: Insuff", "layout flat, SNAT by nftables", "policy     card 0: want 2 spare",
			"doing      assign eni-2 2 slots", "unfinished assign eni-2", "2 with addresses, 1 waiting", "3 addresses: 3 used, 1 cooling, 0 free, 1 quarantined; 1 IPv6 prefixes",
			"card 0     2 of 3 ENIs", "eni-1  0     0",
		}},
		{"status -o yaml", 0, []string{"answers: true\n", "reason: subnet-full\n", "quarantined: 1\n"}},
		{"enis", 0, []string{"ENI    CARD", "eni-2  0     1       -          subnet-1  no "}},
		{"enis -o wide", 0, []string{"MAC", "10.0.0.9/32,2001:db8::/80"}},
		{"enis -o json", 0, []string{`"id": "eni-2"`}},
		{"pods", 0, []string{"default    web-0  10.0.0.5     eni-1  eni01", "default    web-1  waiting"}},
		{"pods --o=yaml", 0, []string{"waiting: true", "addr: 10.0.0.5"}},
		{"events", 0, []string{"address-quarantined", "ec2-call", "CreateNetworkInterface for refill: done", "ec2-error", "InsufficientFreeAddressesInSubnet"}},
		{"explain pod default/web-0", 0, []string{
			"10.0.0.5 was given to default/web-0 at 2026-03-25T11:00:00Z. It is on eni-1", "Its block 10.0.0.5/32 has 1 used", "route table 254, by mark 0x1, and come from link eni01",
			"class web", "Its block 2001:db8::/80 has 1 used.",
		}},
		{"explain pod 10.9.0.1", 0, []string{"eni-9, which is not in the pool: the pod has an ENI of its own"}},
		{"explain pod default/web-1", 0, []string{"waits for an address since 2026-03-25T12:00:00Z", "subnet-full: the subnet has no free address", "EC2 answered InsufficientFreeAddressesInSubnet", "do: add a subnet"}},
		{"explain pod 10.0.0.6", 0, []string{"quarantined since", "route by eni77 uses it"}},
		{"explain pod 10.0.0.9", 0, []string{"No pod has it; the block has 0 used, 1 cooling, 0 free"}},
		{"explain pod default/none", 1, []string{"its ADD has not reached the agent"}},
		{"explain pod 10.7.7.7", 1, []string{"no ENI of this node holds it"}},
		{"explain eni eni-1", 0, []string{"eni-1 (interface, network card 0, device 0, subnet-1)", "kept because of its pods: default/web-0 10.0.0.5", "10.0.0.6 is quarantined"}},
		{"explain eni eni-2", 0, []string{"are not verified", "An operation on it is not finished: assign eni-2", "The agent does this now: assign eni-2 2 slots"}},
		{"explain eni eni-7", 1, []string{"does not know eni-7"}},
		{"explain failure", 0, []string{"subnet-full: the subnet has no free address", "Evidence: assign eni-2", "The warm pool policy decided: card 0", "to AssignPrivateIpAddresses at", "do: add a subnet"}},
		{"explain", 2, []string{"want pod with a name"}},
		{"explain pod", 2, []string{"want pod with a name"}},
		{"pods -o xml", 2, []string{"want table, wide, json or yaml"}},
	})
	code, out, _ := vpcctl(t, "events", "-agent", serveAgent(t, fullNode()))
	if code != 0 || strings.Contains(out, "DescribeSubnets") {
		t.Errorf("events with a call that only describes:\n%s", out)
	}
}

// TestStatusOfOthers shows agents that are healthy, not ready, or do not answer.
func TestStatusOfOthers(t *testing.T) {
	shows(t, []string{"-agent", serveAgent(t, introspect.Answers{Status: ipamd.Status{Ready: true, Free: 3}})}, []shown{
		{"status", 0, []string{"agent      ready ("}},
		{"explain failure", 0, []string{"there is no failure", "3 addresses can be given"}},
	})
	starting := ipamd.Status{Reason: ipam.ReasonAgentStarting, Evidence: "the metadata service does not answer"}
	shows(t, []string{"-agent", serveAgent(t, introspect.Answers{Status: starting})}, []shown{
		{"status", 3, []string{"agent      not ready", "blocker    agent-starting: the metadata service does not answer"}},
	})
	down := []string{"-agent", "unix:" + t.TempDir() + "/none.sock", "-state-dir"}
	shows(t, append(down, t.TempDir()), []shown{
		{"status", 3, []string{"THE AGENT DOES NOT ANSWER. This is what its state directory", "agent      does not answer", "no such file", "there is no journal of the pool"}},
		{"pods", 0, []string{"THE AGENT DOES NOT ANSWER"}},
		{"explain failure", 0, []string{"The agent does not answer"}},
	})
	shows(t, append(down, t.TempDir()+"/none"), []shown{
		{"status", 3, []string{"and its state directory cannot be read"}},
		{"pods", 1, []string{"none.sock", "no such file"}},
	})
}

// TestReasonTexts wants a text for each reason.
func TestReasonTexts(t *testing.T) {
	for _, r := range ipam.Reasons() {
		if text := reasonTexts[r]; text.meaning == "" || text.do == "" {
			t.Errorf("%s has the text %+v", r, text)
		}
	}
	if diff := cmp.Diff(len(ipam.Reasons()), len(reasonTexts)); diff != "" {
		t.Errorf("number of reasons (-want +got):\n%s", diff)
	}
}
