// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// covers says, for each call that changes something, whether an open intent in
// the journal tells what the call is about and what EC2 has answered before it.
var covers = map[string]func(in eni.Intent, form url.Values) bool{
	"CreateNetworkInterface": func(in eni.Intent, f url.Values) bool {
		return in.Op == eni.OpProvision && in.Token == f.Get("ClientToken")
	},
	"AttachNetworkInterface": func(in eni.Intent, f url.Values) bool {
		return in.Op == eni.OpProvision && in.Made != nil && in.ENI == f.Get("NetworkInterfaceId")
	},
	"ModifyNetworkInterfaceAttribute": func(in eni.Intent, f url.Values) bool {
		return in.Op == eni.OpProvision && in.Attached && in.ENI == f.Get("NetworkInterfaceId")
	},
	"AssignPrivateIpAddresses": func(in eni.Intent, f url.Values) bool {
		return in.Op == eni.OpAssign && in.ENI == f.Get("NetworkInterfaceId")
	},
	"UnassignPrivateIpAddresses": func(in eni.Intent, f url.Values) bool {
		addr, err := netip.ParseAddr(f.Get("PrivateIpAddress.1"))
		return err == nil && in.Op == eni.OpUnassign && slices.Contains(in.Blocks, netip.PrefixFrom(addr, 32))
	},
	"DetachNetworkInterface": func(in eni.Intent, f url.Values) bool {
		return in.Op == eni.OpRetire && in.Attachment == f.Get("AttachmentId")
	},
	"DeleteNetworkInterface": func(in eni.Intent, f url.Values) bool {
		return in.Op == eni.OpRetire && in.Detached && in.ENI == f.Get("NetworkInterfaceId")
	},
}

// TestJournalIsAhead: before each call that changes something the journal holds
// what the next process needs to go on; afterwards nothing is open, and in the
// end nothing is left.
func TestJournalIsAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.large")
		intents := eni.NewMemory()
		seen := map[string]bool{}
		client := eni.NewClient(w.config(inst.ID, func(rt http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				form := w.form(r)
				if action := form.Get("Action"); covers[action] != nil {
					seen[action] = true
					w.ahead(intents, form)
				}
				return rt.RoundTrip(r)
			})
		}), fast)
		m := w.manager(inst, eni.Config{Client: client, Intents: intents})
		e := w.provision(m, eni.ProvisionInput{Slots: 2})
		_, err := m.Assign(t.Context(), eni.AssignInput{ENI: e.ID, Slots: 1})
		w.check(err)
		w.check(m.Unassign(t.Context(), eni.UnassignInput{ENI: e.ID, Blocks: e.Blocks()[:1]}))
		w.AddFault(enitest.Fault{Action: "AssignPrivateIpAddresses", Times: 1, Err: &enitest.APIError{Code: "UnauthorizedOperation"}})
		if _, err := m.Assign(t.Context(), eni.AssignInput{ENI: e.ID, Slots: 1}); !errors.Is(err, eni.ErrUnauthorized) {
			t.Errorf("assign: %v, want ErrUnauthorized", err)
		}
		w.check(m.Retire(t.Context(), e.ID))
		if len(seen) != len(covers) {
			t.Errorf("only %v were called", seen)
		}
		left, err := intents.All(t.Context())
		w.check(err)
		if slices.ContainsFunc(left, func(in eni.Intent) bool { return !in.Done }) {
			t.Errorf("open: %+v", left)
		}
		time.Sleep(time.Hour)
		_, err = m.Discover(t.Context())
		w.check(err)
		if left, err = intents.All(t.Context()); err != nil || len(left) > 0 {
			t.Errorf("%d intents are left an hour later, %v", len(left), err)
		}
	})
}

// ahead checks that the journal covers a call that is about to be made.
func (w *world) ahead(journal eni.Intents, form url.Values) {
	w.t.Helper()
	all, err := journal.All(w.t.Context())
	w.check(err)
	action := form.Get("Action")
	if !slices.ContainsFunc(all, func(in eni.Intent) bool { return !in.Done && covers[action](in, form) }) {
		w.t.Errorf("%s before the journal has it: %+v", action, all)
	}
}

// form is what a request to EC2 asks for.
func (w *world) form(r *http.Request) url.Values {
	w.t.Helper()
	if r.Body == nil {
		return nil
	}
	body, err := io.ReadAll(r.Body)
	w.check(err)
	r.Body = io.NopCloser(bytes.NewReader(body))
	form, err := url.ParseQuery(string(body))
	w.check(err)
	return form
}

// obedient is a journal that writes nothing once its context has ended.
type obedient struct{ *eni.Memory }

func (o obedient) Put(ctx context.Context, in eni.Intent) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return o.Memory.Put(ctx, in)
}

// TestAnswersAreJournalledAfterCancel: what EC2 has done is written down also if
// nobody waits for it any more.
func TestAnswersAreJournalledAfterCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.large")
		intents := eni.NewMemory()
		m := w.manager(inst, eni.Config{Intents: obedient{Memory: intents}})
		_, err := m.Discover(t.Context())
		w.check(err)
		ctx, cancel := context.WithCancel(t.Context())
		w.OnChange(func(e enitest.Event) {
			if e.Op == enitest.Attached {
				cancel()
			}
		})
		if _, err := m.Provision(ctx, eni.ProvisionInput{Slots: 1}); err == nil {
			t.Error("Provision succeeded")
		}
		all, err := intents.All(t.Context())
		w.check(err)
		if len(all) != 1 || !all[0].Attached || all[0].Attachment == "" {
			t.Errorf("the journal has %+v, want the attachment in it", all)
		}
	})
}
