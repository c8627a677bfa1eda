// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"errors"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// editDescribes edits the answers to DescribeNetworkInterfaces.
type editDescribes struct {
	http.RoundTripper
	edit func(string) string
}

func (d *editDescribes) RoundTrip(r *http.Request) (*http.Response, error) {
	return editResponse(d.RoundTripper, r, func(body string) string {
		if d.edit == nil || !strings.Contains(body, "<DescribeNetworkInterfacesResponse") {
			return body
		}
		return d.edit(body)
	})
}

// byService returns an edit that makes an ENI one of a service: by the field operator,
// or by the older requesterManaged.
func byService(id, field string) func(string) string {
	return func(body string) string {
		before, rest, found := strings.Cut(body, "<networkInterfaceId>"+id+"</networkInterfaceId>")
		if !found {
			return body
		}
		mark := "<operator><managed>true</managed><principal>eks.amazonaws.com</principal></operator>"
		if field == "requesterManaged" {
			mark = ""
			rest = strings.Replace(rest, "<requesterManaged>false<", "<requesterManaged>true<", 1)
		}
		return before + "<networkInterfaceId>" + id + "</networkInterfaceId>" + mark + rest
	}
}

// TestManagedByService has the primary ENI, or a secondary one with this node's tags,
// managed by a service. The Manager must know it and its place, and change nothing.
func TestManagedByService(t *testing.T) {
	for _, field := range []string{"operator", "requesterManaged"} {
		for _, primary := range []bool{true, false} {
			inBubble(func(t *testing.T) {
				w := newWorld(t, enitest.Config{})
				inst := w.run("m5.large")
				edit := &editDescribes{}
				m := w.manager(inst, eni.Config{Client: eni.NewClient(w.config(inst.ID, func(rt http.RoundTripper) http.RoundTripper {
					edit.RoundTripper = rt
					return edit
				}), fast)})
				e := w.provision(m, eni.ProvisionInput{Slots: 2})
				id := e.ID
				if primary {
					id = w.eni(m)
				}
				edit.edit = byService(id, field)
				time.Sleep(10 * time.Minute)
				_, err := m.Discover(t.Context())
				w.check(err)
				known, ok := m.Inventory().ENI(id)
				if !ok || known.Managed || known.ForPods() || known.ManagedBy == "" || field == "operator" && known.ManagedBy != "eks.amazonaws.com" {
					t.Errorf("%s: inventory has %+v, want it not managed", field, known)
				}
				w.ResetCalls()
				if _, err := m.Assign(t.Context(), eni.AssignInput{ENI: id, Slots: 1}); !errors.Is(err, eni.ErrNotManaged) {
					t.Errorf("%s: Assign: %v", field, err)
				}
				if err := m.Retire(t.Context(), id); !errors.Is(err, eni.ErrNotManaged) {
					t.Errorf("%s: Retire: %v", field, err)
				}
				w.check(m.Adopt(t.Context(), id))
				_, err = m.Reconcile(t.Context())
				w.check(err)
				for action := range w.Calls() {
					if !strings.HasPrefix(action, "Describe") {
						t.Errorf("%s: %s was called", field, action)
					}
				}
				if next := w.provision(m, eni.ProvisionInput{Slots: 1}); next.Device != 2 {
					t.Errorf("%s: the next ENI is at %d, want 2", field, next.Device)
				}
				w.AddFault(enitest.Fault{Action: "DescribeNetworkInterfaces", Times: 6, Err: &enitest.APIError{Code: "Unavailable", Status: 503}})
				_, err = m.Discover(t.Context())
				w.check(err)
				if known, _ := m.Inventory().ENI(id); known.Managed {
					t.Errorf("%s: managed while EC2 does not answer", field)
				}
			})(t)
		}
	}
}

// TestHiddenENIs has an account that hides an ENI of a service on the node, which has
// this node's tags. Every describe call must ask for it, so that it takes its device
// index and counts against the limit, and the Manager must not change it.
func TestHiddenENIs(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.large")
		hidden := w.provision(w.manager(inst, eni.Config{}), eni.ProvisionInput{Slots: 2})
		time.Sleep(5 * time.Minute)
		item := regexp.MustCompile(`(?s)<item><networkInterfaceId>` + hidden.ID + `</networkInterfaceId>.*?</tagSet></item>`)
		asked := 0
		m := w.manager(inst, eni.Config{Client: eni.NewClient(w.config(inst.ID, func(rt http.RoundTripper) http.RoundTripper {
			return roundTrip(func(r *http.Request) (*http.Response, error) {
				form := w.form(r)
				return editResponse(rt, r, func(body string) string {
					switch {
					case form.Get("Action") != "DescribeNetworkInterfaces":
						return body
					case form.Get("IncludeManagedResources") == "true":
						asked++
						return byService(hidden.ID, "operator")(body)
					}
					t.Errorf("%v does not ask for hidden ENIs", form)
					return item.ReplaceAllString(body, "")
				})
			})
		}), fast)})
		_, err := m.Discover(t.Context())
		w.check(err)
		known, ok := m.Inventory().ENI(hidden.ID)
		if !ok || known.Managed || known.ForPods() || known.ManagedBy != "eks.amazonaws.com" || known.Device != 1 {
			t.Errorf("the inventory has %+v, want it at 1 and not managed", known)
		}
		if e := w.provision(m, eni.ProvisionInput{Slots: 1}); e.Device != 2 {
			t.Errorf("the new ENI is at %d, want 2", e.Device)
		}
		w.ResetCalls()
		if _, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 1}); !errors.Is(err, eni.ErrENILimit) || len(w.Calls()) > 0 {
			t.Errorf("a fourth ENI: %v, calls %v, want ErrENILimit without a call", err, w.Calls())
		}
		if err := m.Retire(t.Context(), hidden.ID); !errors.Is(err, eni.ErrNotManaged) || asked < 2 {
			t.Errorf("Retire: %v after %d describe calls, want ErrNotManaged", err, asked)
		}
	})(t)
}

