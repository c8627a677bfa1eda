// SPDX-License-Identifier: Apache-2.0

package adopt

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// TestParseResult parses results in the cache of a runtime: of a pod on a branch ENI, with and
// without further plugins and CNI_ARGS, and of other pods, which have no VLAN ID.
func TestParseResult(t *testing.T) {
	const text = `{"kind":"cniCacheV1","containerId":"id-b","config":"e30=","ifName":"eth0","networkName":"aws-cni","cniArgs":[["IgnoreUnknown","1"],["K8S_POD_NAMESPACE","default"],["K8S_POD_NAME","nginx"]],` +
		`"result":{"cniVersion":"0.4.0","interfaces":[{"name":"vlanc440f455693"},{"name":"eth0","mac":"107","sandbox":"/run/netns/b"},{"name":"dummyc440f455693","mac":"7"},{"name":"v6if0","sandbox":"/run/netns/b"}],"ips":[{"version":"4","interface":1,"address":"10.0.0.99/32"}],"dns":{}}}`
	want := branchResult{
		Attachment: ipam.Attachment{Network: "aws-cni", ContainerID: "id-b", IfName: "eth0"}, Pod: ipam.PodRef{Namespace: "default", Name: "nginx"},
		HostLink: "vlanc440f455693", VLAN: 7, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.99")},
	}
	if got, ok := parseResult([]byte(text)); !ok || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%+v, %v, want %+v", got, ok, want)
	}
	if got, ok := parseResult([]byte(strings.Replace(text, `"cniArgs"`, `"other"`, 1))); !ok || got.Pod != (ipam.PodRef{}) {
		t.Errorf("without arguments: %+v, %v, want no pod", got, ok)
	}
	for _, other := range []string{
		"", "{}", "[", text[:len(text)-2], strings.Replace(text, `"mac":"7"`, `"mac":"0"`, 1), strings.Replace(text, "dummyc440f455693", "dummyffffffffff", 1),
		strings.Replace(text, "10.0.0.99/32", "10.0.0.99", 1), strings.Replace(text, `"id-b"`, `""`, 1), strings.Replace(text, `"ips"`, `"none"`, 1),
	} {
		if got, ok := parseResult([]byte(other)); ok {
			t.Errorf("%s is a result: %+v", other, got)
		}
	}
}

