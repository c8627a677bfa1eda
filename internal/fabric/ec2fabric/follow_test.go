// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ec2fabric_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/fabric/ec2fabric"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

func TestMain(m *testing.M) { isolatetest.Test(m) }

// region is a cloud with one VPC, and a fabric that follows the cloud.
type region struct {
	t      *testing.T
	cloud  *enitest.Cloud
	fabric *fabric.Fabric
	follow *ec2fabric.Follower
	subnet string
}

func newRegion(t *testing.T) *region {
	t.Helper()
	isolatetest.Require(t)
	cloud := enitest.New(enitest.Config{})
	vpc, err := cloud.AddVPC(enitest.VPCInput{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("2001:db8:1::/56")}})
	if err != nil {
		t.Fatal(err)
	}
	subnet, err := cloud.AddSubnet(enitest.SubnetInput{VPC: vpc.ID, Prefix: netip.MustParsePrefix("10.0.1.0/24"), IPv6: netip.MustParsePrefix("2001:db8:1:1::/64"), MapPublic: true})
	if err != nil {
		t.Fatal(err)
	}
	r := &region{t: t, cloud: cloud, subnet: subnet.ID}
	r.run("node-1") // runs before Follow
	if r.fabric, err = fabric.New(t.Context(), fabric.Config{VPC: slices.Concat(vpc.Prefixes, vpc.IPv6)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.fabric.Close(); err != nil {
			t.Error(err)
		}
	})
	if r.follow, err = ec2fabric.Follow(r.fabric, cloud); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *region) run(name string) enitest.Instance {
	r.t.Helper()
	i, err := r.cloud.RunInstance(enitest.InstanceInput{Subnet: r.subnet, Tags: map[string]string{"Name": name}})
	if err != nil {
		r.t.Fatal(err)
	}
	return i
}

// client returns an HTTP client in the namespace of a node.
func client(n *fabric.Netns) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return nil, err
		}
		return n.Dial(ctx, network, netip.AddrPort{}, to)
	}}, Timeout: 10 * time.Second}
}

func api(n *fabric.Netns) *ec2.Client {
	return ec2.New(ec2.Options{
		Region: "us-west-2", BaseEndpoint: aws.String("http://" + fabric.EC2Addr.String()), HTTPClient: client(n),
		Credentials: credentials.NewStaticCredentialsProvider("AKID", "secret", ""),
	})
}