// roundTrip is a function as an http.RoundTripper.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// reverseItems reverses the items of a set in an answer of EC2.
func reverseItems(body, set string) string {
	before, rest, found := strings.Cut(body, "<"+set+">")
	if !found {
		return body
	}
	items, after, _ := strings.Cut(rest, "</"+set+">")
	all := strings.SplitAfter(items, "</item>")
	slices.Reverse(all)
	return before + "<" + set + ">" + strings.Join(all, "") + "</" + set + ">" + after
}

// TestOrderOfAddresses lists the addresses of the primary ENI in every order. The own
// ones must be those that EC2 and the metadata service name, and without a source
// that names the IPv6 one no pod may get any of them.
func TestOrderOfAddresses(t *testing.T) {
	for _, reversedEC2 := range []bool{false, true} {
		for _, reversedMetadata := range []bool{false, true} {
			inBubble(func(t *testing.T) {
				w := newWorld(t, enitest.Config{})
				inst := w.run("m5.large")
				first := w.manager(inst, eni.Config{})
				_, err := first.Discover(t.Context())
				w.check(err)
				w.assignTo(first, w.eni(first), 2)
				got, err := first.Assign(t.Context(), eni.AssignInput{ENI: w.eni(first), Slots: 3, Family: eni.IPv6})
				w.check(err)
				own, own6 := w.primary(inst).Addr, got[0].Addr()
				second := w.provision(first, eni.ProvisionInput{Slots: 2})
				wrap := func(rt http.RoundTripper) http.RoundTripper {
					return roundTrip(func(r *http.Request) (*http.Response, error) {
						path := r.URL.Path
						return editResponse(rt, r, func(body string) string {
							if reversedEC2 {
								body = reverseItems(reverseItems(body, "ipv6AddressesSet"), "privateIpAddressesSet")
							}
							if reversedMetadata && (strings.HasSuffix(path, "/ipv6s") || strings.HasSuffix(path, "/local-ipv4s")) {
								lines := strings.Fields(body)
								slices.Reverse(lines)
								body = strings.Join(lines, "\n")
							}
							return body
						})
					})
				}
				check := func(what string, m *eni.Manager) {
					t.Helper()
					_, err := m.Discover(t.Context())
					w.check(err)
					e := m.Inventory().ENIs[0]
					if e.Addr != own || e.Addr6 != own6 || len(e.Addrs) != 4 || len(e.Doubtful) != 0 || slices.Contains(e.Addrs, own6) {
						t.Errorf("%s, EC2 reversed %t, metadata reversed %t: own %v and %v, for pods %v, in doubt %v, want own %v and %v",
							what, reversedEC2, reversedMetadata, e.Addr, e.Addr6, e.Addrs, e.Doubtful, own, own6)
					}
					if e := m.Inventory().ENIs[1]; e.Addr != second.Addr || !slices.Equal(e.Addrs, second.Addrs) || len(e.Doubtful) != 0 {
						t.Errorf("%s, EC2 reversed %t, metadata reversed %t: the second ENI has %v, for pods %v, in doubt %v, want own %v",
							what, reversedEC2, reversedMetadata, e.Addr, e.Addrs, e.Doubtful, second.Addr)
					}
				}
				m := w.manager(inst, eni.Config{Client: eni.NewClient(w.config(inst.ID, wrap), fast)})
				check("at start", m)
				if due, err := m.Check(t.Context()); due || err != nil {
					t.Errorf("a Discover is due: %t, %v", due, err)
				}
				remove := w.AddFault(enitest.Fault{Action: "meta-data/*", Err: &enitest.APIError{Status: 500}})
				check("without metadata", m)
				fresh := w.manager(inst, eni.Config{Client: eni.NewClient(w.config(inst.ID, wrap), fast), Known: eni.Inventory{Instance: m.Inventory().Instance, At: time.Now()}})
				_, err = fresh.Discover(t.Context())
				w.check(err)
				e := fresh.Inventory().ENIs[0]
				if e.Addr6 != (netip.Addr{}) || len(e.Doubtful) != 3 || len(e.Addrs) != 2 {
					t.Errorf("not named: own %v, for pods %v, in doubt %v, want 3 in doubt", e.Addr6, e.Addrs, e.Doubtful)
				}
				remove()
				check("named again", fresh)
			})(t)
		}
	}
}
