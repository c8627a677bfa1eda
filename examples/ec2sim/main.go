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
	instances              int
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
	f.StringVar(&o.region, "region", "us-west-2", "the `name` of the region")
	f.StringVar(&o.vpc, "vpc", "10.0.0.0/16", "IPv4 `prefix` of the VPC; its subnet is the first /24")
	f.StringVar(&o.vpc6, "vpc6", "", "IPv6 `prefix` of the VPC; its subnet is the first /64")
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
	case o.instances < 0:
		return fmt.Errorf("-instances %d: want 0 or more", o.instances)
	case min(o.attachDelay, o.callDelay, o.describeLag, o.imdsLag) < 0:
		return errors.New("delays and lags: want 0 or more")
	}
	return nil
}

func (o options) config() enitest.Config {
	c := enitest.Config{
		Region: o.region,
		Delays: enitest.Delays{Attach: o.attachDelay, Detach: o.attachDelay, Call: o.callDelay},
		Lag:    enitest.Lag{Describe: o.describeLag, Metadata: o.imdsLag},
	}
	if o.throttle {
		c.Throttle = enitest.AWSThrottle()
	}
	return c
}

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
	s, err := summarize(ctx, cloud, srv)
	if err != nil {
		return err
	}
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

// build adds a VPC with one subnet and runs the instances.
func build(o options) (*enitest.Cloud, error) {
	cloud := enitest.New(o.config())
	prefix, err := netip.ParsePrefix(o.vpc)
	if err != nil {
		return nil, err
	}
	vpc := enitest.VPCInput{Prefixes: []netip.Prefix{prefix}}
	subnet := enitest.SubnetInput{Prefix: netip.PrefixFrom(prefix.Addr(), max(prefix.Bits(), 24)), MapPublic: true}
	if o.vpc6 != "" {
		p, err := netip.ParsePrefix(o.vpc6)
		if err != nil {
			return nil, err
		}
		vpc.Prefixes = append(vpc.Prefixes, p)
		subnet.IPv6 = netip.PrefixFrom(p.Addr(), 64)
	}
	v, err := cloud.AddVPC(vpc)
	if err != nil {
		return nil, err
	}
	subnet.VPC = v.ID
	s, err := cloud.AddSubnet(subnet)
	if err != nil {
		return nil, err
	}
	for range o.instances {
		if _, err := cloud.RunInstance(enitest.InstanceInput{Subnet: s.ID, Type: o.instanceType}); err != nil {
			return nil, err
		}
	}
	return cloud, nil
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
