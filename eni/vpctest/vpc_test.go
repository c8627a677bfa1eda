// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vpctest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// TestNode checks what a node has after its start.
func TestNode(t *testing.T) {
	vpc := vpctest.New(t)
	first, second := vpc.Node(t, "m5.large"), vpc.Node(t, "t3.medium")
	if first.Name() != "node-1" || second.Name() != "node-2" || first.Instance.Subnet == second.Instance.Subnet {
		t.Errorf("%s in %s and %s in %s; want node-1 and node-2 in different subnets", first.Name(), first.Instance.Subnet, second.Name(), second.Instance.Subnet)
	}
	if i, ok := vpc.Cloud.Instance(first.ID()); !ok || i.Type != "m5.large" {
		t.Errorf("EC2 knows the instance %+v, want an m5.large with the ID %s", i, first.ID())
	}
	for _, n := range []*vpctest.Node{first, second} {
		if got := strings.TrimSpace(get(t, n, "/latest/meta-data/instance-id")); got != n.ID() {
			t.Errorf("metadata of %s has the instance ID %q, want %q", n.Name(), got, n.ID())
		}
		if body := query(t, n, "DescribeNetworkInterfaces"); !strings.Contains(body, n.ENIs()[0].ID) {
			t.Errorf("EC2 inside %s does not show %s:\n%s", n.Name(), n.ENIs()[0].ID, body)
		}
		n.Ping(t, vpctest.InternetAddr)
		n.Ping(t, vpctest.InternetAddr6)
		n.Ping(t, vpctest.PeerAddr)
		if seen := n.Ask(t, "tcp", netip.AddrPortFrom(vpctest.InternetAddr, vpctest.EchoPort)); seen.Addr() != n.Addr {
			t.Errorf("the internet sees %v, want %v", seen.Addr(), n.Addr)
		}
	}
	first.Ping(t, second.Addr)
	first.Ping(t, second.Addr6)
}

// TestDHCPRoutes compares the routes of nodes in the first and in another subnet with those of
// Amazon Linux: the resolver is reached directly only in the subnet that has its address.
func TestDHCPRoutes(t *testing.T) {
	vpc := vpctest.New(t)
	for _, tt := range []struct{ gateway, subnet, resolver string }{
		{"10.0.0.1", "10.0.0.0/20", "10.0.0.2 dev ens5 proto dhcp scope link src %s metric 512"},
		{"10.0.16.1", "10.0.16.0/20", "10.0.0.2 via 10.0.16.1 dev ens5 proto dhcp src %s metric 512 onlink"},
	} {
		n := vpc.Node(t, "m5.large")
		addr := n.Addr.String()
		want := []string{
			"default via " + tt.gateway + " dev ens5 proto dhcp src " + addr + " metric 512 onlink",
			fmt.Sprintf(tt.resolver, addr),
			tt.gateway + " dev ens5 proto dhcp scope link src " + addr + " metric 512",
			tt.subnet + " dev ens5 proto kernel scope link src " + addr + " metric 512",
		}
		var got []string
		for line := range strings.Lines(n.Run(t, "ip", "-4", "route")) {
			got = append(got, strings.Join(strings.Fields(line), " "))
		}
		slices.Sort(got)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("routes of %s (-want +got):\n%s", n.Name(), diff)
		}
	}
	without := vpctest.NewWith(t, vpctest.Config{NoDNS: true}).Node(t, "m5.large")
	if routes := without.Run(t, "ip", "route"); strings.Contains(routes, "10.0.0.2") {
		t.Errorf("a node of a VPC without resolver has a route to it:\n%s", routes)
	}
}

