// SPDX-License-Identifier: Apache-2.0

package nft_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/nft"
)

// TestFlowtable writes a table with a flowtable, compares it with the kernel's content and
// with the listing of the nft program, and changes it. A link that is added leaves the table
// in place, one that is taken out makes it again, and one that is deleted leaves the flowtable. A kernel without
// flowtables refuses the table; the test of internal/vm runs on one that has them.
func TestFlowtable(t *testing.T) {
	ns, s, _ := monitored(t)
	addVeth(t, ns, "a", "b")
	table := func(links ...string) nft.Table {
		set := nft.Set{Name: "links", Kind: nft.Links}
		for _, l := range links {
			set.Elements = append(set.Elements, nft.Element{Link: l})
		}
		return nft.Table{
			Name: "ours", Sets: []nft.Set{set}, Flowtables: []nft.Flowtable{{Name: "fast", Links: links}},
			Chains: []nft.Chain{{Name: "through", Type: nft.TypeFilter, Hook: nft.HookForward, Priority: 10, Rules: []nft.Rule{
				nft.NewRule(nft.LinkIn{Set: "links"}, nft.Established{}, nft.FlowAdd{Flowtable: "fast"}),
			}}},
		}
	}
	err := nft.ExplainReplace(s.Change(nft.Table{}, table("a")), "flowtables")
	if errors.Is(err, errors.ErrUnsupported) && os.Getenv("VPCNET_VM") == "" {
		t.Logf("internal/vm runs this test: %v", err)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	want := func(w nft.Table) {
		t.Helper()
		if got := read(t, s); !got.Equal(w) {
			t.Errorf("(-want +got):\n%s", cmp.Diff(w.String(), got.String()))
		}
	}
	want(table("a"))
	if diff := cmp.Diff(strings.Fields(table("a").String()), strings.Fields(list(t, ns))); diff != "" {
		t.Errorf("listed by nft (-want +got):\n%s", diff)
	}
	for _, next := range []struct {
		links []string
		same  bool
	}{{[]string{"a", "b"}, true}, {[]string{"b"}, false}, {[]string{"b"}, true}, {nil, false}, {[]string{"a", "b"}, true}} {
		have, before := read(t, s), handle(t, s)
		if err := s.Change(have, table(next.links...)); err != nil {
			t.Fatal(err)
		}
		want(table(next.links...))
		if same := handle(t, s) == before; same != next.same {
			t.Errorf("to %q: the same table is there: %t, want %t", next.links, same, next.same)
		}
		replace(t, s, have)
		run(t, ns, nft.Diff(have, table(next.links...)))
		want(table(next.links...))
	}
	err = ns.Do(func() error {
		l, err := netlink.LinkByName("a")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l) // and the other end of the pair
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, s); slices.Contains(got.Flowtables[0].Links, "a") || len(got.Sets[0].Elements) != 2 {
		t.Errorf("after the links were deleted:\n%s", got)
	}
}

// addVeth adds a veth pair to the namespace.
func addVeth(t *testing.T, ns *fabric.Netns, name, peer string) {
	t.Helper()
	err := ns.Do(func() error {
		a := netlink.NewLinkAttrs()
		a.Name = name
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: peer})
	})
	if err != nil {
		t.Fatal(err)
	}
}
