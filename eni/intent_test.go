// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"bytes"
	"context"
	"encoding/json"
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

// covers contains a function for each call that changes something. The function
// reports whether an unfinished intent describes the call and contains EC2's
// answers to the earlier calls.
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

// TestIntentsPrecedeCalls checks that before each call that changes something the
// journal has what the next process needs to continue. Afterwards no intent may be
// unfinished, and an hour later the journal must be empty.
func TestIntentsPrecedeCalls(t *testing.T) {
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
					w.checkJournalled(intents, form)
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
			t.Errorf("called %v, want all of the %d actions", seen, len(covers))
		}
		left, err := intents.All(t.Context())
		w.check(err)
		if slices.ContainsFunc(left, func(in eni.Intent) bool { return !in.Done }) {
			t.Errorf("unfinished: %+v", left)
		}
		time.Sleep(time.Hour)
		_, err = m.Discover(t.Context())
		w.check(err)
		if left, err = operations(t, intents); err != nil || len(left) > 0 {
			t.Errorf("%d intents are left an hour later, %v", len(left), err)
		}
	})
}

// operations returns the intents of a journal without the records beside them.
func operations(t *testing.T, journal eni.Intents) ([]eni.Intent, error) {
	all, err := journal.All(t.Context())
	return slices.DeleteFunc(all, func(in eni.Intent) bool { return in.Op == eni.OpOwned || in.Op == eni.OpLearned }), err
}

// checkJournalled checks that the journal covers a call that is about to be made.
func (w *world) checkJournalled(journal eni.Intents, form url.Values) {
	w.t.Helper()
	all, err := journal.All(w.t.Context())
	w.check(err)
	action := form.Get("Action")
	if !slices.ContainsFunc(all, func(in eni.Intent) bool { return !in.Done && covers[action](in, form) }) {
		w.t.Errorf("%s is called before the journal has its intent: %+v", action, all)
	}
}

// form returns the parameters of a request to EC2.
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

// cancelable is a journal that refuses to write after the end of its context.
type cancelable struct{ *eni.Memory }

func (o cancelable) Put(ctx context.Context, in eni.Intent) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return o.Memory.Put(ctx, in)
}

// TestAnswersAreJournalledAfterCancel checks that the journal records what EC2 has
// done even if the caller has canceled the operation.
func TestAnswersAreJournalledAfterCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.large")
		intents := eni.NewMemory()
		m := w.manager(inst, eni.Config{Intents: cancelable{Memory: intents}})
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
		all, err := operations(t, intents)
		w.check(err)
		if len(all) != 1 || !all[0].Attached || all[0].Attachment == "" {
			t.Errorf("the journal has %+v, want an intent with the attachment", all)
		}
	})
}

// TestIntentJSON checks that journals of earlier versions stay readable: they call
// DeleteOnTermination "Kept".
func TestIntentJSON(t *testing.T) {
	var in eni.Intent
	if err := json.Unmarshal([]byte(`{"ID":"1","Op":"provision","Attached":true,"Kept":true}`), &in); err != nil {
		t.Fatal(err)
	}
	if !in.DeleteOnTermination {
		t.Errorf("DeleteOnTermination is not set: %+v", in)
	}
	data, err := json.Marshal(in)
	if err != nil || !bytes.Contains(data, []byte(`"Kept":true`)) {
		t.Errorf("encoded as %s, %v, want Kept in it", data, err)
	}
}
