// SPDX-License-Identifier: Apache-2.0

package vpctest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/fabric/ec2fabric"
)

// Config configures a VPC. The zero value is a VPC in us-west-2 with the blocks
// 10.0.0.0/16 and 2001:db8::/56 and two subnets in different zones: 10.0.0.0/20 with
// 2001:db8::/64, and 10.0.16.0/20 with 2001:db8:0:1::/64. Instances in them have public
// addresses.
type Config struct {
	// Cloud configures the EC2 API: region, delays, lag, throttling.
	Cloud enitest.Config
	// Prefixes are the blocks of the VPC, of either family. None means those of the zero
	// Config, and then Subnets may be empty.
	Prefixes []netip.Prefix
	// Subnets are the subnets. The field VPC is ignored.
	Subnets []enitest.SubnetInput
	// Tags are the tags of the VPC.
	Tags map[string]string
	// MTU is the MTU of every link, in bytes. 0 means 9001, as in a VPC.
	MTU int
	// NoDNS leaves out the resolver, as the attribute enableDnsSupport of a VPC does. Nodes
	// then have no route to it.
	NoDNS bool
	// PeerAddrs are further addresses of the host in the peered network.
	PeerAddrs []netip.Addr
	// Dir is the directory in which the namespaces are mounted. "" means a new one below
	// /run. With /run/netns `ip netns` finds the namespaces, and there can be one VPC at a
	// time.
	Dir string
}

// withDefaults returns c with values in place of those that are not set.
func (c Config) withDefaults() Config {
	if len(c.Prefixes) > 0 {
		return c
	}
	c.Prefixes = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("2001:db8::/56")}
	if len(c.Subnets) == 0 {
		region := cmp.Or(c.Cloud.Region, defaultRegion)
		c.Subnets = []enitest.SubnetInput{
			{Zone: region + "a", Prefix: netip.MustParsePrefix("10.0.0.0/20"), IPv6: netip.MustParsePrefix("2001:db8::/64"), MapPublic: true},
			{Zone: region + "b", Prefix: netip.MustParsePrefix("10.0.16.0/20"), IPv6: netip.MustParsePrefix("2001:db8:0:1::/64"), MapPublic: true},
		}
	}
	return c
}

const defaultRegion = "us-west-2"

// The addresses of the hosts outside of the VPC, and the port of their echo servers. See
// [Host.Ask] for what these answer.
var (
	InternetAddr  = fabric.InternetAddr
	InternetAddr6 = fabric.InternetAddr6
	PeerAddr      = fabric.PeerAddr
	PeerAddr6     = fabric.PeerAddr6
)

// EchoPort is the port of the echo servers, for TCP and UDP.
const EchoPort = fabric.EchoPort

// The services inside of the VPC.
const (
	// EC2URL is the endpoint of the EC2 API for the nodes.
	EC2URL = "http://198.51.100.1"
	// MetadataURL is the endpoint of the metadata service for the nodes.
	MetadataURL = "http://169.254.169.254"
)

// VPC is a VPC with its data plane. It is safe for concurrent use.
type VPC struct {
	// Cloud is the control plane. Changes of it reach the data plane before they return.
	Cloud *enitest.Cloud
	// ID is the ID of the VPC, and Subnets has its subnets in the order of the Config.
	ID      string
	Subnets []enitest.Subnet

	cfg      Config
	fabric   *fabric.Fabric
	follower *ec2fabric.Follower
	resolver *fabric.Resolver
	ownDir   bool

	mu        sync.Mutex
	nodes     []*Node
	balancers int
}

// New returns the VPC of the zero [Config]. It is closed when the test ends.
func New(t TB) *VPC {
	t.Helper()
	return NewWith(t, Config{})
}

// NewWith returns a VPC that is closed when the test ends.
func NewWith(t TB, cfg Config) *VPC {
	t.Helper()
	v, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Errorf("%v", err)
		}
	})
	return v
}

// Start builds a VPC for a program, which must run in namespaces of its own, see [Main].
// The caller must close the VPC.
func Start(ctx context.Context, cfg Config) (*VPC, error) {
	if err := isolated(); err != nil {
		return nil, fmt.Errorf("vpctest: %w", err)
	}
	v := &VPC{cfg: cfg.withDefaults()}
	for _, p := range v.cfg.Prefixes {
		if p != p.Masked() {
			return nil, fmt.Errorf("vpctest: block %v of the VPC has host bits set, want %v", p, p.Masked())
		}
	}
	if err := v.build(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("vpctest: %w", err), v.Close())
	}
	return v, nil
}