func FuzzParseResult(f *testing.F) {
	f.Add([]byte(`{"containerId":"c","ifName":"eth0","result":{"interfaces":[{"name":"vlan0"},{"name":"dummy0","mac":"7"}],"ips":[{"address":"10.0.0.9/32"}]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if r, ok := parseResult(text); ok && (r.VLAN < 1 || r.HostLink == "" || len(r.Addrs) == 0) {
			t.Errorf("%+v", r)
		}
	})
}

// branchAddrs are addresses of a pod on a branch ENI, one in a cluster of each family.
var branchAddrs = []netip.Addr{netip.MustParseAddr("10.0.0.99"), netip.MustParseAddr("2001:db8::99")}

// addBranchPod adds a pod on a branch ENI with VLAN ID 7 to a node, as amazon-vpc-cni-k8s wires
// it in a mode, and to all sources. It returns the name of its host link.
func addBranchPod(n *observed, mode datapath.Enforcement, a netip.Addr) (host string) {
	ipv6, gw, everywhere := a.Is6(), netip.MustParseAddr("10.0.0.1"), netip.MustParsePrefix("0.0.0.0/0")
	subnet, subnet6, onENI := netip.MustParsePrefix("10.0.0.0/24"), netip.Prefix{}, netip.PrefixFrom(a, 24)
	if ipv6 {
		n.Families = append(n.Families, ipam.IPv6)
		gw, everywhere = router6, netip.MustParsePrefix("::/0")
		subnet6, onENI = netip.MustParsePrefix("2001:db8::/64"), netip.PrefixFrom(a, 64)
	}
	dst, host := netstate.HostPrefix(a), "eni"+linkDigest("default", "b", 0)
	n.State.Links = append(n.State.Links,
		netstate.Link{Name: "ens7", MAC: net.HardwareAddr(mac(0xc)).String(), Up: true},
		netstate.Link{Name: "vlan.eth.7", Kind: "vlan", Parent: "ens7", VLAN: 7, MAC: net.HardwareAddr(mac(0xd)).String(), Up: true})
	route := netstate.Route{Dst: dst, Table: netstate.TableMain, Protocol: protocolBoot}
	if mode == datapath.Strict {
		host = "vlan" + linkDigest("default", "b", 0)
		route.Table = 107
		n.State.Rules = append(n.State.Rules, netstate.Rule{IPv6: ipv6, Priority: 10, IIF: host, Table: 107}, netstate.Rule{IPv6: ipv6, Priority: 10, IIF: "vlan.eth.7", Table: 107},
			netstate.Rule{IPv6: ipv6, Priority: 20, Table: netstate.TableLocal})
	} else {
		n.State.Rules = append(n.State.Rules, netstate.Rule{IPv6: ipv6, Priority: 512, To: dst, Table: netstate.TableMain}, netstate.Rule{IPv6: ipv6, Priority: 1536, From: dst, Table: 107},
			netstate.Rule{IPv6: ipv6, Table: netstate.TableLocal, Protocol: protocolKernel})
	}
	route.Link = host
	n.State.Routes = append(n.State.Routes, route,
		netstate.Route{Dst: netstate.HostPrefix(gw), Link: "vlan.eth.7", Table: 107, Protocol: protocolBoot},
		netstate.Route{Dst: everywhere, Via: gw, Link: "vlan.eth.7", Table: 107, Protocol: protocolBoot})
	n.State.Links = append(n.State.Links, netstate.Link{Name: host, Kind: "veth", MAC: "06:00:00:00:00:07", Up: true})
	n.Index[host] = 77
	n.Sandboxes = append(n.Sandboxes, sandbox{
		Path: "/run/netns/b", ID: 9, Links: []sandboxLink{{Name: "eth0", MAC: "06:00:00:00:00:08", Peer: 77, Addrs: []netip.Addr{a}}},
	})
	n.Results = append(n.Results, branchResult{
		Attachment: ipam.Attachment{Network: "aws-cni", ContainerID: "id-b", IfName: "eth0"}, Pod: ipam.PodRef{Namespace: "default", Name: "b"},
		HostLink: host, VLAN: 7, Addrs: []netip.Addr{a},
	})
	tags := map[string]string{eni.TagInstance: instance}
	trunk := eni.ENI{ID: "eni-0c", Device: 2, Kind: eni.KindTrunk, Attachment: "attach-2", Tags: tags, Subnet: subnet, Subnet6: subnet6}
	carrier := datapath.ENI{ID: trunk.ID, MAC: mac(0xc), Device: 2, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.24/24")}}
	n.ENIs = append(n.ENIs, trunk)
	n.Desired.Node.ENIs = append(n.Desired.Node.ENIs, carrier)
	n.Desired.Node.Enforcement = mode
	n.Branches = append(n.Branches, ipamd.BranchENI{
		ENI: eni.ENI{ID: "eni-0d", Kind: eni.KindBranch, Tags: tags, Subnet: subnet, Subnet6: subnet6}, Trunk: trunk,
		Branch: eni.Branch{ENI: "eni-0d", Trunk: trunk.ID, VLANID: 7, Association: "assoc-1"},
		Mode: datapath.Branch{
			ENI: datapath.ENI{ID: "eni-0d", MAC: mac(0xd), Addrs: []netip.Prefix{onENI}}, Trunk: carrier, VLAN: 7, Enforcement: mode,
		},
	})
	return host
}

// TestBranchPods checks that a pod on a branch ENI is taken over, in each mode and family, if all
// sources agree, and that it is otherwise an error that names it and says what is missing. A link
// without a pod is noted.
func TestBranchPods(t *testing.T) {
	for name, test := range map[string]struct {
		change func(n *observed, host string)
		want   string // "" means that it is taken over
	}{
		"all agree":      {func(*observed, string) {}, ""},
		"no result":      {func(n *observed, _ string) { n.Results = nil }, "no result in /results"},
		"another result": {func(n *observed, _ string) { n.Results[0].VLAN = 8 }, "no result in /results"},
		"no arguments":   {func(n *observed, _ string) { n.Results[0].Pod = ipam.PodRef{} }, ""},
		"another name":   {func(n *observed, _ string) { n.Results[0].Pod.Name = "c" }, "the name of its host link is not that of default/c"},
		"another address": {func(n *observed, _ string) { n.Results[0].Addrs[0] = n.Results[0].Addrs[0].Prev() },
			"the cached result lacks ADDR99; eni-0d lacks ADDR98; no sandbox"},
		"no sandbox":       {func(n *observed, _ string) { n.Sandboxes = n.Sandboxes[:2] }, "no sandbox in /run/netns has the other end"},
		"no branch ENI":    {func(n *observed, _ string) { n.Branches = nil }, "EC2 has no branch ENI with that VLAN ID"},
		"another MAC":      {func(n *observed, _ string) { n.Branches[0].Mode.ENI.MAC = mac(0xe) }, "EC2 has no branch ENI with that VLAN ID"},
		"another trunk":    {func(n *observed, _ string) { n.Branches[0].Mode.Trunk.MAC = mac(0xe) }, "EC2 has no branch ENI with that VLAN ID"},
		"forbidden trunk":  {func(n *observed, _ string) { n.Branches[0].Trunk.Tags = nil }, "the trunk eni-0c lacks the tag"},
		"forbidden branch": {func(n *observed, _ string) { n.Branches[0].ENI.ManagedBy = "eks" }, "eni-0d has a tag that forbids it"},
		"another subnet":   {func(n *observed, _ string) { n.Branches[0].ENI.SubnetID = "subnet-2" }, "eni-0d is in another subnet"},
		"unknown prefix": {func(n *observed, _ string) {
			n.Branches[0].ENI.Subnet, n.Branches[0].ENI.Subnet6 = netip.Prefix{}, netip.Prefix{}
		}, "the metadata service does not show it"},
		"no branch ENIs": {func(n *observed, _ string) { n.Desired.Node.Enforcement = "" }, "ENABLE_POD_ENI=true permits it"},
		"another mode":   {func(n *observed, _ string) { n.Desired.Node.Enforcement += "r" }, "POD_SECURITY_GROUP_ENFORCING_MODE sets it"},
		"two host links": {func(n *observed, _ string) {
			n.State.Links = append(n.State.Links, netstate.Link{Name: "eni0123456789a", Kind: "veth"})
			n.State.Rules = append(n.State.Rules, netstate.Rule{Priority: 10, IIF: "eni0123456789a", Table: 107})
		}, "it has 2 host links"},
		"host link alone": {func(n *observed, _ string) {
			n.State.Links = append(n.State.Links, netstate.Link{Name: "vlan0123456789a", Kind: "veth"})
		}, "link vlan0123456789a has the name of its host link"},
	} {
		forBranchPods(t, name, func(t *testing.T, mode datapath.Enforcement, addr netip.Addr) {
			n := node(datapath.Flat)
			host := addBranchPod(&n, mode, addr)
			test.change(&n, host)
			p, err := fromAmazon(n, options)
			if test.want != "" {
				want := strings.ReplaceAll(test.want, "ADDR", strings.TrimSuffix(addr.String(), "99"))
				if !errors.Is(err, ErrBranchPod) || !strings.Contains(err.Error(), want) || len(p.Steps) > 0 {
					t.Errorf("%v, %v, want ErrBranchPod with %q and no plan", p, err, want)
				}
				return
			}
			if err != nil || len(p.Notes) > 0 {
				t.Fatalf("%v, notes %v, want none", err, p.Notes)
			}
			wantSteps(t, p, host, mode, addr)
		})
	}
	n := node(datapath.Flat)
	n.State.Links = append(n.State.Links, netstate.Link{Name: "vlan.eth.7", Kind: "vlan", Parent: "ens6", VLAN: 7, Up: true})
	if p, err := fromAmazon(n, options); err != nil || !strings.Contains(p.String(), "link vlan.eth.7 of VLAN 7: no pod has it") {
		t.Errorf("%v, %v, want a note about the link", p, err)
	}
}

// forBranchPods runs a test in each mode and family.
func forBranchPods(t *testing.T, name string, test func(*testing.T, datapath.Enforcement, netip.Addr)) {
	for _, mode := range []datapath.Enforcement{datapath.Strict, datapath.Standard} {
		for _, addr := range branchAddrs {
			t.Run(fmt.Sprintf("%s/%s/%v", name, mode, addr), func(t *testing.T) { test(t, mode, addr) })
		}
	}
}

// wantSteps checks that a plan takes the branch pod over: its ENIs, its record and its links,
// and that its rules end after ours are made.
func wantSteps(t *testing.T, p plan, host string, mode datapath.Enforcement, addr netip.Addr) {
	t.Helper()
	text, a := p.String(), addr.String()
	ours, theirs := "rule add pref 1536 from "+a+" lookup 107", "rule del pref 1536 from "+a+" lookup 107"
	if mode == datapath.Strict {
		ours, theirs = "rule add pref 10 from "+a+" iif "+host, "rule del pref 10 from all iif "+host
	}
	if i := slices.IndexFunc(p.Steps, func(s step) bool { _, ok := s.(recordBranches); return ok }); i < 0 {
		t.Errorf("the plan records no pod:\n%s", text)
	}
	from := 0
	for _, want := range []string{
		"--resources eni-0c --tags", "--resources eni-0d --tags", a + " on eni-0d, VLAN 7, for ", "ip link set dev " + host + " alias",
		ours, theirs,
	} {
		i := strings.Index(text[from:], want)
		if i < 0 {
			t.Errorf("the plan lacks %q after its first %d bytes:\n%s", want, from, text)
			return
		}
		from += i
	}
}

// TestBranchPodsBack checks that a pod on a branch ENI that our agent has added goes back in
// each mode: it gets the rules of the other agent before its link has another name, and no
// checkpoint has it.
func TestBranchPodsBack(t *testing.T) {
	forBranchPods(t, "back", func(t *testing.T, mode datapath.Enforcement, addr netip.Addr) {
		n := node(datapath.Flat)
		addBranchPod(&n, mode, addr)
		of := n.Branches[0].Mode
		pod := datapath.Pod{
			ContainerID: "id-b", IfName: "eth0", HostLinkPrefix: "eni", Mode: datapath.Mode{Branch: &of}, Addrs: []datapath.PodAddr{{Addr: addr}},
		}
		n.Journal.ENIs = []ipam.ENIView{{ENI: ipam.ENI{ID: second.ID, Device: 1}}}
		n.Desired.Pods = []datapath.Pod{pod}
		n.BranchPods = []ipamd.BranchPod{{
			Attachment: n.Results[0].Attachment, Pod: ipam.PodRef{Namespace: "default", Name: "c"}, Branch: n.Branches[0].Branch, Wiring: pod,
		}}
		n.State.Links[len(n.State.Links)-1].Name = pod.HostLink()
		p, err := toAmazon(n, options)
		if err != nil || len(p.Notes) > 0 {
			t.Fatalf("%v, notes %v, want none", err, p.Notes)
		}
		name := "eni" + linkDigest("default", "c", 0)
		rule := ""
		if mode == datapath.Strict {
			name = "vlan" + linkDigest("default", "c", 0)
			rule = "rule add pref 10 from all iif " + name + " lookup 107"
		}
		text := p.String()
		before, after, found := strings.Cut(text, "ip link set dev "+pod.HostLink()+" name "+name)
		if !found || !strings.Contains(before, rule) || strings.Contains(after, addr.String()+`"`) {
			t.Errorf("the plan does not have %q before the rename to %s, or an entry for the pod:\n%s", rule, name, text)
		}
		for _, want := range []string{"alias ''\nip link set dev vlan.eth.7 alias ''", "--resources eni-0d --tags Key=" + eni.TagOwner + ",Value=" + AmazonVPCCNI} {
			if !strings.Contains(after, want) {
				t.Errorf("the plan lacks %q:\n%s", want, text)
			}
		}
		if strings.Contains(text, "rule del pref 0 ") || strings.Contains(text, "rule del pref 20 from all lookup local\n") {
			t.Errorf("the plan deletes a rule for table local that is not ours:\n%s", text)
		}
	})
}
