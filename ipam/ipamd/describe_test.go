// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// evidence has for each reason what the agent or the pool says about it.
var evidence = map[ipam.Reason]string{
	ipam.ReasonAgentStarting:  "the ENIs of the instance are not known yet; 0 blocks, 0 addresses used, 0 cooling",
	ipam.ReasonAgentStopping:  "the agent was asked to stop; 1 blocks, 3 addresses used, 0 cooling",
	ipam.ReasonRefilling:      "addresses are being given back, which makes room for others; 3 blocks, 3 addresses used, 0 cooling",
	ipam.ReasonCooling:        "2 blocks, 14 addresses used, 18 cooling",
	ipam.ReasonAllInUse:       "policy: 30 used, 0 spare; 2 blocks, 30 addresses used, 0 cooling",
	ipam.ReasonPoolLimit:      "110 attachments hold addresses, the maximum is 110",
	ipam.ReasonENILimit:       "card 0 has the maximum of 3 ENIs with 9 slots each; 27 blocks, 27 addresses used, 0 cooling",
	ipam.ReasonSlotLimit:      opError("assign", eni.ReasonSlotLimit, "PrivateIpAddressLimitExceeded"),
	ipam.ReasonQuota:          opError("create", eni.ReasonQuota, "NetworkInterfaceLimitExceeded"),
	ipam.ReasonSubnetFull:     opError("assign", eni.ReasonSubnetFull, "InsufficientFreeAddressesInSubnet"),
	ipam.ReasonNoFreePrefix:   opError("assign", eni.ReasonNoFreePrefix, "InsufficientCidrBlocks"),
	ipam.ReasonThrottled:      opError("assign", eni.ReasonThrottled, "RequestLimitExceeded"),
	ipam.ReasonUnauthorized:   opError("assign", eni.ReasonUnauthorized, "UnauthorizedOperation"),
	ipam.ReasonEC2Unreachable: opError("assign", eni.ReasonUnreachable, ""),
	ipam.ReasonNoMetadata:     "observe: " + opError("list", eni.ReasonNoMetadata, ""),
	ipam.ReasonSafeMode:       opError("assign", eni.ReasonMode, ""),
	ipam.ReasonInFlight:       opError("attach", eni.ReasonStillInFlight, ""),
	ipam.ReasonInUse:          opError("detach", eni.ReasonInUse, ""),
	ipam.ReasonNoSuchAddress:  "no ENI of this node has it",
	ipam.ReasonNotFound:       opError("assign", eni.ReasonNotFound, "InvalidNetworkInterfaceID.NotFound"),
	ipam.ReasonNotManaged:     opError("assign", eni.ReasonNotManaged, ""),
	ipam.ReasonLinkNotReady:   "no link with MAC 02:00:00:00:00:01; 1 blocks, 0 addresses used, 0 cooling, 1 blocks on ENIs not ready",
	ipam.ReasonNoBlocks:       "0 blocks, 0 addresses used, 0 cooling",
	ipam.ReasonEC2Refused:     opError("assign", eni.ReasonInvalid, "InvalidParameterValue"),
}

func opError(op string, r eni.Reason, code string) string {
	e := eni.NewOpError(op, r, nil)
	e.ENI, e.Code = "eni-0a1b", code
	return e.Error()
}

// TestDescribe compares what `kubectl describe pod` shows for each reason with a
// golden file. The runtime puts the name of the plugin in front of it.
func TestDescribe(t *testing.T) {
	at := cniplugin.Attachment{Network: "vpcnet", ContainerID: strings.Repeat("4f1c", 16), IfName: "eth0"}
	pod := cniplugin.Pod{Namespace: "default", Name: "web-7c5d", UID: "0c4b"}
	b := &Backend{}
	wanted := netip.MustParseAddr("10.0.1.5")
	var lines []string
	show := func(name string, e *cniplugin.AgentError) {
		t.Helper()
		text := describe(t, e)
		if clause := repeated(text); clause != "" {
			t.Errorf("%s: %q says %q twice", name, text, clause)
		}
		if regexp.MustCompile("[0-9a-f]{64}").MatchString(text) {
			t.Errorf("%s: %q has the ID of a container, want the name of the pod", name, text)
		}
		lines = append(lines, fmt.Sprintf("%-16s %s", name, text))
	}
	for _, r := range ipam.Reasons() {
		if evidence[r] == "" {
			t.Errorf("this test has no evidence for %s", r)
		}
		none := &ipam.ExhaustedError{
			Attachment: ipam.Attachment(at), Family: ipam.IPv4, Reason: r, Evidence: evidence[r],
			RetryAfter: 27*time.Second - 123*time.Microsecond, Waited: 1512 * time.Millisecond,
		}
		if r == ipam.ReasonNoSuchAddress {
			none.Addr, none.RetryAfter, none.Waited = wanted, 0, 0
		}
		show(string(r), b.explain(fmt.Errorf("allocate: %w", none), at, pod))
	}
	for _, none := range []ipam.ExhaustedError{
		{Reason: ipam.ReasonInUse, Evidence: "default/db holds it"},
		{Reason: ipam.ReasonCooling, Evidence: "another pod may have had it until 3s ago", RetryAfter: 27 * time.Second},
		{Reason: ipam.ReasonNoBlocks, Evidence: "pods get no IPv4 addresses here, only [IPv6]"},
		{Reason: ipam.ReasonInFlight, Evidence: "10.0.1.0/28 on eni-0a1b is being given back to EC2"},
		{Reason: ipam.ReasonLinkNotReady, Evidence: "the link of eni-0a1b is not verified", Waited: 53 * time.Second},
	} {
		none.Attachment, none.Family, none.Addr = ipam.Attachment(at), ipam.IPv4, wanted
		show("wanted address", b.explain(fmt.Errorf("allocate: %w", &none), at, pod))
	}
	problem := errors.New("the role lacks ec2:AssignPrivateIpAddresses")
	b.problem.Store(&problem)
	show("with a problem", b.explain(&ipam.ExhaustedError{Family: ipam.IPv6, Card: 1, Reason: ipam.ReasonRefilling, Evidence: "assign is under way"}, at, pod))
	show("starting", b.starting())
	for _, err := range []error{ipam.ErrInvalid, ipam.ErrConflict, ipam.ErrWitness, ipam.ErrJournal, errors.New("unforeseen")} {
		show(err.Error(), b.explain(fmt.Errorf("allocate for %v: %w", at, err), at, cniplugin.Pod{}))
	}

	const golden = "testdata/describe.txt"
	got := strings.Join(lines, "\n") + "\n"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// describe returns the text of the CNI error for an error of the agent, after its way
// through the protocol.
func describe(t *testing.T, e *cniplugin.AgentError) string {
	t.Helper()
	wire, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	got := new(cniplugin.AgentError)
	if err := json.Unmarshal(wire, got); err != nil {
		t.Fatal(err)
	}
	return cniplugin.CNIError(got).Error()
}

// repeated returns a clause of several words that text has twice, or that is part of
// another clause.
func repeated(text string) string {
	clauses := regexp.MustCompile("[:;] ").Split(text, -1)
	for i, c := range clauses {
		for j, other := range clauses {
			if i != j && strings.Contains(c, " ") && strings.Contains(other, c) {
				return c
			}
		}
	}
	return ""
}
