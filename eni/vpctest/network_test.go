// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vpctest_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// TestRouteToENI leads a prefix outside of the VPC to an ENI, as kops does for the pods of a
// node.
func TestRouteToENI(t *testing.T) {
	vpc := vpctest.New(t)
	from, to := vpc.Node(t, "m5.large"), vpc.Node(t, "m5.large")
	inside := netip.MustParseAddr("100.96.1.1")
	to.Run(t, "ip", "addr", "add", inside.String()+"/32", "dev", "lo")
	from.NoPing(t, inside)
	eni := to.ENIs()[0].ID
	table := element(vpc.EC2(t, "DescribeRouteTables"), "<routeTableId>")
	vpc.EC2(t, "CreateRoute", "RouteTableId", table, "DestinationCidrBlock", "100.96.1.0/24", "NetworkInterfaceId", eni)
	from.NoPing(t, inside) // the source/destination check
	if vpc.Drops(t).Foreign[eni] == 0 {
		t.Errorf("drops %+v, want packets to a destination that %s does not own", vpc.Drops(t), eni)
	}
	vpc.EC2(t, "ModifyNetworkInterfaceAttribute", "NetworkInterfaceId", eni, "SourceDestCheck.Value", "false")
	from.Ping(t, inside)
	vpc.EC2(t, "DeleteRoute", "RouteTableId", table, "DestinationCidrBlock", "100.96.1.0/24")
	from.NoPing(t, inside)
}

// TestNetworkACL denies a port of a subnet.
func TestNetworkACL(t *testing.T) {
	vpc := vpctest.New(t)
	from, to := vpc.Node(t, "m5.large"), vpc.Node(t, "m5.large") // in different subnets
	echo := netip.AddrPortFrom(to.Addr, 8080)
	to.Echo(t, echo)
	from.Ask(t, "tcp", echo)
	acl := element(vpc.EC2(t, "DescribeNetworkAcls"), "<networkAclId>")
	vpc.EC2(t, "CreateNetworkAclEntry", "NetworkAclId", acl, "RuleNumber", "50", "Egress", "false", "Protocol", "6", "RuleAction", "deny",
		"CidrBlock", from.Addr.String()+"/32", "PortRange.From", "8080", "PortRange.To", "8080")
	from.NoAnswer(t, "tcp", echo)
	if vpc.Drops(t).NetworkACLs == 0 {
		t.Error("the network ACLs have dropped nothing")
	}
	from.Ping(t, to.Addr)
	vpc.EC2(t, "DeleteNetworkAclEntry", "NetworkAclId", acl, "RuleNumber", "50", "Egress", "false")
	from.Ask(t, "tcp", echo)
}

// TestFlowLogRecords checks the text and the fields of a record.
func TestFlowLogRecords(t *testing.T) {
	vpc := vpctest.New(t)
	from, to := vpc.Node(t, "m5.large"), vpc.Node(t, "m5.large")
	echo := netip.AddrPortFrom(to.Addr, 8080)
	to.Echo(t, echo)
	log := vpc.FlowLog(t)
	source := from.Ask(t, "tcp", echo)
	records := log.Records(t)
	for _, id := range []string{from.ENIs()[0].ID, to.ENIs()[0].ID} {
		i := slices.IndexFunc(records, func(r vpctest.Record) bool {
			return r.ENI == id && netip.AddrPortFrom(r.Src, r.SrcPort) == source && netip.AddrPortFrom(r.Dst, r.DstPort) == echo
		})
		if i < 0 {
			t.Errorf("no record of %s for %v > %v in %v", id, source, echo, records)
			continue
		}
		r := records[i]
		if r.Action != vpctest.Accept || r.Status != "OK" || r.Protocol != 6 || r.Packets < 3 || r.Bytes == 0 || r.Start.After(r.End) || r.PktDst != to.Addr {
			t.Errorf("record %+v", r)
		}
		if fields := strings.Fields(r.String()); len(fields) != 14 || fields[0] != "2" || fields[2] != id || fields[12] != "ACCEPT" {
			t.Errorf("the text of the record is %q", r)
		}
	}
	if got := fails(t, func(t vpctest.TB) { vpc.FlowLog(t) }); !strings.Contains(got, "flow log") {
		t.Errorf("a second flow log: %q", got)
	}
}