// TestFollows attaches an ENI over the API: its link appears, moves into a pod, and vanishes
// with the detachment.
func TestFollows(t *testing.T) {
	vpc := vpctest.New(t)
	n := vpc.Node(t, "m5.large")
	answer := vpc.EC2(t, "CreateNetworkInterface", "SubnetId", n.Instance.Subnet)
	id := element(answer, "<networkInterfaceId>")
	vpc.EC2(t, "AttachNetworkInterface", "NetworkInterfaceId", id, "InstanceId", n.ID(), "DeviceIndex", "1")
	enis := n.ENIs()
	if len(enis) != 2 || enis[1].ID != id || vpctest.Link(enis[1]) != "ens6" {
		t.Fatalf("ENIs %v, want %s as second with the link ens6", enis, id)
	}
	if out := n.Run(t, "ip", "-o", "link", "show", "ens6"); !strings.Contains(out, enis[1].MAC) || !strings.Contains(out, "state DOWN") {
		t.Errorf("ens6: %s, want MAC %s and down", out, enis[1].MAC)
	}
	capture, pod := vpc.CaptureENI(t, id), n.Pod(t)
	n.Run(t, "ip", "link", "set", "ens6", "netns", pod.Path())
	for _, args := range [][]string{
		{"link", "set", "ens6", "up"},
		{"addr", "add", enis[1].Addr.String() + "/20", "dev", "ens6"},
		{"route", "add", "default", "via", "10.0.0.1"},
	} {
		pod.Run(t, "ip", args...)
	}
	pod.Ping(t, vpctest.PeerAddr)
	inside := pod.Capture(t, "ens6")
	pod.Ping(t, vpctest.PeerAddr)
	for name, c := range map[string]*vpctest.Capture{"the ENI": capture, "the pod": inside} {
		if !slices.ContainsFunc(c.Packets(t), func(p vpctest.Packet) bool {
			return p.Protocol == 1 && p.Src.Addr() == enis[1].Addr && p.Dst.Addr() == vpctest.PeerAddr && strings.Contains(p.String(), "echo request")
		}) {
			t.Errorf("the capture of %s has no echo request: %v", name, c.Packets(t))
		}
	}
	// The source/destination check follows the attribute.
	other := netip.MustParseAddr("10.0.0.200")
	pod.Run(t, "ip", "addr", "add", other.String()+"/32", "dev", "ens6")
	send := func() {
		c := pod.ListenPacket(t, netip.AddrPortFrom(other, 0))
		if _, err := c.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(vpctest.PeerAddr, 9))); err != nil {
			t.Fatal(err)
		}
	}
	send()
	if d := vpc.Drops(t); d.Spoofed[id] != 1 {
		t.Errorf("drops %+v, want one packet with a foreign source of %s", d, id)
	}
	vpc.EC2(t, "ModifyNetworkInterfaceAttribute", "NetworkInterfaceId", id, "SourceDestCheck.Value", "false")
	send()
	if d := vpc.Drops(t); d.Spoofed[id] > 1 {
		t.Errorf("drops %+v, want no further packet while the check is off", d)
	}
	pod.Delete(t)
	pod.Delete(t)
	vpc.EC2(t, "DetachNetworkInterface", "AttachmentId", enis[1].Attachment.ID, "Force", "true")
	if len(n.ENIs()) != 1 {
		t.Errorf("ENIs %v, want only the primary one", n.ENIs())
	}
}

// TestConfig uses every field of Config.
func TestConfig(t *testing.T) {
	extra := netip.MustParseAddr("192.168.77.7")
	vpc := vpctest.NewWith(t, vpctest.Config{
		Cloud:     enitest.Config{Region: "us-east-1", Account: "210987654321"},
		Prefixes:  []netip.Prefix{netip.MustParsePrefix("10.5.0.0/16"), netip.MustParsePrefix("100.64.0.0/16")},
		Subnets:   []enitest.SubnetInput{{Zone: "us-east-1c", Prefix: netip.MustParsePrefix("100.64.1.0/24")}},
		Tags:      map[string]string{"Name": "mine"},
		MTU:       1500,
		PeerAddrs: []netip.Addr{extra},
		Dir:       "/run/netns",
	})
	n := vpc.NodeIn(t, enitest.InstanceInput{Type: "c5.large", Tags: map[string]string{"Name": "worker"}})
	if n.Name() != "worker" || n.Instance.Zone != "us-east-1c" || !netip.MustParsePrefix("100.64.1.0/24").Contains(n.Addr) || n.Addr6.IsValid() {
		t.Errorf("node %s in %s with %v and %v", n.Name(), n.Instance.Zone, n.Addr, n.Addr6)
	}
	n.Ping(t, extra)
	n.NoPing(t, vpctest.InternetAddr) // the address is not public
	if vpc.Drops(t).InternetGateway == 0 {
		t.Error("the internet gateway has dropped nothing")
	}
	if out := n.Run(t, "ip", "link", "show", "ens5"); !strings.Contains(out, "mtu 1500") {
		t.Errorf("%s, want mtu 1500", out)
	}
	if vpc.Resolver() != netip.MustParseAddr("10.5.0.2") || n.Path() != "/run/netns/worker" || vpc.Cloud.VPCs()[0].Tags["Name"] != "mine" {
		t.Errorf("resolver %v, namespace %s, VPC %+v", vpc.Resolver(), n.Path(), vpc.Cloud.VPCs()[0])
	}
	if want := "ip-" + strings.ReplaceAll(n.Addr.String(), ".", "-") + ".ec2.internal."; n.LookupAddr(t, "udp", vpc.Resolver(), n.Addr) != want {
		t.Errorf("the name of %v is not %s", n.Addr, want)
	}
	for _, want := range []string{"AWS_ENDPOINT_URL_EC2=" + vpctest.EC2URL, "AWS_REGION=us-east-1"} {
		if !slices.Contains(n.Env(), want) {
			t.Errorf("environment %q lacks %s", n.Env(), want)
		}
	}
}

