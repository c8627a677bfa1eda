// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"net/netip"
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type decoded struct {
	query
	Text   string       `ec2:"Text"`
	Number int          `ec2:"Number"`
	Maybe  *bool        `ec2:"Maybe"`
	Addr   netip.Addr   `ec2:"Addr"`
	Words  []string     `ec2:"Word"`
	Inner  *decodedPart `ec2:"Inner"`
}

type decodedPart struct {
	Value string `ec2:"Value"`
}

func TestDecode(t *testing.T) {
	yes := true
	for _, tt := range []struct {
		form string
		want decoded
		err  string
	}{
		{"Action=X&Version=2016-11-15", decoded{}, ""},
		{"Text=a&Number=7&Maybe=true&Inner.Value=v", decoded{Text: "a", Number: 7, Maybe: &yes, Inner: &decodedPart{"v"}}, ""},
		{"Addr=10.0.0.1", decoded{Addr: netip.MustParseAddr("10.0.0.1")}, ""},
		{"Word.2=b&Word.10=c&Word.1=a", decoded{Words: []string{"a", "b", "c"}}, ""},
		{"Filter.1.Name=n&Filter.1.Value.1=x&Filter.1.Value.2=y",
			decoded{query: query{Filters: []filterParam{{"n", []string{"x", "y"}}}}}, ""},
		{"Number=x", decoded{}, "InvalidParameterValue: Value (x) for parameter Number is invalid."},
		{"Addr=x", decoded{}, "InvalidParameterValue: Value (x) for parameter Addr is invalid."},
		{"Number=99999999999", decoded{}, "InvalidParameterValue: Value (99999999999) for parameter Number is invalid."},
		{"Colour=red", decoded{}, "UnknownParameter: The parameter Colour is not recognized"},
		{"Filter.1.Colour=red", decoded{}, "UnknownParameter: The parameter Filter.1.Colour is not recognized"},
	} {
		form, err := url.ParseQuery(tt.form)
		if err != nil {
			t.Fatal(err)
		}
		var got decoded
		err = decode(form, &got)
		if text := errText(err); text != tt.err {
			t.Errorf("%s: got error %q, want %q", tt.form, text, tt.err)
			continue
		}
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(decoded{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); err == nil && diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.form, diff)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// fuzzCloud is a cloud with one instance; its IDs are the same each time.
func fuzzCloud(tb testing.TB) (c *Cloud, subnet, instance, eni string) {
	tb.Helper()
	c = New(Config{})
	v, err := c.AddVPC(VPCInput{})
	if err != nil {
		tb.Fatal(err)
	}
	s, err := c.AddSubnet(SubnetInput{VPC: v.ID, Prefix: netip.MustParsePrefix("10.0.0.0/27")})
	if err != nil {
		tb.Fatal(err)
	}
	i, err := c.RunInstance(InstanceInput{Subnet: s.ID})
	if err != nil {
		tb.Fatal(err)
	}
	return c, s.ID, i.ID, c.ENIs()[0].ID
}

// FuzzActions passes arbitrary parameters to every action. No action may panic,
// and the count of free addresses must stay right.
func FuzzActions(f *testing.F) {
	table := actions()
	_, subnet, instance, eni := fuzzCloud(f)
	for name := range table {
		f.Add(name, "NetworkInterfaceId="+eni+"&Filter.1.Name=status&Filter.1.Value.1=b&DryRun=true&MaxResults=5")
		f.Add(name, "NetworkInterfaceId.1="+eni+"&InstanceId.1="+instance+"&SubnetId.1="+subnet)
	}
	f.Add("CreateNetworkInterface", "SubnetId="+subnet+"&Ipv4PrefixCount=1&PrivateIpAddress=10.0.0.9&TagSpecification.1.ResourceType=network-interface")
	f.Add("AssignPrivateIpAddresses", "NetworkInterfaceId="+eni+"&PrivateIpAddress.1=10.0.0.7&PrivateIpAddress.2=10.0.0.7")
	f.Add("AssignPrivateIpAddresses", "NetworkInterfaceId="+eni+"&Ipv4Prefix.1=10.0.0.16/28")
	f.Add("AssignPrivateIpAddresses", "NetworkInterfaceId="+eni+"&SecondaryPrivateIpAddressCount=2147483647")
	f.Add("CreateNetworkInterface", "SubnetId="+subnet+"&Ipv6AddressCount=2147483647")
	f.Add("UnassignPrivateIpAddresses", "NetworkInterfaceId="+eni+"&PrivateIpAddress.1=10.0.0.4")
	f.Add("RunInstances", "ImageId=a&InstanceType=m5.large&MinCount=1&MaxCount=3&NetworkInterface.1.SubnetId="+subnet+
		"&NetworkInterface.1.PrivateIpAddresses.1.Primary=true")
	f.Add("CreateSubnetCidrReservation", "SubnetId="+subnet+"&Cidr=10.0.0.16/28&ReservationType=prefix")
	f.Add("TerminateInstances", "InstanceId.1="+instance+"&InstanceId.2="+instance)
	f.Fuzz(func(t *testing.T, name, query string) {
		act, ok := table[name]
		form, err := url.ParseQuery(query)
		if !ok || err != nil {
			t.Skip("not a query of an action")
		}
		run, err := act.prepare(form)
		if err != nil {
			return
		}
		c, subnet, _, _ := fuzzCloud(t)
		tx := c.begin()
		_, _ = run(tx)
		tx.end()
		used := 5 // the addresses that AWS reserves
		for _, e := range c.ENIs() {
			for _, p := range e.owned() {
				used += 1 << (32 - p.Bits())
			}
		}
		if s, _ := c.Subnet(subnet); s.Free != 32-used {
			t.Errorf("%d addresses are free, want %d", s.Free, 32-used)
		}
	})
}
