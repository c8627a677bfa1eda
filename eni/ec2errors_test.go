// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// subnetFull is EC2's refusal if the subnet has fewer free addresses than requested.
var subnetFull = &enitest.APIError{Code: "InvalidParameterValue", Message: "There aren't sufficient free Ipv4 addresses or prefixes", Status: 400}

// unknownCode is a refusal that package eni has no row for.
var unknownCode = &enitest.APIError{Code: "NewsToUs", Message: "never heard of", Status: 400}

// TestFullSubnetInOtherWords checks that a subnet that EC2 calls full with
// InvalidParameterValue is left for the next one, whether EC2 refuses the creation
// or the attachment.
func TestFullSubnetInOtherWords(t *testing.T) {
	for _, action := range []string{"CreateNetworkInterface", "AttachNetworkInterface"} {
		for _, prefixes := range []bool{false, true} {
			inBubble(func(t *testing.T) {
				w := newWorld(t, enitest.Config{})
				free := w.addSubnet("10.0.2.0/24", "", nil)
				m := w.manager(w.run("m5.large"), eni.Config{Subnets: eni.SubnetsByID{w.subnet.ID, free.ID}})
				w.AddFault(enitest.Fault{Action: action, Times: 1, Err: subnetFull})
				e := w.provision(m, eni.ProvisionInput{Slots: 2, Prefixes: prefixes, Singles: 2})
				if e.SubnetID != free.ID || len(e.Blocks()) != 2 {
					t.Errorf("%s refused: %v in %s, want 2 slots in %s", action, e.Blocks(), e.SubnetID, free.ID)
				}
				if got := len(w.ENIs()); got != 2 {
					t.Errorf("%s refused: %d ENIs exist, want 2", action, got)
				}
			})(t)
		}
	}
}

// TestFullSubnetAtAttach checks that Provision ends, leaves nothing behind and rests
// if EC2 refuses every attachment because of the subnet.
func TestFullSubnetAtAttach(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		m := w.manager(w.run("m5.large"), eni.Config{})
		w.AddFault(enitest.Fault{Action: "AttachNetworkInterface", Err: subnetFull})
		for _, in := range []eni.ProvisionInput{{Slots: 2, Prefixes: true, Singles: 2}, {Slots6: 1}} {
			if _, err := m.Provision(t.Context(), in); !errors.Is(err, eni.ErrSubnetFull) {
				t.Errorf("Provision: %v, want ErrSubnetFull", err)
			}
		}
		w.ResetCalls()
		_, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 2})
		var op *eni.OpError
		if !errors.As(err, &op) || op.RetryAfter() <= 0 || len(w.Calls()) > 0 || len(w.ENIs()) != 1 {
			t.Errorf("at once: %#v, calls %v, %d ENIs", err, w.Calls(), len(w.ENIs()))
		}
	})(t)
}

// TestFullSubnetAtAssign checks that Assign asks for single addresses, and rests if
// there are none, after EC2 has called the subnet full with InvalidParameterValue.
func TestFullSubnetAtAssign(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		m := w.manager(w.run("m5.large"), eni.Config{})
		_, err := m.Discover(t.Context())
		w.check(err)
		in := eni.AssignInput{ENI: w.eni(m), Prefixes: true, Slots: 1, Singles: 4}
		w.AddFault(enitest.Fault{Action: "AssignPrivateIpAddresses", Times: 1, Err: subnetFull})
		got, err := m.Assign(t.Context(), in)
		if err != nil || len(got) != 4 || !got[0].IsSingleIP() {
			t.Errorf("assigned %v, %v, want 4 single addresses", got, err)
		}
		w.AddFault(enitest.Fault{Action: "AssignPrivateIpAddresses", Err: subnetFull})
		if _, err := m.Assign(t.Context(), in); !errors.Is(err, eni.ErrSubnetFull) {
			t.Errorf("all refused: %v", err)
		}
		w.ResetCalls()
		if _, err := m.Assign(t.Context(), in); !errors.Is(err, eni.ErrSubnetFull) || len(w.Calls()) > 0 {
			t.Errorf("at once: %v, calls %v", err, w.Calls())
		}
	})(t)
}