// TestTwoVPCs has two VPCs with the same addresses at the same time.
func TestTwoVPCs(t *testing.T) {
	one, two := vpctest.New(t), vpctest.New(t)
	a, b := one.Node(t, "m5.large"), two.Node(t, "m5.large")
	if a.Addr != b.Addr || a.Path() == b.Path() {
		t.Errorf("%v at %s and %v at %s, want equal addresses and different namespaces", a.Addr, a.Path(), b.Addr, b.Path())
	}
	a.Ping(t, vpctest.PeerAddr)
	if err := one.Close(); err != nil {
		t.Error(err)
	}
	b.Ping(t, vpctest.PeerAddr)
	if _, err := os.Stat(a.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s after Close: %v, want that it does not exist", a.Path(), err)
	}
}

// TestProcess runs programs in a node.
func TestProcess(t *testing.T) {
	n := vpctest.New(t).Node(t, "m5.large")
	if out := n.Run(t, "sh", "-c", "ip -o link show ens5 | wc -l"); strings.TrimSpace(out) != "1" {
		t.Errorf("output %q, want 1", out)
	}
	p := n.Start(t, exec.Command("sh", "-c", "echo started; exec sleep 1000"))
	for p.Output() != "started\n" {
		time.Sleep(time.Millisecond)
	}
	if p.Err() != nil {
		t.Errorf("Err of a running program: %v", p.Err())
	}
	p.Stop(t)
	<-p.Done()
	if p.Err() == nil {
		t.Error("Err of a program that a signal ended is nil")
	}
	p.Stop(t)
}

// failures records how a test fails. Its context ends soon, so that methods that wait fail.
type failures struct {
	testing.TB
	ctx      context.Context
	texts    []string
	cleanups []func()
}

func (f *failures) Helper()                  {}
func (f *failures) Context() context.Context { return f.ctx }
func (f *failures) Cleanup(c func())         { f.cleanups = append(f.cleanups, c) }
func (f *failures) Errorf(format string, args ...any) {
	f.texts = append(f.texts, fmt.Sprintf(format, args...))
}

// ended is what Fatalf panics with.
type ended struct{}

func (f *failures) Fatalf(format string, args ...any) {
	f.Errorf(format, args...)
	panic(ended{})
}

// fails returns the texts with which f fails a test.
func fails(t *testing.T, f func(vpctest.TB)) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	rec := &failures{TB: t, ctx: ctx}
	func() {
		defer func() {
			if p := recover(); p != nil && p != (ended{}) {
				panic(p)
			}
		}()
		f(rec)
	}()
	for _, c := range slices.Backward(rec.cleanups) {
		c()
	}
	return strings.Join(rec.texts, "\n")
}