func (v *VPC) build(ctx context.Context) (err error) {
	if v.cfg.Dir == "" {
		if v.cfg.Dir, err = os.MkdirTemp("/run", "vpctest-"); err != nil {
			return err
		}
		v.ownDir = true
	}
	v.fabric, err = fabric.New(ctx, fabric.Config{VPC: v.cfg.Prefixes, MTU: v.cfg.MTU, PeerAddrs: v.cfg.PeerAddrs, Dir: v.cfg.Dir})
	if err != nil {
		return err
	}
	v.Cloud = enitest.New(v.cfg.Cloud)
	if v.follower, err = ec2fabric.Follow(v.fabric, v.Cloud); err != nil {
		return err
	}
	if !v.cfg.NoDNS {
		if v.resolver, err = v.fabric.ServeDNS(v.Cloud.Region()); err != nil {
			return err
		}
	}
	vpc, err := v.Cloud.AddVPC(enitest.VPCInput{Prefixes: v.cfg.Prefixes, Tags: v.cfg.Tags})
	if err != nil {
		return err
	}
	v.ID = vpc.ID
	for _, in := range v.cfg.Subnets {
		in.VPC = vpc.ID
		s, err := v.Cloud.AddSubnet(in)
		if err != nil {
			return err
		}
		v.Subnets = append(v.Subnets, s)
	}
	return v.follower.Err()
}

// Close ends the processes that [Host.Start] started and removes the VPC. A second call does
// nothing.
func (v *VPC) Close() error {
	v.mu.Lock()
	nodes := v.nodes
	v.nodes = nil
	v.mu.Unlock()
	err := v.Err()
	for _, n := range nodes {
		err = errors.Join(err, n.close())
	}
	if v.fabric != nil {
		err = errors.Join(err, v.fabric.Close())
	}
	if v.ownDir {
		err = errors.Join(err, os.RemoveAll(v.cfg.Dir))
	}
	if err != nil {
		return fmt.Errorf("vpctest: close: %w", err)
	}
	return nil
}

// Err returns the first change of the control plane that the data plane could not follow.
// [VPC.Close] reports it too.
func (v *VPC) Err() error {
	if v.follower == nil {
		return nil
	}
	return v.follower.Err()
}

// Internet returns the host in the internet. Its link is eth0.
func (v *VPC) Internet() *Host { return &Host{ns: v.fabric.Internet()} }

// Peer returns the host in the peered network. Its link is eth0.
func (v *VPC) Peer() *Host { return &Host{ns: v.fabric.Peer()} }

// Router returns the namespace in which the packets of the VPC are forwarded.
func (v *VPC) Router() *Host { return &Host{ns: v.fabric.Router()} }

// EC2 calls the EC2 API from outside of the VPC and returns the answer. The parameters are
// pairs of names and values of the Query API, such as "GroupId", "sg-…". A refused call ends
// the test.
func (v *VPC) EC2(t TB, action string, parameters ...string) string {
	t.Helper()
	answer, err := v.call(t.Context(), action, parameters)
	fatal(t, err, "%s", action)
	return answer
}

func (v *VPC) call(ctx context.Context, action string, parameters []string) (string, error) {
	if len(parameters)%2 != 0 {
		return "", fmt.Errorf("%d names and values, want pairs", len(parameters))
	}
	form := url.Values{"Action": {action}, "Version": {"2016-11-15"}}
	for p := range slices.Chunk(parameters, 2) {
		form.Set(p[0], p[1])
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, EC2URL, strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := (&http.Client{Transport: v.Cloud.Transport("")}).Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, b)
	}
	return string(b), err
}

// DefaultGroup returns the ID of the default security group of the VPC, which ENIs have
// unless their creation names other groups.
func (v *VPC) DefaultGroup() string {
	for _, g := range v.Cloud.SecurityGroups() {
		if g.VPC == v.ID && g.Name == "default" {
			return g.ID
		}
	}
	return ""
}

// Drops counts the packets that the VPC has dropped.
type Drops struct {
	// Spoofed counts, by ENI, the packets with a source that the sending ENI does not own.
	Spoofed map[string]uint64
	// Foreign counts, by ENI, the packets to a destination that the receiving ENI does not
	// own, which a VPC route table led to it.
	Foreign map[string]uint64
	// InternetGateway counts the packets from or to a private IPv4 address that is not public.
	InternetGateway uint64
	// SecurityGroups and NetworkACLs count the packets that no rule accepted.
	SecurityGroups, NetworkACLs uint64
}

// Drops returns the numbers of packets that the VPC has dropped so far. ENIs that are no
// longer attached do not count.
func (v *VPC) Drops(t TB) Drops {
	t.Helper()
	d, err := v.CountDrops()
	fatal(t, err, "drops")
	return d
}

// CountDrops is [VPC.Drops] for programs.
func (v *VPC) CountDrops() (Drops, error) {
	d, err := v.fabric.Drops()
	return Drops(d), err
}
