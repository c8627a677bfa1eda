// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// options are the flags.
type options struct {
	listen, state          string
	instanceType           string
	instances, subnets     int
	control, metadata      string
	region, vpc, vpc6      string
	attachDelay, callDelay time.Duration
	describeLag, imdsLag   time.Duration
	throttle               bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.As(err, new(usageError)):
		fmt.Fprintf(os.Stderr, "ec2sim: %v\n(ec2sim -h lists the flags)\n", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "ec2sim:", err)
		os.Exit(1)
	}
}

// usageError is an error in the arguments.
type usageError struct{ error }

func parse(args []string, stdout io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("ec2sim", flag.ContinueOnError)
	f.SetOutput(io.Discard) // main prints the error
	f.Usage = func() {}
	f.StringVar(&o.listen, "listen", "127.0.0.1:0", "serve the EC2 API on this `address`; metadata takes other ports of the same host")
	f.StringVar(&o.state, "state", "", "load the state from this `file` if it exists, and save it there on exit")
	f.StringVar(&o.instanceType, "instance-type", "m5.large", "the `type` of the instances")
	f.IntVar(&o.instances, "instances", 1, "run this `number` of instances (not with a loaded state)")
	f.IntVar(&o.subnets, "subnets", 1, "add this `number` of subnets, in as many zones as the region has")
	f.StringVar(&o.control, "control", "", "serve the control endpoint on this `address`; empty means none")
	f.StringVar(&o.metadata, "metadata", "", "`address` of the metadata of the first instance, such as 127.0.0.1:8900; the others take the ports that follow")
	f.StringVar(&o.region, "region", "us-west-2", "the `name` of the region")
	f.StringVar(&o.vpc, "vpc", "10.0.0.0/16", "IPv4 `prefix` of the VPC; its subnets are the first /24s")
	f.StringVar(&o.vpc6, "vpc6", "", "IPv6 `prefix` of the VPC; its subnets are the first /64s")
	f.DurationVar(&o.attachDelay, "attach-delay", 0, "`duration` of attaching and of detaching an ENI")
	f.DurationVar(&o.callDelay, "call-delay", 0, "`duration` of each call")
	f.DurationVar(&o.describeLag, "describe-lag", 0, "`duration` by which Describe calls lag behind the state")
	f.DurationVar(&o.imdsLag, "metadata-lag", 0, "`duration` by which metadata lags behind the state")
	f.BoolVar(&o.throttle, "throttle", false, "limit the rate of calls to the limits that AWS documents")
	err := f.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		f.SetOutput(stdout)
		fmt.Fprint(stdout, "Usage: ec2sim [flags]\n\nEc2sim serves an EC2 API and an instance metadata service, for any client.\n\n")
		f.PrintDefaults()
		return o, err
	}
	if err == nil {
		err = o.check(f.Args())
	}
	if err != nil {
		return o, usageError{err}
	}
	return o, nil
}

func (o options) check(rest []string) error {
	vpc, err := netip.ParsePrefix(o.vpc)
	vpc6, err6 := netip.ParsePrefix(o.vpc6)
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %q", rest[0])
	case err != nil || !vpc.Addr().Is4():
		return fmt.Errorf("-vpc %q: want an IPv4 prefix such as 10.0.0.0/16", o.vpc)
	case o.vpc6 != "" && (err6 != nil || !vpc6.Addr().Is6()):
		return fmt.Errorf("-vpc6 %q: want an IPv6 prefix such as 2001:db8::/56", o.vpc6)
	case o.metadata != "" && !validPort(o.metadata):
		return fmt.Errorf("-metadata %q: want an address with a port such as 127.0.0.1:8900", o.metadata)
	case o.subnets < 1 || o.subnets > 1<<max(0, 24-vpc.Bits()) || o.vpc6 != "" && o.subnets > 1<<max(0, 64-vpc6.Bits()):
		return fmt.Errorf("-subnets %d: want 1 or more that fit into the VPC", o.subnets)
	case o.instances < 0:
		return fmt.Errorf("-instances %d: want 0 or more", o.instances)
	case min(o.attachDelay, o.callDelay, o.describeLag, o.imdsLag) < 0:
		return errors.New("delays and lags: want 0 or more")
	}
	return nil
}

