// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// roundTrip dumps and loads the state, checks that it is unchanged, and returns
// the loaded cloud.
func roundTrip(t *testing.T, c *enitest.Cloud) *enitest.Cloud {
	t.Helper()
	var first, second bytes.Buffer
	if err := c.Dump(&first); err != nil {
		t.Fatal(err)
	}
	text := first.String()
	loaded := must(enitest.Load(enitest.Config{}, &first))(t)
	if err := loaded.Dump(&second); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(text, second.String()); diff != "" {
		t.Errorf("state after dump and load (-want +got):\n%s", diff)
	}
	checkInvariants(t, loaded)
	return loaded
}

func TestDump(t *testing.T) {
	s := newStage(t)
	loaded := roundTrip(t, s.Cloud)
	w := &world{Cloud: loaded}
	client, _ := w.clients(s.instance.ID)
	e := must(client.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: &s.subnet.ID}))(t)
	if _, ok := s.ENI(*e.NetworkInterface.NetworkInterfaceId); ok {
		t.Errorf("the loaded cloud gives out the ID %s again", *e.NetworkInterface.NetworkInterfaceId)
	}
	checkInvariants(t, loaded)
}

func TestLoadRefuses(t *testing.T) {
	var dump bytes.Buffer
	if err := newStage(t).Dump(&dump); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"not JSON":               {"{", ""},
		"version":                {`"Version": 1`, `"Version": 9`},
		"address of another ENI": {"10.0.1.5", "10.0.1.4"},
		"address of AWS":         {"10.0.1.5", "10.0.1.1"},
		"unknown type":           {"m5.xlarge", "z9.nano"},
		"unknown subnet":         {`"Subnet": "subnet-`, `"Subnet": "other-`},
		"unknown VPC":            {`"VPC": "vpc-`, `"VPC": "other-`},
		"subnet out of VPC":      {`"Prefix": "10.0.1.0/24"`, `"Prefix": "10.1.1.0/24"`},
		"unknown instance":       {`"Instance": "i-`, `"Instance": "j-`},
	} {
		text := strings.Replace(dump.String(), change[0], change[1], 1)
		if text == dump.String() {
			t.Errorf("%s: the dump does not contain %q", name, change[0])
		}
		if _, err := enitest.Load(enitest.Config{}, strings.NewReader(text)); err == nil {
			t.Errorf("%s: loaded without an error", name)
		}
	}
}
