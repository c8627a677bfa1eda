// SPDX-License-Identifier: Apache-2.0

//go:build linux

package fabric_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/fabric/vpcrules"
)

var everything = vpcrules.Traffic{Protocol: vpcrules.All, From: vpcrules.All, To: vpcrules.All}

// setGroups sets the security groups of an ENI.
func setGroups(t *testing.T, f *fabric.Fabric, eni string, groups ...string) {
	t.Helper()
	e, ok := f.ENI(eni)
	if !ok {
		t.Fatalf("%s is not attached", eni)
	}
	if err := f.SetAttributes(eni, fabric.Attributes{Unchecked: e.Unchecked, Public: e.Public, Groups: groups}); err != nil {
		t.Fatal(err)
	}
}

// TestFlowLog compares the records of accepted and rejected packets.
func TestFlowLog(t *testing.T) {
	f := newFabric(t)
	one := f.Instance("node-1")
	log, err := f.FlowLog(fabric.FlowLogInput{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.FlowLog(fabric.FlowLogInput{}); !errors.Is(err, os.ErrExist) {
		t.Errorf("second flow log: error %v, want ErrExist", err)
	}
	if _, err := f.FlowLog(fabric.FlowLogInput{Interval: time.Millisecond}); err == nil {
		t.Error("flow log with an interval of a millisecond: no error")
	}
	begin := time.Now().Truncate(time.Second)
	records := func() []string {
		t.Helper()
		all, err := log.Records()
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, r := range all {
			if r.Start.Before(begin) || r.End.Before(r.Start) || r.End.After(time.Now()) {
				t.Errorf("record %v has wrong times, want them between %d and now", r, begin.Unix())
			}
			times := fmt.Sprintf(" %d %d ", r.Start.Unix(), r.End.Unix())
			lines = append(lines, strings.Replace(r.String(), times, " ", 1))
		}
		slices.Sort(lines) // their order depends on the times
		return lines
	}
	check := func(name string, want ...string) {
		t.Helper()
		slices.Sort(want)
		if diff := cmp.Diff(want, records()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	check("nothing", "2 123456789012 eni-1 - - - - - - - - NODATA", "2 123456789012 eni-2 - - - - - - - - NODATA", "2 123456789012 eni-3 - - - - - - - - NODATA")
	err = f.SetRules(vpcrules.Rules{Groups: []vpcrules.Group{{ID: "sg-1", Rules: []vpcrules.Rule{
		{Traffic: vpcrules.Traffic{Protocol: vpcrules.UDP, From: 9, To: 9}, Prefix: prefix("10.0.1.11/32")},
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	setGroups(t, f, "eni-3", "sg-1")
	sendAndWait(t, one, "10.0.1.10", "10.0.2.10")
	sendAndWait(t, one, "10.0.1.11", "10.0.2.10")
	sendAndWait(t, one, "2001:db8:1:1::10", "2001:db8:1:2::10")
	sendAndWait(t, one, "192.0.2.1", "10.0.2.10") // the source check drops it
	sendAndWait(t, one, "10.0.1.10", "10.0.2.99") // there is no route
	// The pings to the gateway have no record. The answer of 10.0.2.10, which has no
	// socket, passes as an error about a tracked flow.
	check("datagrams",
		"2 123456789012 eni-1 10.0.2.10 10.0.1.10 0 0 1 1 56 ACCEPT OK",
		"2 123456789012 eni-1 10.0.1.10 10.0.2.10 1 9 17 1 28 ACCEPT OK",
		"2 123456789012 eni-1 10.0.1.10 10.0.2.10 1 9 17 1 28 ACCEPT OK",
		"2 123456789012 eni-1 2001:db8:1:1::10 2001:db8:1:2::10 1 9 17 1 48 ACCEPT OK",
		"2 123456789012 eni-2 - - - - - - - - NODATA",
		"2 123456789012 eni-3 10.0.2.10 10.0.1.11 0 0 1 1 56 ACCEPT OK",
		"2 123456789012 eni-3 10.0.1.10 10.0.2.10 1 9 17 1 28 REJECT OK",
		"2 123456789012 eni-3 10.0.1.11 10.0.2.10 1 9 17 1 28 ACCEPT OK",
		"2 123456789012 eni-3 2001:db8:1:1::10 2001:db8:1:2::10 1 9 17 1 48 REJECT OK",
	)
	if err := errors.Join(log.Close(), log.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Records(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("records after Close: error %v, want ErrClosed", err)
	}
	sendAndWait(t, one, "10.0.1.10", "10.0.2.10")
	if log, err = f.FlowLog(fabric.FlowLogInput{}); err != nil {
		t.Fatal(err)
	}
	check("a new log", "2 123456789012 eni-1 - - - - - - - - NODATA", "2 123456789012 eni-2 - - - - - - - - NODATA", "2 123456789012 eni-3 - - - - - - - - NODATA")
	sendAndWait(t, one, "10.0.1.11", "10.0.2.10")
	if err := f.Detach("eni-3"); err != nil {
		t.Fatal(err)
	}
	check("a detached ENI has its last flows",
		"2 123456789012 eni-1 10.0.2.10 10.0.1.10 0 0 1 1 56 ACCEPT OK",
		"2 123456789012 eni-1 10.0.1.10 10.0.2.10 1 9 17 1 28 ACCEPT OK",
		"2 123456789012 eni-2 - - - - - - - - NODATA",
		"2 123456789012 eni-3 10.0.2.10 10.0.1.11 0 0 1 1 56 ACCEPT OK",
		"2 123456789012 eni-3 10.0.1.11 10.0.2.10 1 9 17 1 28 ACCEPT OK",
	)
}

// TestManyRules sets more rules and members than one message to the kernel may have, and
// checks that the last ones apply.
func TestManyRules(t *testing.T) {
	f := newFabric(t)
	one, two := f.Instance("node-1"), f.Instance("node-2")
	echo(t, two, ip("10.0.2.10"))
	var addrs []netip.Addr
	a := ip("10.0.128.1")
	for range 3000 {
		addrs, a = append(addrs, a), a.Next().Next() // without a common prefix
	}
	addrs = append(addrs, ip("10.0.1.11"))
	if err := f.SetAddrs("eni-1", addrs, nil); err != nil {
		t.Fatal(err)
	}
	rules := func(group string) (r vpcrules.Rules) {
		r.Blocks = vpcConfig.VPC
		for i := range 5 {
			g := vpcrules.Group{ID: fmt.Sprint("sg-", i)}
			for port := range 60 {
				narrow := vpcrules.Traffic{Protocol: vpcrules.TCP, From: 1000 + port, To: 1000 + port}
				g.Rules = append(g.Rules, vpcrules.Rule{Traffic: narrow, Prefix: prefix("10.0.0.0/16")}, vpcrules.Rule{Egress: true, Traffic: narrow, Prefix: prefix("10.0.0.0/16")})
			}
			r.Groups = append(r.Groups, g)
		}
		r.Groups[4].Rules = append(r.Groups[4].Rules, vpcrules.Rule{Traffic: everything, Group: group})
		r.Groups = append(r.Groups, vpcrules.Group{ID: "sg-source", Rules: []vpcrules.Rule{{Egress: true, Traffic: everything, Prefix: prefix("0.0.0.0/0")}}})
		acl := vpcrules.ACL{ID: "acl", Subnets: []string{"subnet-a", "subnet-b"}}
		for n := range 20 {
			for _, egress := range []bool{true, false} {
				acl.Entries = append(acl.Entries, vpcrules.Entry{Number: n, Egress: egress, Traffic: everything, Prefix: prefix(fmt.Sprintf("172.16.%d.0/24", n))})
			}
		}
		for _, egress := range []bool{true, false} {
			acl.Entries = append(acl.Entries, vpcrules.Entry{Number: 100, Egress: egress, Allow: true, Traffic: everything, Prefix: prefix("0.0.0.0/0")})
		}
		r.ACLs = []vpcrules.ACL{acl}
		return r
	}
	setGroups(t, f, "eni-1", "sg-source")
	setGroups(t, f, "eni-3", "sg-0", "sg-1", "sg-2", "sg-3", "sg-4")
	run(t, one, linkUp("ens5", "10.0.1.11/32"))
	for group, want := range map[string]netip.Addr{"sg-source": ip("10.0.1.11"), "sg-1": {}} {
		if err := f.SetRules(rules(group)); err != nil {
			t.Fatal(err)
		}
		wantSource(t, one, ip("10.0.1.11"), ip("10.0.2.10"), want)
		if names := strings.Join(chainsAndSets(t, f), " "); !strings.Contains(names, "groups-0") || !strings.Contains(names, "members-0") {
			t.Errorf("the router has the chains and sets %s, want those of the groups", names)
		}
	}
	// Without rules all is as before, and nothing of the rules is left.
	if err := f.SetRules(vpcrules.Rules{}); err != nil {
		t.Fatal(err)
	}
	wantSource(t, one, ip("10.0.1.11"), ip("10.0.2.10"), ip("10.0.1.11"))
	if err := f.SetRules(vpcrules.Rules{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range chainsAndSets(t, f) {
		if strings.HasPrefix(name, "groups-0") || strings.HasPrefix(name, "acl-0") || strings.HasPrefix(name, "members") {
			t.Errorf("%s remains in the router after the rules were removed", name)
		}
	}
}

// chainsAndSets returns the names of the chains and sets of the router.
func chainsAndSets(t *testing.T, f *fabric.Fabric) (names []string) {
	t.Helper()
	run(t, f.Router(), func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		chains, err := c.ListChains()
		if err != nil {
			return err
		}
		for _, chain := range chains {
			names = append(names, chain.Name)
		}
		sets, err := c.GetSets(chains[0].Table)
		for _, s := range sets {
			names = append(names, s.Name)
		}
		return err
	})
	return names
}

// TestFragments sends datagrams that are larger than the MTU in both directions of a flow
// that security groups track.
func TestFragments(t *testing.T) {
	f := newFabric(t)
	one, two := f.Instance("node-1"), f.Instance("node-2")
	err := f.SetRules(vpcrules.Rules{Groups: []vpcrules.Group{
		{ID: "sg-1", Rules: []vpcrules.Rule{{Egress: true, Traffic: everything, Prefix: prefix("0.0.0.0/0")}, {Egress: true, Traffic: everything, Prefix: prefix("::/0")}}},
		{ID: "sg-2", Rules: []vpcrules.Rule{{Traffic: everything, Group: "sg-1"}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	setGroups(t, f, "eni-1", "sg-1")
	setGroups(t, f, "eni-3", "sg-2")
	for _, a := range []netip.Addr{ip("10.0.2.10"), ip("2001:db8:1:2::10")} {
		echo(t, two, a)
		c, err := one.Dial(t.Context(), "udp", netip.AddrPort{}, netip.AddrPortFrom(a, fabric.EchoPort))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if _, err := fabric.Exchange(ctx, c, strings.Repeat("x", 20_000)); err != nil {
			t.Errorf("large datagrams to %v: %v", a, err)
		}
	}
}

// TestFlowLogIntervals checks that an interval ends by itself. Its records come before
// those of the current one.
func TestFlowLogIntervals(t *testing.T) {
	f := newFabric(t)
	log, err := f.FlowLog(fabric.FlowLogInput{Interval: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(2500 * time.Millisecond)
	records, err := log.Records()
	if err != nil || len(records) < 6 {
		t.Errorf("%d records of 3 ENIs, %v; want those of two intervals at least", len(records), err)
	}
}

// TestBranchGroups gives a branch ENI and its trunk ENI different security groups.
func TestBranchGroups(t *testing.T) {
	f := newFabric(t)
	if slices.Contains(missingLinkKinds(t), "vlan") {
		t.Log("this kernel has no links of kind vlan; internal/vm runs this test")
		return
	}
	one, two := f.Instance("node-1"), f.Instance("node-2")
	err := f.SetRules(vpcrules.Rules{Groups: []vpcrules.Group{
		{ID: "sg-trunk"},
		{ID: "sg-branch", Rules: []vpcrules.Rule{{Traffic: everything, Prefix: prefix("10.0.2.10/32")}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	setGroups(t, f, "eni-2", "sg-trunk")
	e := fabric.ENI{ID: "eni-b", Trunk: "eni-2", VLAN: 5, Subnet: "subnet-b", MAC: mac(8), Addr: ip("10.0.2.80"), Groups: []string{"sg-branch"}}
	if err := f.Attach(e); err != nil {
		t.Fatal(err)
	}
	run(t, one, linkUp("ens6", "10.0.1.20/32"))
	run(t, one, func() error {
		trunk, err := netlink.LinkByName("ens6")
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex, attrs.HardwareAddr = "branch", trunk.Attrs().Index, e.MAC
		if err := netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: 5}); err != nil {
			return err
		}
		return linkUp("branch", "10.0.2.80/24")()
	})
	if err := f.WaitUp(t.Context(), "eni-b"); err != nil {
		t.Fatal(err)
	}
	log, err := f.FlowLog(fabric.FlowLogInput{})
	if err != nil {
		t.Fatal(err)
	}
	echo(t, one, e.Addr)
	echo(t, one, ip("10.0.1.20"))
	echo(t, two, ip("10.0.2.10"))
	wantSource(t, two, netip.Addr{}, e.Addr, ip("10.0.2.10"))
	wantSource(t, two, netip.Addr{}, ip("10.0.1.20"), netip.Addr{})
	wantSource(t, one, e.Addr, ip("10.0.2.10"), netip.Addr{})
	actions := map[string][]vpcrules.Action{}
	records, err := log.Records()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if r.Status == vpcrules.StatusOK && !slices.Contains(actions[r.ENI], r.Action) {
			actions[r.ENI] = append(actions[r.ENI], r.Action)
		}
		slices.Sort(actions[r.ENI])
	}
	delete(actions, "eni-1")
	want := map[string][]vpcrules.Action{"eni-2": {vpcrules.Reject}, "eni-3": {vpcrules.Accept}, "eni-b": {vpcrules.Accept, vpcrules.Reject}}
	if diff := cmp.Diff(want, actions); diff != "" {
		t.Errorf("actions in the flow log, by ENI (-want +got):\n%s", diff)
	}
}

// TestTranslation translates the destination in the router, as a load balancer does: the
// internet reaches an ENI without a public address by the public address of another ENI,
// and the security groups of the ENI see the address of the client.
func TestTranslation(t *testing.T) {
	f := newFabric(t)
	if err := f.SetAttributes("eni-3", fabric.Attributes{Groups: []string{"sg-1"}}); err != nil {
		t.Fatal(err)
	}
	echo(t, f.Instance("node-2"), ip("10.0.2.10"))
	run(t, f.Router(), func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "balancer"})
		chain := c.AddChain(&nftables.Chain{
			Table: table, Name: "prerouting", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
		})
		const destination = 16
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: destination, Len: 4},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ip("10.0.1.10").AsSlice()},
			&expr.Immediate{Register: 1, Data: ip("10.0.2.10").AsSlice()},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
		}})
		return c.Flush()
	})
	for _, tt := range []struct {
		client string
		want   netip.Addr
	}{{"203.0.113.10/32", fabric.InternetAddr}, {"203.0.113.11/32", netip.Addr{}}} {
		err := f.SetRules(vpcrules.Rules{Groups: []vpcrules.Group{{ID: "sg-1", Rules: []vpcrules.Rule{{Traffic: everything, Prefix: prefix(tt.client)}}}}})
		if err != nil {
			t.Fatal(err)
		}
		wantSource(t, f.Internet(), fabric.InternetAddr, ip("10.0.1.10"), tt.want)
	}
	wantSource(t, f.Internet(), fabric.InternetAddr, ip("10.0.2.10"), netip.Addr{})
}