// TestUnassignRefused checks that no refusal of EC2 counts as success while EC2 shows
// the blocks on the ENI.
func TestUnassignRefused(t *testing.T) {
	for _, code := range []string{
		"OperationNotPermitted", "UnsupportedOperation", "Blocked", "InvalidAction", "IdempotentParameterMismatch",
		"InvalidParameterValue", "InvalidNetworkInterfaceID.NotFound", "IncorrectState", "UnauthorizedOperation", "NewsToUs",
	} {
		t.Run(code, inBubble(func(t *testing.T) {
			w := newWorld(t, enitest.Config{})
			m := w.manager(w.run("m5.large"), eni.Config{})
			e := w.provision(m, eni.ProvisionInput{Slots: 2})
			time.Sleep(10 * time.Minute)
			remove := w.AddFault(enitest.Fault{Action: "UnassignPrivateIpAddresses", Err: &enitest.APIError{Code: code, Message: "because", Status: 400}})
			blocks := e.Blocks()
			for _, group := range [][]netip.Prefix{blocks[:1], blocks} {
				if err := m.Unassign(t.Context(), eni.UnassignInput{ENI: e.ID, Blocks: group}); err == nil {
					t.Errorf("%d blocks: no error although EC2 refused", len(group))
				}
			}
			remove()
			time.Sleep(20 * time.Minute)
			_ = m.Resume(t.Context())
			w.check(m.Unassign(t.Context(), eni.UnassignInput{ENI: e.ID, Blocks: blocks}))
			if left, _ := w.ENI(e.ID); len(left.Addrs) != 0 {
				t.Errorf("the ENI has %v after the refusals ended", left.Addrs)
			}
		}))
	}
}

// TestUnassignRefusedAfterAssign has an ENI with a new address that EC2 does not know yet,
// so that it refuses to unassign it. The address must not count as unassigned.
func TestUnassignRefusedAfterAssign(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		m := w.manager(w.run("m5.large"), eni.Config{})
		e := w.provision(m, eni.ProvisionInput{Slots: 1})
		got := w.assignTo(m, e.ID, 1)
		w.AddFault(enitest.Fault{Action: "UnassignPrivateIpAddresses", Times: 1, Err: &enitest.APIError{
			Code: "InvalidParameterValue", Message: "Some of the specified addresses are not assigned to interface " + e.ID, Status: 400,
		}})
		in := eni.UnassignInput{ENI: e.ID, Blocks: got}
		if err := m.Unassign(t.Context(), in); err == nil {
			t.Error("no error although the address is on the ENI")
		}
		w.check(m.Resume(t.Context()))
		if have, _ := w.ENI(e.ID); len(have.Addrs) != 1 {
			t.Errorf("the ENI has %v after Resume, want one address", have.Addrs)
		}
	})(t)
}

// TestUnknownCode refuses each call of the life of an ENI once with a code that has
// no row. Every operation must succeed at last, without a second ENI.
func TestUnknownCode(t *testing.T) {
	for _, action := range []string{
		"DescribeNetworkInterfaces", "CreateNetworkInterface", "AttachNetworkInterface", "ModifyNetworkInterfaceAttribute",
		"AssignPrivateIpAddresses", "UnassignPrivateIpAddresses", "DetachNetworkInterface", "DeleteNetworkInterface",
	} {
		t.Run(action, inBubble(func(t *testing.T) {
			w := newWorld(t, enitest.Config{})
			inst := w.run("m5.large")
			counted := 0
			cfg := fast
			cfg.OnCall = func(c eni.Call) {
				if c.Unknown && c.Action == action && c.Code == "NewsToUs" {
					counted++
				}
			}
			m := w.manager(inst, eni.Config{Client: eni.NewClient(w.config(inst.ID, nil), cfg)})
			w.AddFault(enitest.Fault{Action: action, Times: 1, Err: unknownCode})
			try := func(name string, do func() error) {
				t.Helper()
				var err error
				for range 3 {
					if err = do(); err == nil {
						return
					}
					time.Sleep(30 * time.Second)
				}
				t.Errorf("%s: %v", name, err)
			}
			var e eni.ENI
			var got []netip.Prefix
			try("provision", func() (err error) { e, err = m.Provision(t.Context(), eni.ProvisionInput{Slots: 1}); return err })
			try("assign", func() (err error) {
				got, err = m.Assign(t.Context(), eni.AssignInput{ENI: e.ID, Slots: 1})
				return err
			})
			try("unassign", func() error { return m.Unassign(t.Context(), eni.UnassignInput{ENI: e.ID, Blocks: got}) })
			if n := len(w.ENIs()); n != 2 {
				t.Errorf("%d ENIs, want 2", n)
			}
			try("retire", func() error { return m.Retire(t.Context(), e.ID) })
			time.Sleep(5 * time.Minute)
			_, err := m.Discover(t.Context())
			w.check(err)
			if open, err := m.Unfinished(t.Context()); len(open) != 0 || err != nil || counted != 1 {
				t.Errorf("unfinished %+v, %v; %d refusals counted, want 1", open, err, counted)
			}
		}))
	}
}

