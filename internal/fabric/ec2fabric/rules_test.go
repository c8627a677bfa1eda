// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ec2fabric_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/fabric/vpcrules"
)

// silence is how long a test waits to see that there is no answer.
const silence = 300 * time.Millisecond

// network is a region with two booted nodes, each with an echo server, and calls of the
// API from the first node.
type network struct {
	*region
	calls    *ec2.Client
	one, two *fabric.Netns
	enis     [2]enitest.ENI // the primary ENIs
	ids      [2]string      // the instances
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	r := newRegion(t)
	n := &network{region: r, ids: [2]string{r.cloud.Instances()[0].ID, r.run("node-2").ID}}
	for i, name := range []string{"node-1", "node-2"} {
		if err := r.fabric.Boot(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		for _, e := range r.cloud.ENIs() {
			if e.Attachment.Instance == n.ids[i] {
				n.enis[i] = e
			}
		}
		n.echo(r.fabric.Instance(name), n.enis[i].Addr)
	}
	n.one, n.two = r.fabric.Instance("node-1"), r.fabric.Instance("node-2")
	n.calls = api(n.one)
	t.Cleanup(func() {
		if err := r.follow.Err(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *network) echo(ns *fabric.Netns, a netip.Addr) {
	n.t.Helper()
	stop, err := ns.Echo(n.t.Context(), netip.AddrPortFrom(a, fabric.EchoPort))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(stop)
}

// reach checks over TCP and UDP whether the echo server at to answers.
func (n *network) reach(what string, ns *fabric.Netns, from, to netip.Addr, want bool) {
	n.t.Helper()
	for _, network := range []string{"udp", "tcp"} {
		limit := 5 * time.Second
		if !want {
			limit = silence
		}
		ctx, cancel := context.WithTimeout(n.t.Context(), limit)
		var local netip.AddrPort
		if from.IsValid() {
			local = netip.AddrPortFrom(from, 0)
		}
		_, err := ns.Ask(ctx, network, local, netip.AddrPortFrom(to, fabric.EchoPort))
		cancel()
		if got := err == nil; got != want {
			n.t.Errorf("%s: %s from %s to %v: answer %t, want %t (error: %v)", what, network, ns.Name(), to, got, want, err)
		}
	}
}

func must[T any](n *network) func(T, error) T {
	return func(v T, err error) T {
		n.t.Helper()
		if err != nil {
			n.t.Fatal(err)
		}
		return v
	}
}

func (n *network) check(eni string, on bool) {
	n.t.Helper()
	must[*ec2.ModifyNetworkInterfaceAttributeOutput](n)(n.calls.ModifyNetworkInterfaceAttribute(n.t.Context(), &ec2.ModifyNetworkInterfaceAttributeInput{
		NetworkInterfaceId: &eni, SourceDestCheck: &types.AttributeBooleanValue{Value: &on},
	}))
}

// route creates or replaces a route.
func (n *network) route(table, destination string, target func(*ec2.CreateRouteInput)) {
	n.t.Helper()
	in := &ec2.CreateRouteInput{RouteTableId: &table, DestinationCidrBlock: &destination}
	target(in)
	_, err := n.calls.CreateRoute(n.t.Context(), in)
	if err != nil && strings.Contains(err.Error(), "RouteAlreadyExists") {
		_, err = n.calls.ReplaceRoute(n.t.Context(), &ec2.ReplaceRouteInput{
			RouteTableId: &table, DestinationCidrBlock: &destination, GatewayId: in.GatewayId, InstanceId: in.InstanceId,
			NetworkInterfaceId: in.NetworkInterfaceId, TransitGatewayId: in.TransitGatewayId,
		})
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *network) deleteRoute(table, destination string) {
	n.t.Helper()
	must[*ec2.DeleteRouteOutput](n)(n.calls.DeleteRoute(n.t.Context(), &ec2.DeleteRouteInput{RouteTableId: &table, DestinationCidrBlock: &destination}))
}

func toENI(id string) func(*ec2.CreateRouteInput) {
	return func(in *ec2.CreateRouteInput) { in.NetworkInterfaceId = &id }
}

func toInstance(id string) func(*ec2.CreateRouteInput) {
	return func(in *ec2.CreateRouteInput) { in.InstanceId = &id }
}

func toGateway(id string) func(*ec2.CreateRouteInput) {
	return func(in *ec2.CreateRouteInput) { in.GatewayId = &id }
}

func toTransit(id string) func(*ec2.CreateRouteInput) {
	return func(in *ec2.CreateRouteInput) { in.TransitGatewayId = &id }
}

// addAddr adds an address to a link of the namespace, and an echo server.
func (n *network) addAddr(ns *fabric.Netns, link string, a netip.Addr) {
	n.t.Helper()
	err := ns.Do(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		own, err := netlink.ParseAddr(netip.PrefixFrom(a, a.BitLen()).String())
		if err != nil {
			return err
		}
		if a.Is6() {
			own.Flags |= unix.IFA_F_NODAD // usable at once
		}
		return netlink.AddrAdd(l, own)
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.echo(ns, a)
}

func (n *network) mainTable() string { return n.cloud.RouteTables()[0].ID }

// TestRouteToENI routes the pod addresses of each node to its ENI, as kops does, and
// switches the source/destination check of both ENIs.
func TestRouteToENI(t *testing.T) {
	n := newNetwork(t)
	pods := [2]netip.Addr{netip.MustParseAddr("100.64.1.5"), netip.MustParseAddr("100.64.2.5")}
	n.addAddr(n.one, "ens5", pods[0])
	n.addAddr(n.two, "ens5", pods[1])
	// The groups allow the members' own addresses only.
	n.authorize(n.groupOf(0), "100.64.0.0/16", "-1", -1)
	n.reach("without routes", n.one, pods[0], pods[1], false)
	n.route(n.mainTable(), "100.64.1.0/24", toInstance(n.ids[0]))
	n.route(n.mainTable(), "100.64.2.0/24", toENI(n.enis[1].ID))
	n.reach("checked", n.one, pods[0], pods[1], false)
	n.check(n.enis[0].ID, false)
	n.reach("the receiver is checked", n.one, pods[0], pods[1], false)
	n.check(n.enis[1].ID, false)
	n.reach("unchecked", n.one, pods[0], pods[1], true)
	n.reach("other direction", n.two, pods[1], pods[0], true)
	n.check(n.enis[0].ID, true)
	n.reach("the sender is checked again", n.one, pods[0], pods[1], false)
	n.check(n.enis[0].ID, false)
	n.reach("unchecked again", n.one, pods[0], pods[1], true)
	// The longest prefix wins, and then the other one again.
	n.route(n.mainTable(), "100.64.2.5/32", toENI(n.enis[0].ID))
	n.reach("a longer prefix leads elsewhere", n.one, pods[0], pods[1], false)
	n.deleteRoute(n.mainTable(), "100.64.2.5/32")
	n.reach("the longer prefix is deleted", n.one, pods[0], pods[1], true)
	n.reach("the internet is still open", n.one, netip.Addr{}, fabric.InternetAddr, true)
	d, err := n.fabric.Drops()
	if err != nil || d.Foreign[n.enis[1].ID] == 0 || d.Spoofed[n.enis[0].ID] == 0 {
		t.Errorf("drops are %+v, %v, want some by both checks", d, err)
	}
}

// TestBlackhole routes to a second ENI, which is then detached and attached again.
func TestBlackhole(t *testing.T) {
	n := newNetwork(t)
	ctx := t.Context()
	created := must[*ec2.CreateNetworkInterfaceOutput](n)(n.calls.CreateNetworkInterface(ctx, &ec2.CreateNetworkInterfaceInput{SubnetId: &n.subnet}))
	id := *created.NetworkInterface.NetworkInterfaceId
	pod := netip.MustParseAddr("100.64.2.5")
	attach := func() string {
		t.Helper()
		out := must[*ec2.AttachNetworkInterfaceOutput](n)(n.calls.AttachNetworkInterface(ctx, &ec2.AttachNetworkInterfaceInput{
			NetworkInterfaceId: &id, InstanceId: &n.ids[1], DeviceIndex: aws.Int32(1),
		}))
		err := n.two.Do(func() error {
			l, err := netlink.LinkByName("ens6")
			if err != nil {
				return err
			}
			return netlink.LinkSetUp(l)
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(n.fabric.WaitUp(ctx, id), n.two.Sysctl("ipv4/conf/ens6/rp_filter", "0")); err != nil {
			t.Fatal(err)
		}
		return *out.AttachmentId
	}
	attachment := attach()
	if err := n.two.Sysctl("ipv4/conf/ens5/rp_filter", "0"); err != nil {
		t.Fatal(err)
	}
	n.addAddr(n.two, "lo", pod)
	n.check(id, false)
	n.check(n.enis[1].ID, false) // the answers leave by the primary ENI
	n.authorize(n.groupOf(0), "100.64.0.0/16", "-1", -1)
	// The wider route leads to the primary ENI, but the blackhole wins over it.
	n.route(n.mainTable(), "100.64.0.0/16", toENI(n.enis[1].ID))
	n.route(n.mainTable(), "100.64.2.0/24", toENI(id))
	n.reach("attached", n.one, netip.Addr{}, pod, true)
	must[*ec2.DetachNetworkInterfaceOutput](n)(n.calls.DetachNetworkInterface(ctx, &ec2.DetachNetworkInterfaceInput{AttachmentId: &attachment}))
	n.reach("detached", n.one, netip.Addr{}, pod, false)
	attach()
	n.reach("attached again", n.one, netip.Addr{}, pod, true)
	n.deleteRoute(n.mainTable(), "100.64.2.0/24")
	n.reach("by the wider route", n.one, netip.Addr{}, pod, true)
}

// TestRouteTables checks default routes of the main table and of the table of a subnet.
func TestRouteTables(t *testing.T) {
	n := newNetwork(t)
	ctx := t.Context()
	internet := func(what string, want bool) {
		t.Helper()
		n.reach(what, n.one, netip.Addr{}, fabric.InternetAddr, want)
	}
	internet("as built", true)
	n.route(n.mainTable(), "0.0.0.0/0", toGateway("igw-1"))
	internet("by a route", true)
	n.reach("peer without a route", n.one, netip.Addr{}, fabric.PeerAddr, false)
	n.authorize(n.groupOf(0), fabric.PeerAddr.String()+"/32", "-1", -1)
	n.route(n.mainTable(), fabric.PeerAddr.String()+"/32", toTransit("tgw-1"))
	n.reach("peer by a route", n.one, netip.Addr{}, fabric.PeerAddr, true)
	n.deleteRoute(n.mainTable(), "0.0.0.0/0")
	internet("the route is deleted", false)
	created := must[*ec2.CreateRouteTableOutput](n)(n.calls.CreateRouteTable(ctx, &ec2.CreateRouteTableInput{VpcId: &n.cloud.VPCs()[0].ID}))
	table := *created.RouteTable.RouteTableId
	n.route(table, "0.0.0.0/0", toGateway("igw-1"))
	internet("no subnet has the table", false)
	associated := must[*ec2.AssociateRouteTableOutput](n)(n.calls.AssociateRouteTable(ctx, &ec2.AssociateRouteTableInput{RouteTableId: &table, SubnetId: &n.subnet}))
	internet("the subnet has the table", true)
	n.reach("local", n.one, netip.Addr{}, n.enis[1].Addr, true)
	n.reach("the table has no route to the peer", n.one, netip.Addr{}, fabric.PeerAddr, false)
	n.route(table, "0.0.0.0/0", toGateway("nat-1"))
	internet("a NAT gateway that does not exist", false)
	n.deleteRoute(table, "0.0.0.0/0")
	internet("an empty table", false)
	n.route(table, "0.0.0.0/0", toGateway("igw-1"))
	internet("a route again", true)
	must[*ec2.DisassociateRouteTableOutput](n)(n.calls.DisassociateRouteTable(ctx, &ec2.DisassociateRouteTableInput{AssociationId: associated.AssociationId}))
	internet("the main table again", false)
	// The API is at an address of the router, so it needs no route.
	must[*ec2.DescribeRegionsOutput](n)(n.calls.DescribeRegions(ctx, &ec2.DescribeRegionsInput{}))
}

func (n *network) groupOf(node int) string { return n.enis[node].Groups[0] }

// permissions returns the permission of a prefix for a protocol, with a port or -1.
func permissions(prefix, protocol string, port int32) []types.IpPermission {
	p := types.IpPermission{IpProtocol: &protocol, IpRanges: []types.IpRange{{CidrIp: &prefix}}}
	if protocol != "-1" {
		p.FromPort, p.ToPort = &port, &port
	}
	return []types.IpPermission{p}
}

func (n *network) authorize(group, prefix, protocol string, port int32) {
	n.t.Helper()
	must[*ec2.AuthorizeSecurityGroupIngressOutput](n)(n.calls.AuthorizeSecurityGroupIngress(n.t.Context(), &ec2.AuthorizeSecurityGroupIngressInput{
		GroupId: &group, IpPermissions: permissions(prefix, protocol, port),
	}))
}

func (n *network) revoke(group, prefix, protocol string, port int32) {
	n.t.Helper()
	must[*ec2.RevokeSecurityGroupIngressOutput](n)(n.calls.RevokeSecurityGroupIngress(n.t.Context(), &ec2.RevokeSecurityGroupIngressInput{
		GroupId: &group, IpPermissions: permissions(prefix, protocol, port),
	}))
}

// createGroup creates a security group, which allows all to leave.
func (n *network) createGroup(name string) string {
	n.t.Helper()
	out := must[*ec2.CreateSecurityGroupOutput](n)(n.calls.CreateSecurityGroup(n.t.Context(), &ec2.CreateSecurityGroupInput{
		GroupName: &name, Description: &name, VpcId: &n.cloud.VPCs()[0].ID,
	}))
	return *out.GroupId
}

func (n *network) setGroups(eni string, groups ...string) {
	n.t.Helper()
	must[*ec2.ModifyNetworkInterfaceAttributeOutput](n)(n.calls.ModifyNetworkInterfaceAttribute(n.t.Context(), &ec2.ModifyNetworkInterfaceAttributeInput{
		NetworkInterfaceId: &eni, Groups: groups,
	}))
}

// TestSecurityGroups checks the default group, other groups, and unions of groups.
func TestSecurityGroups(t *testing.T) {
	n := newNetwork(t)
	one, two := n.enis[0].Addr, n.enis[1].Addr
	fromInternet := func(what string, want bool) {
		t.Helper()
		n.reach(what, n.fabric.Internet(), netip.Addr{}, two, want)
	}
	n.reach("members of the default group", n.one, netip.Addr{}, two, true)
	n.reach("all may leave", n.two, netip.Addr{}, fabric.InternetAddr, true)
	fromInternet("the default group", false)
	n.authorize(n.groupOf(1), fabric.InternetAddr.String()+"/32", "tcp", fabric.EchoPort)
	n.authorize(n.groupOf(1), fabric.InternetAddr.String()+"/32", "udp", fabric.EchoPort)
	fromInternet("an ingress rule", true)
	web := n.createGroup("web")
	n.setGroups(n.enis[1].ID, web)
	fromInternet("a group without ingress rules", false)
	n.reach("no member any more", n.one, netip.Addr{}, two, false)
	n.reach("the answers to a member pass", n.two, netip.Addr{}, fabric.InternetAddr, true)
	n.reach("a member of another group", n.two, netip.Addr{}, one, false)
	n.setGroups(n.enis[1].ID, web, n.groupOf(0))
	fromInternet("two groups", true)
	n.reach("a member again", n.one, netip.Addr{}, two, true)
	n.setGroups(n.enis[1].ID, web)
	n.authorizeGroup(n.groupOf(0), web)
	n.reach("a rule that names a group", n.two, netip.Addr{}, one, true)
	// Without egress rules nothing leaves, except for answers.
	must[*ec2.RevokeSecurityGroupEgressOutput](n)(n.calls.RevokeSecurityGroupEgress(t.Context(), &ec2.RevokeSecurityGroupEgressInput{
		GroupId: &web, IpPermissions: permissions("0.0.0.0/0", "-1", -1),
	}))
	n.reach("no egress rule", n.two, netip.Addr{}, one, false)
	n.authorize(web, one.String()+"/32", "-1", -1)
	n.reach("answers need no egress rule", n.one, netip.Addr{}, two, true)
	_, err := n.two.Ping(t.Context(), netip.Addr{}, netip.MustParseAddr("10.0.1.1"))
	if err != nil {
		t.Errorf("the groups filter the gateway: %v", err)
	}
	if _, err := api(n.two).DescribeRegions(t.Context(), &ec2.DescribeRegionsInput{}); err != nil {
		t.Errorf("the groups filter the router's own services: %v", err)
	}
}

func (n *network) authorizeGroup(group, member string) {
	n.t.Helper()
	must[*ec2.AuthorizeSecurityGroupIngressOutput](n)(n.calls.AuthorizeSecurityGroupIngress(n.t.Context(), &ec2.AuthorizeSecurityGroupIngressInput{
		GroupId: &group, IpPermissions: []types.IpPermission{{
			IpProtocol: aws.String("-1"), UserIdGroupPairs: []types.UserIdGroupPair{{GroupId: &member}},
		}},
	}))
}

// TestRunningFlows revokes the rules of running connections: one that is tracked goes on,
// and one that is not tracked ends.
func TestRunningFlows(t *testing.T) {
	for _, tt := range []struct {
		name, prefix string
		survives     bool
	}{
		{"tracked", fabric.InternetAddr.String() + "/32", true},
		{"untracked", "0.0.0.0/0", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(t)
			group := n.groupOf(1)
			n.authorize(group, tt.prefix, "tcp", fabric.EchoPort)
			c, err := n.fabric.Internet().Dial(t.Context(), "tcp", netip.AddrPort{}, netip.AddrPortFrom(n.enis[1].Addr, fabric.EchoPort))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			exchange := func(limit time.Duration) error {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				_, err := fabric.Exchange(ctx, c, "hello")
				return err
			}
			if err := exchange(5 * time.Second); err != nil {
				t.Fatal(err)
			}
			n.revoke(group, tt.prefix, "tcp", fabric.EchoPort)
			limit := 5 * time.Second
			if !tt.survives {
				limit = silence
			}
			if err := exchange(limit); (err == nil) != tt.survives {
				t.Errorf("after the rule was revoked: error %v, want the connection to survive: %t", err, tt.survives)
			}
			n.reach("new connections", n.fabric.Internet(), netip.Addr{}, n.enis[1].Addr, false)
		})
	}
}

// TestNetworkACLs denies ports and whole subnets. Groups do not matter for that: all is
// authorized.
func TestNetworkACLs(t *testing.T) {
	n := newNetwork(t)
	ctx := t.Context()
	n.authorize(n.groupOf(0), "0.0.0.0/0", "-1", -1)
	acl := n.cloud.NetworkACLs()[0]
	fromInternet := func(what string, want bool) {
		t.Helper()
		n.reach(what, n.fabric.Internet(), netip.Addr{}, n.enis[1].Addr, want)
	}
	entry := func(number int32, egress bool, action types.RuleAction) {
		t.Helper()
		must[*ec2.CreateNetworkAclEntryOutput](n)(n.calls.CreateNetworkAclEntry(ctx, &ec2.CreateNetworkAclEntryInput{
			NetworkAclId: &acl.ID, RuleNumber: &number, Egress: &egress, Protocol: aws.String("-1"), RuleAction: action,
			CidrBlock: aws.String(fabric.InternetAddr.String() + "/32"),
		}))
	}
	remove := func(number int32, egress bool) {
		t.Helper()
		must[*ec2.DeleteNetworkAclEntryOutput](n)(n.calls.DeleteNetworkAclEntry(ctx, &ec2.DeleteNetworkAclEntryInput{
			NetworkAclId: &acl.ID, RuleNumber: &number, Egress: &egress,
		}))
	}
	fromInternet("the default ACL", true)
	entry(50, false, types.RuleActionDeny)
	fromInternet("a lower number denies", false)
	entry(40, false, types.RuleActionAllow)
	fromInternet("a still lower number allows", true)
	remove(40, false)
	remove(50, false)
	entry(110, false, types.RuleActionDeny)
	fromInternet("a higher number does not matter", true)
	// An ACL is stateless: it denies answers.
	entry(50, true, types.RuleActionDeny)
	fromInternet("answers are denied", false)
	remove(50, true)
	created := must[*ec2.CreateNetworkAclOutput](n)(n.calls.CreateNetworkAcl(ctx, &ec2.CreateNetworkAclInput{VpcId: &acl.VPC}))
	must[*ec2.ReplaceNetworkAclAssociationOutput](n)(n.calls.ReplaceNetworkAclAssociation(ctx, &ec2.ReplaceNetworkAclAssociationInput{
		AssociationId: &acl.Associations[0].ID, NetworkAclId: created.NetworkAcl.NetworkAclId,
	}))
	fromInternet("a new ACL denies all", false)
	n.reach("an ACL does not see packets inside a subnet", n.one, netip.Addr{}, n.enis[1].Addr, true)
	must[*ec2.DescribeRegionsOutput](n)(n.calls.DescribeRegions(ctx, &ec2.DescribeRegionsInput{}))
}

// TestIPv6 checks the default group, a rule, and routes of IPv6.
func TestIPv6(t *testing.T) {
	n := newNetwork(t)
	ctx := t.Context()
	var addrs [2]netip.Addr
	for i := range addrs {
		assigned := must[*ec2.AssignIpv6AddressesOutput](n)(n.calls.AssignIpv6Addresses(ctx, &ec2.AssignIpv6AddressesInput{
			NetworkInterfaceId: &n.enis[i].ID, Ipv6AddressCount: aws.Int32(1),
		}))
		addrs[i] = netip.MustParseAddr(assigned.AssignedIpv6Addresses[0])
		name := []string{"node-1", "node-2"}[i]
		if err := n.fabric.Boot(ctx, name); err != nil {
			t.Fatal(err)
		}
		n.echo(n.fabric.Instance(name), addrs[i])
	}
	fromInternet := func(what string, want bool) {
		t.Helper()
		n.reach(what, n.fabric.Internet(), netip.Addr{}, addrs[1], want)
	}
	n.reach("members of the default group", n.one, netip.Addr{}, addrs[1], true)
	n.reach("all may leave", n.one, netip.Addr{}, fabric.InternetAddr6, true)
	fromInternet("the default group", false)
	group := n.groupOf(0)
	must[*ec2.AuthorizeSecurityGroupIngressOutput](n)(n.calls.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{
		GroupId: &group, IpPermissions: []types.IpPermission{{IpProtocol: aws.String("-1"), Ipv6Ranges: []types.Ipv6Range{{CidrIpv6: aws.String("::/0")}}}},
	}))
	fromInternet("a rule", true)
	route := func(destination string, target func(*ec2.CreateRouteInput)) {
		t.Helper()
		in := &ec2.CreateRouteInput{RouteTableId: aws.String(n.mainTable()), DestinationIpv6CidrBlock: &destination}
		target(in)
		must[*ec2.CreateRouteOutput](n)(n.calls.CreateRoute(ctx, in))
	}
	route("::/0", func(in *ec2.CreateRouteInput) { in.EgressOnlyInternetGatewayId = aws.String("eigw-1") })
	fromInternet("an explicit route", true)
	n.reach("the other family", n.one, netip.Addr{}, fabric.InternetAddr, true)
	must[*ec2.DeleteRouteOutput](n)(n.calls.DeleteRoute(ctx, &ec2.DeleteRouteInput{RouteTableId: aws.String(n.mainTable()), DestinationIpv6CidrBlock: aws.String("::/0")}))
	fromInternet("no route", false)
	n.reach("local", n.one, netip.Addr{}, addrs[1], true)
	n.reach("the other family again", n.one, netip.Addr{}, fabric.InternetAddr, true)
	pod := netip.MustParseAddr("fd64::5")
	n.addAddr(n.two, "lo", pod)
	route("fd64::/64", toENI(n.enis[1].ID))
	n.reach("the receiver is checked", n.one, netip.Addr{}, pod, false)
	n.check(n.enis[1].ID, false)
	n.reach("a route to an ENI", n.one, netip.Addr{}, pod, true)
}

// TestLater checks a block that is associated and a subnet that is created after Follow,
// and the public address of an ENI.
func TestLater(t *testing.T) {
	n := newNetwork(t)
	ctx := t.Context()
	n.route(n.mainTable(), "0.0.0.0/0", toGateway("igw-1"))
	must[*ec2.AssociateVpcCidrBlockOutput](n)(n.calls.AssociateVpcCidrBlock(ctx, &ec2.AssociateVpcCidrBlockInput{
		VpcId: &n.cloud.VPCs()[0].ID, CidrBlock: aws.String("10.9.0.0/16"),
	}))
	created := must[*ec2.CreateSubnetOutput](n)(n.calls.CreateSubnet(ctx, &ec2.CreateSubnetInput{
		VpcId: &n.cloud.VPCs()[0].ID, CidrBlock: aws.String("10.9.1.0/24"),
	}))
	n.subnet = *created.Subnet.SubnetId
	three := n.run("node-3")
	if err := n.fabric.Boot(ctx, "node-3"); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(n.cloud.ENIs(), func(e enitest.ENI) bool { return e.Attachment.Instance == three.ID })
	e := n.cloud.ENIs()[i]
	ns := n.fabric.Instance("node-3")
	n.echo(ns, e.Addr)
	n.reach("a new block is local", n.one, netip.Addr{}, e.Addr, true)
	n.reach("no public address", ns, netip.Addr{}, fabric.InternetAddr, false)
	allocated := must[*ec2.AllocateAddressOutput](n)(n.calls.AllocateAddress(ctx, &ec2.AllocateAddressInput{}))
	must[*ec2.AssociateAddressOutput](n)(n.calls.AssociateAddress(ctx, &ec2.AssociateAddressInput{
		AllocationId: allocated.AllocationId, NetworkInterfaceId: &e.ID,
	}))
	n.reach("a public address", ns, netip.Addr{}, fabric.InternetAddr, true)
}

// TestFlowLog checks the flow log of a cloud's ENIs: a connection that the group allows,
// and one that it rejects.
func TestFlowLog(t *testing.T) {
	n := newNetwork(t)
	log, err := n.fabric.FlowLog(fabric.FlowLogInput{Account: "123456789010"})
	if err != nil {
		t.Fatal(err)
	}
	n.reach("allowed", n.one, netip.Addr{}, n.enis[1].Addr, true)
	n.reach("rejected", n.fabric.Internet(), netip.Addr{}, n.enis[1].Addr, false)
	records, err := log.Records()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, r := range records {
		if parsed, err := vpcrules.ParseRecord(r.String()); err != nil || parsed.String() != r.String() {
			t.Errorf("ParseRecord(%q) = %v, %v", r, parsed, err)
		}
		if r.Account != "123456789010" {
			t.Errorf("record %v has another account", r)
		}
		got[strings.Join([]string{r.ENI, r.Src.String(), r.Dst.String(), string(r.Action)}, " ")] = true
	}
	one, two := n.enis[0], n.enis[1]
	for _, want := range [][]string{
		{one.ID, one.Addr.String(), two.Addr.String(), "ACCEPT"},
		{two.ID, one.Addr.String(), two.Addr.String(), "ACCEPT"},
		{one.ID, two.Addr.String(), one.Addr.String(), "ACCEPT"},
		{two.ID, fabric.InternetAddr.String(), two.Addr.String(), "REJECT"},
	} {
		if !got[strings.Join(want, " ")] {
			t.Errorf("no record %q in %v", want, records)
		}
	}
}