// TestFailures checks that each method fails the test by itself with a text that names the
// place and the reason.
func TestFailures(t *testing.T) {
	vpc := vpctest.NewWith(t, vpctest.Config{NoDNS: true})
	n := vpc.Node(t, "m5.large")
	p := n.Pod(t)
	free := netip.MustParseAddr("10.0.0.77")
	for name, tt := range map[string]struct {
		call func(vpctest.TB)
		want string
	}{
		"type":     {func(t vpctest.TB) { vpc.Node(t, "m5.gigantic") }, "m5.gigantic"},
		"name":     {func(t vpctest.TB) { vpc.NodeIn(t, enitest.InstanceInput{Tags: map[string]string{"Name": "node-1"}}) }, "node-1: a node has this name already"},
		"subnet":   {func(t vpctest.TB) { vpc.NodeIn(t, enitest.InstanceInput{Subnet: "subnet-1"}) }, "subnet-1"},
		"action":   {func(t vpctest.TB) { vpc.EC2(t, "DescribeDreams") }, "InvalidAction"},
		"pairs":    {func(t vpctest.TB) { vpc.EC2(t, "DescribeVpcs", "a") }, "want pairs"},
		"program":  {func(t vpctest.TB) { n.Run(t, "sh", "-c", "echo reason; exit 3") }, "in node-1: "},
		"output":   {func(t vpctest.TB) { n.Run(t, "sh", "-c", "echo reason; exit 3") }, "reason"},
		"start":    {func(t vpctest.TB) { n.Start(t, exec.Command("/does/not/exist")) }, "node-1"},
		"function": {func(t vpctest.TB) { n.Do(t, func() error { return errors.New("odd") }) }, "in node-1: odd"},
		"ping":     {func(t vpctest.TB) { p.NoPing(t, free); n.NoPing(t, vpctest.PeerAddr) }, "from node-1: 192.168.100.10 answers, want no answer"},
		"answer":   {func(t vpctest.TB) { n.NoAnswer(t, "tcp", netip.AddrPortFrom(vpctest.PeerAddr, 7)) }, "want none"},
		"capture":  {func(t vpctest.TB) { p.Capture(t, "eth0") }, "capture"},
		"ENI":      {func(t vpctest.TB) { vpc.CaptureENI(t, "eni-1") }, "eni-1 is not attached"},
		"names":    {func(t vpctest.TB) { vpc.SetName(t, "a.example", free) }, "NoDNS"},
		"balancer": {func(t vpctest.TB) {
			vpc.Balancer(t, vpctest.BalancerInput{Listeners: []vpctest.Listener{{Network: "sctp", Port: 1}}})
		}, `network "sctp" is neither tcp nor udp`},
		"no ping":   {func(t vpctest.TB) { n.Ping(t, free) }, "from node-1: ping 10.0.0.77"},
		"no server": {func(t vpctest.TB) { n.Ask(t, "tcp", netip.AddrPortFrom(n.Addr, 1)) }, "connection refused"},
		"listen":    {func(t vpctest.TB) { n.Listen(t, netip.AddrPortFrom(free, 1)) }, "listen in node-1"},
		"config": {func(t vpctest.TB) {
			vpctest.NewWith(t, vpctest.Config{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/16")}})
		}, "host bits"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := fails(t, tt.call); !strings.Contains(got, tt.want) {
				t.Errorf("the test fails with %q, want %q in it", got, tt.want)
			}
		})
	}
	if got := fails(t, func(t vpctest.TB) { n.Ping(t, vpctest.PeerAddr) }); got != "" {
		t.Errorf("a ping that is answered fails the test: %s", got)
	}
}

// get reads a key of the metadata service inside a node, with a session token.
func get(t *testing.T, n *vpctest.Node, path string) string {
	t.Helper()
	put, err := http.NewRequestWithContext(t.Context(), http.MethodPut, vpctest.MetadataURL+"/latest/api/token", nil)
	if err != nil {
		t.Fatal(err)
	}
	put.Header.Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "60")
	token := do(t, n, put)
	read, err := http.NewRequestWithContext(t.Context(), http.MethodGet, vpctest.MetadataURL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	read.Header.Set("X-Aws-Ec2-Metadata-Token", token)
	return do(t, n, read)
}

// query calls the EC2 API inside a node.
func query(t *testing.T, n *vpctest.Node, action string) string {
	t.Helper()
	body := strings.NewReader("Action=" + action + "&Version=2016-11-15")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, vpctest.EC2URL, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return do(t, n, req)
}

func do(t *testing.T, n *vpctest.Node, req *http.Request) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
			return n.Dial(t, network, netip.MustParseAddrPort(addr)), nil
		},
	}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v\n%s", req.URL, res.Status, err, b)
	}
	return string(b)
}

// element returns the text of the first XML element with the given start tag.
func element(answer, tag string) string {
	_, rest, _ := strings.Cut(answer, tag)
	text, _, _ := strings.Cut(rest, "<")
	return text
}