func links(t *testing.T, n *fabric.Netns) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := n.Do(func() error {
		list, err := netlink.LinkList()
		for _, l := range list {
			if l.Attrs().Name != "lo" {
				all[l.Attrs().Name] = l.Attrs().HardwareAddr.String()
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestLifeOfAnENI creates, attaches, changes and detaches an ENI with the unmodified
// SDK, in the namespace of its instance, and checks the links after each step.
func TestLifeOfAnENI(t *testing.T) {
	r := newRegion(t)
	two := r.run("node-2")
	for _, name := range []string{"node-1", "node-2"} {
		if err := r.fabric.Boot(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	node := r.fabric.Instance("node-2")
	primary := r.fabric.ENIs("node-2")[0]
	want := map[string]string{"ens5": primary.MAC.String()}
	if diff := cmp.Diff(want, links(t, node)); diff != "" {
		t.Errorf("links after boot (-want +got):\n%s", diff)
	}
	if !primary.Public || primary.Unchecked || primary.Subnet != r.subnet {
		t.Errorf("primary ENI is %+v, want a public and checked one in %s", primary, r.subnet)
	}
	calls := api(node)
	created, err := calls.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: &r.subnet, SecondaryPrivateIpAddressCount: aws.Int32(2)})
	if err != nil {
		t.Fatal(err)
	}
	id := *created.NetworkInterface.NetworkInterfaceId
	attached, err := calls.AttachNetworkInterface(t.Context(), &ec2.AttachNetworkInterfaceInput{NetworkInterfaceId: &id, InstanceId: &two.ID, DeviceIndex: aws.Int32(1)})
	if err != nil {
		t.Fatal(err)
	}
	want["ens6"] = *created.NetworkInterface.MacAddress
	if diff := cmp.Diff(want, links(t, node)); diff != "" {
		t.Errorf("links after attach (-want +got):\n%s", diff)
	}
	owned := func(want int) {
		t.Helper()
		if e, ok := r.fabric.ENI(id); !ok || len(e.Addrs)+len(e.Prefixes) != want {
			t.Errorf("the fabric delivers %v and %v to the ENI, want %d in all", e.Addrs, e.Prefixes, want)
		}
	}
	owned(2)
	if _, err := calls.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{NetworkInterfaceId: &id, SecondaryPrivateIpAddressCount: aws.Int32(3)}); err != nil {
		t.Fatal(err)
	}
	owned(5)
	e, _ := r.fabric.ENI(id)
	if _, err := calls.UnassignPrivateIpAddresses(t.Context(), &ec2.UnassignPrivateIpAddressesInput{NetworkInterfaceId: &id, PrivateIpAddresses: []string{e.Addrs[0].String()}}); err != nil {
		t.Fatal(err)
	}
	owned(4)
	if _, err := calls.DetachNetworkInterface(t.Context(), &ec2.DetachNetworkInterfaceInput{AttachmentId: attached.AttachmentId}); err != nil {
		t.Fatal(err)
	}
	delete(want, "ens6")
	if diff := cmp.Diff(want, links(t, node)); diff != "" {
		t.Errorf("links after detach (-want +got):\n%s", diff)
	}
	if err := r.follow.Err(); err != nil {
		t.Error(err)
	}
}

// TestMetadata checks that each of two nodes gets its own metadata.
func TestMetadata(t *testing.T) {
	r := newRegion(t)
	r.run("node-2")
	for _, i := range r.cloud.Instances() {
		name := i.Tags["Name"]
		if err := r.fabric.Boot(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		service := imds.New(imds.Options{Endpoint: "http://" + fabric.MetadataAddr.String(), HTTPClient: client(r.fabric.Instance(name))})
		got := map[string]string{}
		for _, key := range []string{"instance-id", "local-ipv4"} {
			answer, err := service.GetMetadata(t.Context(), &imds.GetMetadataInput{Path: key})
			if err != nil {
				t.Fatal(err)
			}
			value, err := io.ReadAll(answer.Content)
			if err != nil {
				t.Fatal(err)
			}
			got[key] = string(value)
		}
		want := map[string]string{"instance-id": i.ID, "local-ipv4": r.fabric.ENIs(name)[0].Addr.String()}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("metadata of %s (-want +got):\n%s", name, diff)
		}
	}
}

func TestHooksReportErrors(t *testing.T) {
	r := newRegion(t)
	if _, err := r.fabric.AddInstance("node-3"); err != nil {
		t.Fatal(err)
	}
	if err := r.fabric.RemoveInstance("node-1"); err != nil {
		t.Fatal(err)
	}
	if r.follow.Err() != nil {
		t.Fatal(r.follow.Err())
	}
	if err := r.fabric.Close(); err != nil {
		t.Fatal(err)
	}
	r.run("node-2")
	if r.follow.Err() == nil {
		t.Error("Err returns nil after a change that failed")
	}
}

// TestBranchENI associates a branch ENI with a trunk ENI, changes its groups, and ends
// the association.
func TestBranchENI(t *testing.T) {
	n := newNetwork(t)
	ctx := t.Context()
	create := func(kind types.NetworkInterfaceCreationType) string {
		t.Helper()
		out := must[*ec2.CreateNetworkInterfaceOutput](n)(n.calls.CreateNetworkInterface(ctx, &ec2.CreateNetworkInterfaceInput{SubnetId: &n.subnet, InterfaceType: kind}))
		return *out.NetworkInterface.NetworkInterfaceId
	}
	trunk, branch := create(types.NetworkInterfaceCreationTypeTrunk), create("")
	attach := func() string {
		t.Helper()
		out := must[*ec2.AttachNetworkInterfaceOutput](n)(n.calls.AttachNetworkInterface(ctx, &ec2.AttachNetworkInterfaceInput{
			NetworkInterfaceId: &trunk, InstanceId: &n.ids[0], DeviceIndex: aws.Int32(1),
		}))
		return *out.AttachmentId
	}
	attachment := attach()
	associated := must[*ec2.AssociateTrunkInterfaceOutput](n)(n.calls.AssociateTrunkInterface(ctx, &ec2.AssociateTrunkInterfaceInput{
		TrunkInterfaceId: &trunk, BranchInterfaceId: &branch, VlanId: aws.Int32(7),
	}))
	check := func(what string, want bool, groups ...string) {
		t.Helper()
		e, ok := n.fabric.ENI(branch)
		if ok != want || want && (e.VLAN != 7 || e.Trunk != trunk || e.Instance != "node-1" || !slices.Equal(e.Groups, groups)) {
			t.Errorf("%s: the fabric has the branch ENI: %t, %+v; want %t, VLAN 7, groups %v", what, ok, e, want, groups)
		}
	}
	if _, ok := n.fabric.ENI(branch); !ok && os.Getenv("VPCNET_VM") == "" {
		t.Log("this kernel has no links of kind vlan; internal/vm runs this test")
		return // the end of the test checks that the follower has no error
	}
	check("associated", true, n.groupOf(0))
	group := n.createGroup("branch")
	n.setGroups(branch, group)
	check("another group", true, group)
	must[*ec2.DetachNetworkInterfaceOutput](n)(n.calls.DetachNetworkInterface(ctx, &ec2.DetachNetworkInterfaceInput{AttachmentId: &attachment}))
	check("the trunk is detached", false)
	attach()
	check("the trunk is attached again", true, group)
	must[*ec2.DisassociateTrunkInterfaceOutput](n)(n.calls.DisassociateTrunkInterface(ctx, &ec2.DisassociateTrunkInterfaceInput{AssociationId: associated.InterfaceAssociation.AssociationId}))
	check("disassociated", false)
}
