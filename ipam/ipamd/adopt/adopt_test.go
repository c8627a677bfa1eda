// SPDX-License-Identifier: Apache-2.0

package adopt

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/snat"
	"github.com/vpcnet/vpcnet/snat/iptables"
)

// TestParseCheckpoint checks that a file is a checkpoint as a whole, or ErrCheckpoint.
func TestParseCheckpoint(t *testing.T) {
	const good = `{"version":"vpc-cni-ipam/1","later":1,"allocations":[{"networkName":"aws-cni","containerID":"c","ifName":"eth0","ipv4":"10.0.1.7","allocationTimestamp":1700000000000000000,` +
		`"metadata":{"k8sPodNamespace":"ns","k8sPodName":"p","interfacesCount":1}}]}`
	entries, err := ParseCheckpoint([]byte(good), 1)
	if err != nil || len(entries) != 1 || entries[0].Card != 1 || entries[0].addr() != netip.MustParseAddr("10.0.1.7") {
		t.Fatalf("%+v, %v", entries, err)
	}
	if got, want := string(FormatCheckpoint(entries)), strings.Replace(good, `"later":1,`, "", 1); got != want {
		t.Errorf("formatted %s\nwant %s", got, want)
	}
	if got, want := string(FormatCheckpoint(nil)), `{"version":"vpc-cni-ipam/1","allocations":[]}`; got != want {
		t.Errorf("formatted %s, want %s", got, want)
	}
	for _, bad := range []string{
		"", "{", good[:len(good)/2], strings.Replace(good, "ipam/1", "ipam/2", 1), strings.Replace(good, `"10.0.1.7"`, `"10.0.1"`, 1),
		strings.Replace(good, `"10.0.1.7"`, `"fd00::1"`, 1), strings.Replace(good, `"ipv4":"10.0.1.7",`, "", 1), strings.Replace(good, `"ipv4"`, `"ipv6":"fd00::1","ipv4"`, 1),
		strings.Replace(good, `"c"`, `""`, 1), strings.Replace(good, `"eth0"`, `""`, 1), strings.Replace(good, `"aws-cni"`, `""`, 1), `[]`,
	} {
		if _, err := ParseCheckpoint([]byte(bad), 0); !errors.Is(err, ErrCheckpoint) {
			t.Errorf("%s: %v, want ErrCheckpoint", bad, err)
		}
	}
}