func validPort(addr string) bool {
	p, err := netip.ParseAddrPort(addr)
	return err == nil && p.Port() > 0
}

func (o options) config() enitest.Config {
	c := enitest.Config{
		Region: o.region, AuditSize: auditSize,
		Delays: enitest.Delays{Attach: o.attachDelay, Detach: o.attachDelay, Call: o.callDelay},
		Lag:    enitest.Lag{Describe: o.describeLag, Metadata: o.imdsLag},
	}
	if o.throttle {
		c.Throttle = enitest.AWSThrottle()
	}
	return c
}

// auditSize is the number of calls that the control endpoint shows.
const auditSize = 1000

// run serves until ctx ends. If the arguments are wrong it returns a usageError.
func run(ctx context.Context, args []string, stdout io.Writer) (err error) {
	o, err := parse(args, stdout)
	if err != nil {
		return err
	}
	cloud, err := open(o)
	if err != nil {
		return err
	}
	srv, err := cloud.Listen(ctx, o.listen)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, srv.Close()) }()
	sim := &simulator{cloud: cloud, srv: srv, metadata: o.metadata}
	if o.control != "" {
		stop, err := sim.listenControl(ctx, o.control)
		if err != nil {
			return err
		}
		defer stop()
	}
	s, err := sim.summarize(ctx)
	if err != nil {
		return err
	}
	cloud.OnChange(func(e enitest.Event) { sim.openMetadata(ctx, e) })
	if err := json.NewEncoder(stdout).Encode(s); err != nil {
		return err
	}
	<-ctx.Done()
	if o.state == "" {
		return nil
	}
	return save(cloud, o.state)
}

// open loads the state from the file, or builds a new one if there is no file.
func open(o options) (*enitest.Cloud, error) {
	if o.state != "" {
		f, err := os.Open(o.state)
		if err == nil {
			defer func() { _ = f.Close() }()
			return enitest.Load(o.config(), f)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return build(o)
}

// build adds a VPC with its subnets and runs the instances, in turn in each subnet.
func build(o options) (*enitest.Cloud, error) {
	cloud := enitest.New(o.config())
	prefix, err := netip.ParsePrefix(o.vpc)
	if err != nil {
		return nil, err
	}
	vpc := enitest.VPCInput{Prefixes: []netip.Prefix{prefix}}
	var v6 netip.Prefix
	if o.vpc6 != "" {
		if v6, err = netip.ParsePrefix(o.vpc6); err != nil {
			return nil, err
		}
		vpc.Prefixes = append(vpc.Prefixes, v6)
	}
	v, err := cloud.AddVPC(vpc)
	if err != nil {
		return nil, err
	}
	zones := cloud.Zones()
	var subnets []string
	for n := range o.subnets {
		in := enitest.SubnetInput{
			VPC: v.ID, Zone: zones[n%len(zones)], MapPublic: true, Prefix: nth(prefix, max(prefix.Bits(), 24), n),
		}
		if v6.IsValid() {
			in.IPv6 = nth(v6, 64, n)
		}
		s, err := cloud.AddSubnet(in)
		if err != nil {
			return nil, err
		}
		subnets = append(subnets, s.ID)
	}
	in := enitest.InstanceInput{Type: o.instanceType}
	if v6.IsValid() {
		in.IPv6Addrs = 1
	}
	for n := range o.instances {
		in.Subnet = subnets[n%len(subnets)]
		if _, err := cloud.RunInstance(in); err != nil {
			return nil, err
		}
	}
	return cloud, nil
}

// nth returns the n-th part of p with the given length, of 64 bits at most.
func nth(p netip.Prefix, bits, n int) netip.Prefix {
	b := p.Addr().AsSlice()
	for i := bits/8 - 1; i >= 0 && n > 0; i-- {
		n += int(b[i])
		b[i], n = byte(n), n>>8
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, bits)
}

// save writes the state to a temporary file and renames it, so that the file is
// never incomplete.
func save(cloud *enitest.Cloud, file string) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".ec2sim-*")
	if err != nil {
		return err
	}
	err = errors.Join(cloud.Dump(f), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
