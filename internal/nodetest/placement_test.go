// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// podBlock is the block of the pods' subnets, as custom networking usually has it.
var podBlock = netip.MustParsePrefix("100.64.0.0/16")

// placed returns a VPC with two subnets for nodes, in two zones, and subnets for pods. The first
// one has the given prefix.
func placed(t *testing.T, nodes string, pods ...enitest.SubnetInput) *vpctest.VPC {
	return vpctest.NewWith(t, vpctest.Config{
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), podBlock},
		Subnets: append([]enitest.SubnetInput{
			{Prefix: netip.MustParsePrefix(nodes), Zone: "us-west-2a", MapPublic: true},
			{Prefix: netip.MustParsePrefix("10.0.16.0/20"), Zone: "us-west-2b", MapPublic: true},
		}, pods...),
	})
}

// openGroup creates a security group that accepts everything.
func openGroup(t *testing.T, vpc *vpctest.VPC, name string) string {
	t.Helper()
	answer := vpc.EC2(t, "CreateSecurityGroup", "GroupName", name, "GroupDescription", name, "VpcId", vpc.ID)
	id := regexp.MustCompile("sg-[0-9a-f]+").FindString(answer)
	vpc.EC2(t, "AuthorizeSecurityGroupIngress", "GroupId", id, "IpPermissions.1.IpProtocol", "-1", "IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0")
	return id
}

// TestCustomNetworking checks pods whose subnets and security groups differ from those of
// their nodes, by zone from a file and from flags: they have addresses of the pods' subnets,
// the primary ENI has no pods, and the internet sees the address of the node.
func TestCustomNetworking(t *testing.T) {
	t.Parallel()
	for _, layout := range layouts {
		t.Run(layout, func(t *testing.T) {
			vpc := placed(t, "10.0.0.0/20",
				enitest.SubnetInput{Prefix: netip.MustParsePrefix("100.64.0.0/20"), Zone: "us-west-2a"},
				enitest.SubnetInput{Prefix: netip.MustParsePrefix("100.64.16.0/20"), Zone: "us-west-2b"})
			group := openGroup(t, vpc, "pods")
			file := filepath.Join(t.TempDir(), "networks.json")
			text := `{"us-west-2a":{"subnets":["` + vpc.Subnets[2].ID + `"],"groups":["` + group + `"]}}`
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			var pods []*Pod
			for i, env := range []map[string]string{
				{"VPCNET_POD_NETWORKS": file},
				{"VPCNET_POD_SUBNETS": vpc.Subnets[2].ID + "," + vpc.Subnets[3].ID, "VPCNET_POD_SECURITY_GROUPS": group},
			} {
				env["AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG"], env["VPCNET_LAYOUT"] = "true", layout
				node := Start(t, vpc.NodeIn(t, enitest.InstanceInput{Subnet: vpc.Subnets[i].ID, Type: "t3.small"}), Config{Env: env})
				for range 4 { // more than one ENI has
					pods = append(pods, node.AddPod(t))
				}
				for _, e := range node.ENIs() {
					primary := e.Attachment.Device == 0
					if primary && len(e.Addrs) > 0 || !primary && (e.Subnet != vpc.Subnets[2+i].ID || !slices.Equal(e.Groups, []string{group})) {
						t.Errorf("%s has the ENI %s with %v in %s and groups %v", node.Name(), e.ID, e.Addrs, e.Subnet, e.Groups)
					}
				}
			}
			for _, from := range pods {
				if !podBlock.Contains(from.Addrs[0]) {
					t.Errorf("a pod has %v, want an address in %v", from.Addrs[0], podBlock)
				}
				for _, to := range pods {
					if from == to {
						continue
					}
					if got := from.Ask(t, "udp", to.At(0)).Addr(); got != from.Addrs[0] {
						t.Errorf("%v sees %v, want %v", to.Addrs[0], got, from.Addrs[0])
					}
				}
				if got := from.Ask(t, "tcp", netip.AddrPortFrom(vpctest.InternetAddr, vpctest.EchoPort)).Addr(); got != from.node.Addr {
					t.Errorf("the internet sees %v from %v, want %v", got, from.Addrs[0], from.node.Addr)
				}
				from.Ping(t, from.node.Addr)
			}
			wantNoDrops(t, vpc)
		})
	}
}

// TestSubnetDiscovery checks that pods get addresses of the tagged subnets, and that when one
// is full the next one is used.
func TestSubnetDiscovery(t *testing.T) {
	t.Parallel()
	role := map[string]string{"kubernetes.io/role/cni": "1"}
	vpc := placed(t, "10.0.0.0/28",
		enitest.SubnetInput{Prefix: netip.MustParsePrefix("100.64.0.0/28"), Zone: "us-west-2a", Tags: role},
		enitest.SubnetInput{Prefix: netip.MustParsePrefix("100.64.1.0/28"), Zone: "us-west-2a", Tags: role},
		enitest.SubnetInput{Prefix: netip.MustParsePrefix("100.64.2.0/24"), Zone: "us-west-2a"},
		enitest.SubnetInput{Prefix: netip.MustParsePrefix("100.64.3.0/24"), Zone: "us-west-2b", Tags: role})
	for i, subnet := range vpc.Subnets[:4] { // leave 6 addresses for the node, 3 for each ENI
		if i == 1 {
			continue
		}
		for n := 4; n < 12 && (i > 0 || n < 9); n++ {
			base := subnet.Prefix.Addr().As4()
			base[3] = byte(n)
			if err := vpc.Cloud.Occupy(subnet.ID, netip.AddrFrom4(base)); err != nil {
				t.Fatal(err)
			}
		}
	}
	env := map[string]string{"ENABLE_SUBNET_DISCOVERY": "true", "WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "1"}
	node := Start(t, vpc.NodeIn(t, enitest.InstanceInput{Subnet: vpc.Subnets[0].ID, Type: "t3.medium"}), Config{Env: env})
	for range 8 { // 5 on the primary ENI; then 2 in each of the two subnets
		p := node.AddPod(t)
		if got := p.Ask(t, "udp", netip.AddrPortFrom(vpctest.InternetAddr, vpctest.EchoPort)).Addr(); got != node.Addr {
			t.Errorf("the internet sees %v from %v, want %v", got, p.Addrs[0], node.Addr)
		}
	}
	var used []string
	for _, e := range node.ENIs() {
		used = append(used, e.Subnet)
	}
	want := []string{vpc.Subnets[0].ID, vpc.Subnets[2].ID, vpc.Subnets[3].ID}
	slices.Sort(used[1:])
	slices.Sort(want[1:])
	if !slices.Equal(used, want) {
		t.Errorf("ENIs in the subnets %v, want %v", used, want)
	}
}
