// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// world is a VPC with one subnet, and functions to add nodes to it.
type world struct {
	t *testing.T
	*enitest.Cloud
	vpc    enitest.VPC
	subnet enitest.Subnet
}

func newWorld(t *testing.T, cfg enitest.Config) *world {
	t.Helper()
	w := &world{t: t, Cloud: enitest.New(cfg)}
	var err error
	w.vpc, err = w.AddVPC(enitest.VPCInput{Prefixes: []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("2001:db8:1::/56"),
	}})
	w.check(err)
	w.subnet = w.addSubnet("10.0.1.0/24", "2001:db8:1:1::/64", nil)
	return w
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) addSubnet(prefix, prefix6 string, tags map[string]string) enitest.Subnet {
	w.t.Helper()
	in := enitest.SubnetInput{VPC: w.vpc.ID, Prefix: netip.MustParsePrefix(prefix), Tags: tags}
	if prefix6 != "" {
		in.IPv6 = netip.MustParsePrefix(prefix6)
	}
	s, err := w.AddSubnet(in)
	w.check(err)
	return s
}

// run starts an instance in the first subnet.
func (w *world) run(kind string) enitest.Instance {
	w.t.Helper()
	inst, err := w.RunInstance(enitest.InstanceInput{Subnet: w.subnet.ID, Type: kind})
	w.check(err)
	return inst
}

// config returns the SDK configuration of an instance. The instance has its own role,
// and requests stay in memory. wrap can wrap the transport between the SDK and the
// cloud.
func (w *world) config(inst string, wrap func(http.RoundTripper) http.RoundTripper) aws.Config {
	rt := w.Transport(inst)
	if wrap != nil {
		rt = wrap(rt)
	}
	key := "ASIA" + strings.ToUpper(strings.TrimPrefix(inst, "i-"))
	return aws.Config{
		Region:      w.Region(),
		Credentials: credentials.NewStaticCredentialsProvider(key, "secret", ""),
		HTTPClient:  &http.Client{Transport: rt},
	}
}

// manager returns a Manager for an instance.
func (w *world) manager(inst enitest.Instance, cfg eni.Config) *eni.Manager {
	w.t.Helper()
	if cfg.Client == nil {
		cfg.Client = eni.NewClient(w.config(inst.ID, nil), fast)
	}
	m, err := eni.New(cfg)
	w.check(err)
	return m
}

// fast configures a client with a budget that no test exhausts, and constant jitter.
var fast = eni.ClientConfig{
	ReadRate: 1000, WriteRate: 1000, ReadBurst: 100, WriteBurst: 100, Random: func() float64 { return 0.5 },
}

// primary returns the primary ENI of an instance from the cloud.
func (w *world) primary(inst enitest.Instance) enitest.ENI {
	w.t.Helper()
	for _, e := range w.attached(inst.ID) {
		if e.Attachment.Card == 0 && e.Attachment.Device == 0 {
			return e
		}
	}
	w.t.Fatal("the instance has no primary ENI")
	return enitest.ENI{}
}

// attached returns the ENIs of an instance from the cloud, sorted by card and device
// index.
func (w *world) attached(inst string) []enitest.ENI {
	all := slices.DeleteFunc(w.ENIs(), func(e enitest.ENI) bool { return e.Attachment == nil || e.Attachment.Instance != inst })
	slices.SortFunc(all, func(a, b enitest.ENI) int {
		return a.Attachment.Card*100 + a.Attachment.Device - b.Attachment.Card*100 - b.Attachment.Device
	})
	return all
}

// blocks returns the slots in use on an ENI of the cloud.
func blocks(e enitest.ENI) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range e.Addrs {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return slices.Concat(out, e.Prefixes, e.IPv6Prefixes)
}

// inUse returns a Config.InUse that never fails.
func inUse(used func(id string, b netip.Prefix) bool) func(context.Context, string, netip.Prefix) (bool, error) {
	return func(_ context.Context, id string, b netip.Prefix) (bool, error) { return used(id, b), nil }
}