// TestNewENINotKnownYet refuses each call after the creation, the attachment and the
// assignment once as EC2 does while not all of it knows the change. The operation
// must succeed with the same ENI.
func TestNewENINotKnownYet(t *testing.T) {
	for action, codes := range map[string][]string{
		"AttachNetworkInterface":          {"InvalidNetworkInterfaceID.NotFound", "IncorrectState", "IncorrectInstanceState"},
		"ModifyNetworkInterfaceAttribute": {"InvalidAttachmentID.NotFound", "InvalidNetworkInterfaceID.NotFound", "IncorrectState"},
		"AssignPrivateIpAddresses":        {"InvalidNetworkInterfaceID.NotFound", "IncorrectState"},
		"UnassignPrivateIpAddresses":      {"InvalidNetworkInterfaceID.NotFound", "IncorrectState"},
		"DetachNetworkInterface":          {"InvalidAttachmentID.NotFound", "IncorrectState"},
	} {
		for _, code := range codes {
			t.Run(action+" "+code, inBubble(func(t *testing.T) {
				w := newWorld(t, enitest.Config{})
				m := w.manager(w.run("m5.large"), eni.Config{})
				w.AddFault(enitest.Fault{Action: action, Times: 2, Err: &enitest.APIError{Code: code, Message: "not yet", Status: 400}})
				e := w.provision(m, eni.ProvisionInput{Slots: 1})
				got := w.assignTo(m, e.ID, 1)
				for m.Unassign(t.Context(), eni.UnassignInput{ENI: e.ID, Blocks: got}) != nil {
					time.Sleep(time.Second)
				}
				if have, ok := w.ENI(e.ID); !ok || !have.Attachment.DeleteOnTermination || len(have.Addrs) != 1 {
					t.Errorf("the ENI is %+v, want it attached with 1 address", have)
				}
				if calls := w.Calls(); calls["CreateNetworkInterface"] != 1 || calls["DeleteNetworkInterface"] != 0 {
					t.Errorf("calls %v, want one ENI created and none deleted", calls)
				}
				w.check(m.Retire(t.Context(), e.ID))
				if _, ok := w.ENI(e.ID); ok {
					t.Error("the ENI exists after Retire")
				}
			}))
		}
	}
}

// TestModifyRefusedForLong checks that an ENI is not deleted if EC2 refuses its
// delete-on-termination for a minute, and that the next Provision finishes it.
func TestModifyRefusedForLong(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		m := w.manager(w.run("m5.large"), eni.Config{})
		remove := w.AddFault(enitest.Fault{Action: "ModifyNetworkInterfaceAttribute", Err: &enitest.APIError{Code: "InvalidAttachmentID.NotFound", Status: 400}})
		if _, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 1}); !errors.Is(err, eni.ErrNotFound) {
			t.Errorf("Provision: %v, want ErrNotFound", err)
		}
		remove()
		e := w.provision(m, eni.ProvisionInput{Slots: 1})
		if calls := w.Calls(); e.ID == "" || calls["CreateNetworkInterface"] != 1 || calls["DetachNetworkInterface"] != 0 {
			t.Errorf("%+v after calls %v, want the first ENI", e, calls)
		}
	})(t)
}