func FuzzParseCheckpoint(f *testing.F) {
	f.Add([]byte(`{"version":"vpc-cni-ipam/1","allocations":[{"networkName":"n","containerID":"c","ifName":"i","ipv6":"fd00::1","allocationTimestamp":1,"metadata":{}}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		entries, err := ParseCheckpoint(text, 0)
		if err != nil {
			return
		}
		again, err := ParseCheckpoint(FormatCheckpoint(entries), 0)
		if err != nil || fmt.Sprint(again) != fmt.Sprint(entries) {
			t.Errorf("%v becomes %v, %v", entries, again, err)
		}
	})
}

func TestCheckpointPath(t *testing.T) {
	for card, want := range map[int]string{0: "/x/ipam.json", 1: "/x/ipam-nic-1.json"} {
		if got := checkpointPath("/x/ipam.json", card); got != want {
			t.Errorf("card %d: %s, want %s", card, got, want)
		}
	}
}

const instance = "i-1"

var (
	primary = eni.ENI{ID: "eni-0a", Primary: true, Managed: true, Kind: eni.KindInterface, Attachment: "attach-0"}
	second  = eni.ENI{ID: "eni-0b", Device: 1, Kind: eni.KindInterface, Attachment: "attach-1", Tags: map[string]string{eni.TagInstance: instance}}
)

// links has the names of the links of two pods in namespace default, by the rules
// of amazon-vpc-cni-k8s.
var links = map[string]string{"nginx": "enic440f455693", "a": "eniacd53aa4120"}

// node returns a node with a pod on each of two ENIs, as amazon-vpc-cni-k8s wires them.
func node(layout datapath.Layout) observed {
	e0 := datapath.ENI{ID: primary.ID, MAC: mac(0xa), Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.4/24")}, Sources: prefixes("10.0.0.5")}
	e1 := datapath.ENI{ID: second.ID, MAC: mac(0xb), Device: 1, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.14/24")}, Sources: prefixes("10.0.0.15", "10.0.0.16")}
	n := observed{
		Now: time.Unix(1800000000, 0), Instance: instance, Owner: "vpcnet", MTU: 9001, Families: []ipam.Family{ipam.IPv4}, ENIs: []eni.ENI{primary, second},
		Pool:    []agent.ENI{{ID: e0.ID, Primary: true, Blocks: e0.Sources}, {ID: e1.ID, Device: 1, Blocks: e1.Sources}},
		Index:   map[string]int{},
		Desired: datapath.Desired{Node: datapath.Node{Layout: layout, ENIs: []datapath.ENI{e0, e1}}},
		Translation: snat.Config{
			PrimaryLink: "ens5", NodeAddrs: []netip.Addr{netip.MustParseAddr("10.0.0.4")}, VPC: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")},
			HostLinkPrefix: "eni", NodePort: true, Random: snat.RandomPRNG,
		},
		Variant: iptables.NFT, Tables: map[iptables.Variant]string{}, Conflist: "/net.d/10-vpcnet.conflist", Files: map[string]bool{"/net.d/10-aws.conflist": true},
	}
	n.State.Links = []netstate.Link{{Name: "ens5", MAC: e0.MAC.String(), Up: true}, {Name: "ens6", MAC: e1.MAC.String(), Up: true}}
	n.State.Addresses = []netstate.Address{{Link: "ens6", Prefix: e1.Addrs[0]}}
	addPod(&n, "nginx", "10.0.0.5", 254)
	addPod(&n, "a", "10.0.0.15", 2)
	return n
}

func mac(last byte) []byte { return []byte{2, 0, 0, 0, 0, last} }

func prefixes(addrs ...string) (all []netip.Prefix) {
	for _, a := range addrs {
		all = append(all, netstate.HostPrefix(netip.MustParseAddr(a)))
	}
	return all
}

// addPod adds a pod to the checkpoint, the kernel and the sandboxes.
func addPod(n *observed, name, addr string, table int) {
	a := netip.MustParseAddr(addr)
	link := links[name]
	n.Entries = append(n.Entries, Entry{
		NetworkName: "aws-cni", ContainerID: "id-" + name, IfName: "eth0", IPv4: a, Timestamp: 1700000000000000000,
		Metadata: Metadata{Namespace: "default", Name: name, Interfaces: 1},
	})
	n.Index[link] = 10 + len(n.Index)
	n.State.Links = append(n.State.Links, netstate.Link{Name: link, Kind: "veth", MAC: "06:00:00:00:00:01", Up: true})
	n.State.Routes = append(n.State.Routes, netstate.Route{Dst: netstate.HostPrefix(a), Link: link, Table: netstate.TableMain, Protocol: 3})
	n.State.Rules = append(n.State.Rules, netstate.Rule{Priority: 512, To: netstate.HostPrefix(a), Table: netstate.TableMain})
	if table != netstate.TableMain {
		n.State.Rules = append(n.State.Rules, netstate.Rule{Priority: 1536, From: netstate.HostPrefix(a), Table: table})
	}
	n.Sandboxes = append(n.Sandboxes, sandbox{
		Path: "/run/netns/" + name, ID: 7, Links: []sandboxLink{{Name: "eth0", MAC: "06:00:00:00:00:02", Peer: n.Index[link], Addrs: []netip.Addr{a}}},
	})
}

var options = Options{Checkpoint: "/aws/ipam.json", Conflist: "/net.d/10-aws.conflist", PluginDir: "/bin", Sandboxes: []string{"/run/netns"}, Results: "/results"}

// allocated returns the addresses that a plan takes over.
func allocated(p plan) (all []string) {
	for _, s := range p.Steps {
		if r, ok := s.(recordEvents); ok {
			for _, e := range r.Events {
				if e.Kind == ipam.EventAllocated {
					all = append(all, e.Addrs[0].String())
				}
			}
		}
	}
	return all
}

// TestSourcesDisagree checks that each pod about which the sources disagree is named, and
// that nothing of it changes.
func TestSourcesDisagree(t *testing.T) {
	both := []string{"10.0.0.5", "10.0.0.15"}
	for name, test := range map[string]struct {
		change func(*observed)
		take   []string // addresses
		note   string
		keep   string // is in no command
	}{
		"all agree": {func(*observed) {}, both, "", "nowhere"},
		"the link is gone": {func(n *observed) {
			n.State.Links = n.State.Links[:3]
			n.State.Routes = n.State.Routes[:1]
		}, both[:1], "default/a (aws-cni/id-a/eth0) with 10.0.0.15: the pod has ended", "dev eniacd53aa4120"},
		"a link without an entry": {func(n *observed) { n.Entries = n.Entries[:1] }, both[:1], "link eniacd53aa4120: it leads to 10.0.0.15, which no checkpoint has", "to 10.0.0.15 "},
		"two entries": {func(n *observed) {
			n.Entries[1].IPv4 = n.Entries[0].IPv4
		}, both[:1], "10.0.0.5: the checkpoints give it to 2 pods", "to 10.0.0.15 "},
		"EC2 does not know the address": {func(n *observed) {
			n.Pool[1].Blocks = n.Pool[1].Blocks[1:]
			n.Desired.Node.ENIs[1].Sources = n.Desired.Node.ENIs[1].Sources[1:]
		}, both[:1], "with 10.0.0.15: no ENI of this node", "to 10.0.0.15 "},
		"no sandbox":    {func(n *observed) { n.Sandboxes = n.Sandboxes[:1] }, both[:1], "with 10.0.0.15: no sandbox in /run/netns", "to 10.0.0.15 "},
		"another peer":  {func(n *observed) { n.Sandboxes[1].Links[0].Peer++ }, both[:1], "with 10.0.0.15: no sandbox", "to 10.0.0.15 "},
		"another route": {func(n *observed) { n.State.Routes[1].Link = "enic440f455693" }, both[:1], `with 10.0.0.15: packets to it go to link "enic440f455693"`, "to 10.0.0.15 "},
		"a foreign ENI": {func(n *observed) { n.ENIs[1].Tags = nil; n.Pool[1].NoPods = true }, both[:1], "eni-0b: it lacks the tag", "resources eni-0b"},
		"a forbidden ENI": {func(n *observed) {
			n.ENIs[1].Tags = map[string]string{eni.TagInstance: instance, eni.TagNoManage: "true"}
			n.Pool[1].NoPods = true
		}, both[:1], "eni-0b", "resources eni-0b"},
		"in our journal": {func(n *observed) {
			n.Allocations = []ipam.Allocation{{Attachment: ipam.Attachment{Network: "vpcnet", ContainerID: "x", IfName: "eth0"}, Addr: n.Entries[1].IPv4}}
		}, both[:1], "our journal has given the address to vpcnet/x/eth0", "to 10.0.0.15 "},
		"taken over before": {func(n *observed) {
			n.Allocations = []ipam.Allocation{{Attachment: ipam.Attachment{Network: "aws-cni", ContainerID: "id-a", IfName: "eth0"}, Addr: n.Entries[1].IPv4, Device: 1}}
		}, both[:1], "", "nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			n := node(datapath.PerPod)
			test.change(&n)
			p, err := fromAmazon(n, options)
			if err != nil {
				t.Fatal(err)
			}
			got := allocated(p)
			slices.Sort(got)
			want := slices.Sorted(slices.Values(test.take))
			if !slices.Equal(got, want) {
				t.Errorf("the plan takes over %v, want %v:\n%v", got, want, p)
			}
			notes := strings.Join(p.Notes, "\n")
			if test.note == "" && notes != "" || !strings.Contains(notes, test.note) {
				t.Errorf("notes %q, want %q", notes, test.note)
			}
			for _, s := range p.Steps {
				if text := s.String(); strings.Contains(text, test.keep) && !strings.HasPrefix(text, "#") {
					t.Errorf("the plan changes what belongs to %q:\n%v", test.keep, text)
				}
			}
		})
	}
}

// TestToAmazon checks what goes back, and that a pod that cannot is an error.
func TestToAmazon(t *testing.T) {
	empty, err := toAmazon(node(datapath.Flat), options)
	if err != nil || len(empty.Steps) > 0 {
		t.Errorf("without a journal: %v, %v, want no steps", empty, err)
	}
	n := node(datapath.Flat)
	pod := datapath.Pod{ContainerID: "id-a", IfName: "eth0", HostLinkPrefix: "eni", Addrs: []datapath.PodAddr{{Addr: n.Entries[1].IPv4, Table: 2}}}
	n.Allocations = []ipam.Allocation{{
		Attachment: ipam.Attachment{Network: "vpcnet", ContainerID: "id-a", IfName: "eth0"}, Addr: n.Entries[1].IPv4, Device: 1,
		Pod: ipam.PodRef{Namespace: "default", Name: "a"}, At: time.Unix(0, 1700000000000000000),
	}}
	n.Journal.ENIs = []ipam.ENIView{{ENI: ipam.ENI{ID: second.ID, Device: 1}}}
	n.Desired.Pods = []datapath.Pod{pod}
	i := slices.IndexFunc(n.State.Links, func(l netstate.Link) bool { return l.Name == links["a"] })
	n.State.Links[i].Name = pod.HostLink()
	n.State.Routes[1].Link = pod.HostLink()
	p, err := toAmazon(n, options)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"ip link set dev " + pod.HostLink() + " name " + links["a"], `"networkName":"vpcnet","containerID":"id-a"`, "iptables-nft-restore --noflush",
		"-A AWS-SNAT-CHAIN-0 ! -o vlan+", "nft delete table inet vpcnet-snat",
	} {
		if !strings.Contains(p.String(), want) {
			t.Errorf("the plan lacks %q:\n%v", want, p)
		}
	}
	n.Desired.Pods[0].Addrs = append(n.Desired.Pods[0].Addrs, datapath.PodAddr{Addr: netip.MustParseAddr("fd00::1")})
	if _, err := toAmazon(n, options); !errors.Is(err, ErrUnsupported) {
		t.Errorf("with two addresses: %v, want ErrUnsupported", err)
	}
}