// TestEmptyListIsNotFinal loses the answer of an Assign while EC2's listing omits the
// ENI. Resume must not drop the operation before EC2 has had time to show it.
func TestEmptyListIsNotFinal(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.large")
		empty := false
		hide := func(rt http.RoundTripper) http.RoundTripper { return &hideENIs{rt, &empty} }
		m := w.manager(inst, eni.Config{Client: eni.NewClient(w.config(inst.ID, hide), fast)})
		e := w.provision(m, eni.ProvisionInput{Slots: 1})
		empty = true
		w.AddFault(enitest.Fault{Action: "AssignPrivateIpAddresses", Times: 1, Drop: true})
		if _, err := m.Assign(t.Context(), eni.AssignInput{ENI: e.ID, Slots: 1}); !errors.Is(err, eni.ErrUnreachable) {
			t.Errorf("Assign: %v, want ErrUnreachable", err)
		}
		w.check(m.Resume(t.Context()))
		if err := m.Retire(t.Context(), e.ID); !errors.Is(err, eni.ErrNotFound) {
			t.Errorf("Retire: %v, want ErrNotFound", err)
		}
		if open, _ := m.Unfinished(t.Context()); len(open) != 1 {
			t.Errorf("unfinished: %+v, want the Assign", open)
		}
		empty = false
		w.check(m.Resume(t.Context()))
		if known, _ := m.Inventory().ENI(e.ID); len(known.Addrs) != 2 {
			t.Errorf("the inventory shows %v, want 2 addresses", known.Addrs)
		}
	})(t)
}

// hideENIs answers DescribeNetworkInterfaces with an empty list while *on is set.
type hideENIs struct {
	http.RoundTripper
	on *bool
}

func (h *hideENIs) RoundTrip(r *http.Request) (*http.Response, error) {
	return editResponse(h.RoundTripper, r, func(body string) string {
		if !*h.on || !strings.Contains(body, "<DescribeNetworkInterfacesResponse") {
			return body
		}
		before, rest, _ := strings.Cut(body, "<networkInterfaceSet>")
		return before + "<networkInterfaceSet>" + rest[strings.LastIndex(rest, "</networkInterfaceSet>"):]
	})
}

// editResponse makes a round trip and edits the body of the answer.
func editResponse(rt http.RoundTripper, r *http.Request, edit func(string) string) (*http.Response, error) {
	res, err := rt.RoundTrip(r)
	if err != nil {
		return res, err
	}
	body, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil {
		return nil, err
	}
	edited := edit(string(body))
	res.Body, res.ContentLength = io.NopCloser(strings.NewReader(edited)), int64(len(edited))
	res.Header.Del("Content-Length")
	return res, nil
}

// TestBranchNotKnownYet refuses the association of a new branch as EC2 does while not
// all of it knows the branch or the attachment of the trunk, and then hides the new
// branch from the listing. The branch must be associated, and not count as gone.
func TestBranchNotKnownYet(t *testing.T) {
	for _, code := range []string{"IncorrectState", "InvalidNetworkInterfaceID.NotFound"} {
		inBubble(func(t *testing.T) {
			w := newWorld(t, enitest.Config{})
			inst := w.run("m5.large")
			empty := false
			hide := func(rt http.RoundTripper) http.RoundTripper { return &hideENIs{rt, &empty} }
			m := w.manager(inst, eni.Config{Client: eni.NewClient(w.config(inst.ID, hide), fast)})
			trunk := w.provision(m, eni.ProvisionInput{Kind: eni.KindTrunk})
			w.AddFault(enitest.Fault{Action: "AssociateTrunkInterface", Times: 3, Err: &enitest.APIError{Code: code, Message: "not yet", Status: 400}})
			_, b, err := m.CreateBranch(t.Context(), eni.BranchInput{Trunk: trunk.ID})
			if err != nil || b.Association == "" {
				t.Fatalf("%s: %+v, %v, want the branch associated", code, b, err)
			}
			empty = true
			var op *eni.OpError
			if err := m.RetireBranch(t.Context(), b); !errors.As(err, &op) || op.RetryAfter() <= 0 {
				t.Errorf("%s: RetireBranch of a hidden branch: %v, want an error with a time", code, err)
			}
			empty = false
			w.check(m.RetireBranch(t.Context(), b))
			time.Sleep(2 * time.Minute)
			w.check(m.Resume(t.Context()))
			if _, ok := w.ENI(b.ENI); ok {
				t.Errorf("%s: the branch exists after its end", code)
			}
		})(t)
	}
}
