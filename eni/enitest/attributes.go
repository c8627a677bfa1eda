// SPDX-License-Identifier: Apache-2.0

package enitest

import "slices"

type accountAttributesIn struct {
	Names []string `ec2:"AttributeName"`
}

type wireAttributeValue struct {
	Value string `xml:"attributeValue"`
}

type wireAccountAttribute struct {
	Name   string                   `xml:"attributeName"`
	Values list[wireAttributeValue] `xml:"attributeValueSet"`
}

type accountAttributesOut struct {
	Attributes list[wireAccountAttribute] `xml:"accountAttributeSet"`
}

// accountAttributes are the attributes of a new account without a default VPC.
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeAccountAttributes.html
var accountAttributes = []struct{ name, value string }{
	{"default-vpc", "none"}, {"max-elastic-ips", "5"}, {"max-instances", "20"}, {"supported-platforms", "VPC"},
	{"vpc-max-elastic-ips", "5"}, {"vpc-max-security-groups-per-interface", "5"},
}

func (t *tx) describeAccountAttributes(in accountAttributesIn) (accountAttributesOut, error) {
	var out accountAttributesOut
	for _, a := range accountAttributes {
		if len(in.Names) == 0 || slices.Contains(in.Names, a.name) {
			out.Attributes.Items = append(out.Attributes.Items,
				wireAccountAttribute{a.name, list[wireAttributeValue]{[]wireAttributeValue{{a.value}}}})
		}
	}
	for _, name := range in.Names {
		if !slices.ContainsFunc(out.Attributes.Items, func(w wireAccountAttribute) bool { return w.Name == name }) {
			return accountAttributesOut{}, invalidValue("Value (%s) for parameter attributeName is invalid. Unknown attribute.", name)
		}
	}
	return out, nil
}

// only returns EC2's error unless a call changes exactly one attribute.
func only(changed ...bool) error {
	n := 0
	for _, c := range changed {
		if c {
			n++
		}
	}
	if n != 1 {
		return errorf("InvalidParameterCombination", "Exactly one attribute must be specified, not %d", n)
	}
	return nil
}

type modifySubnetIn struct {
	ID           string     `ec2:"SubnetId"`
	MapPublic    *boolValue `ec2:"MapPublicIpOnLaunch"`
	AssignIPv6   *boolValue `ec2:"AssignIpv6AddressOnCreation"`
	DNS64        *boolValue `ec2:"EnableDns64"`
	HostnameType *string    `ec2:"PrivateDnsHostnameTypeOnLaunch"`
	RecordA      *boolValue `ec2:"EnableResourceNameDnsARecordOnLaunch"`
	RecordAAAA   *boolValue `ec2:"EnableResourceNameDnsAAAARecordOnLaunch"`
}

// modifySubnetAttribute changes one attribute of a subnet. The attributes of subnets on
// an Outpost are unknown parameters.
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ModifySubnetAttribute.html
func (t *tx) modifySubnetAttribute(in modifySubnetIn) (wireReturn, error) {
	if in.ID == "" {
		return wireReturn{}, missing("subnetId")
	}
	s := t.c.state.subnets.found(t, in.ID)
	if s == nil {
		return wireReturn{}, kindSubnet.unknown(in.ID)
	}
	if err := only(in.MapPublic != nil, in.AssignIPv6 != nil, in.DNS64 != nil, in.HostnameType != nil,
		in.RecordA != nil, in.RecordAAAA != nil); err != nil {
		return wireReturn{}, err
	}
	s = s.clone()
	switch {
	case in.AssignIPv6 != nil && in.AssignIPv6.Value && !s.IPv6.IsValid():
		return wireReturn{}, invalidValue("The subnet %s does not have an associated IPv6 CIDR block.", s.ID)
	case in.HostnameType != nil && *in.HostnameType != "ip-name" && *in.HostnameType != "resource-name":
		return wireReturn{}, invalidValue("Value (%s) for parameter privateDnsHostnameTypeOnLaunch is invalid. "+
			"Expected ip-name or resource-name.", *in.HostnameType)
	case in.HostnameType != nil:
		s.HostnameType = *in.HostnameType
	}
	for from, to := range map[*boolValue]*bool{
		in.MapPublic: &s.MapPublic, in.AssignIPv6: &s.AssignIPv6, in.DNS64: &s.DNS64, in.RecordA: &s.RecordA, in.RecordAAAA: &s.RecordAAAA,
	} {
		if from != nil {
			*to = from.Value
		}
	}
	t.putSubnet(s)
	return wireReturn{true}, nil
}

type modifyVPCIn struct {
	ID        string     `ec2:"VpcId"`
	Support   *boolValue `ec2:"EnableDnsSupport"`
	Hostnames *boolValue `ec2:"EnableDnsHostnames"`
	Metrics   *boolValue `ec2:"EnableNetworkAddressUsageMetrics"`
}

// modifyVpcAttribute changes one attribute of a VPC.
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ModifyVpcAttribute.html
func (t *tx) modifyVpcAttribute(in modifyVPCIn) (wireReturn, error) {
	if in.ID == "" {
		return wireReturn{}, missing("vpcId")
	}
	v := t.c.state.vpcs.found(t, in.ID)
	if v == nil {
		return wireReturn{}, kindVPC.unknown(in.ID)
	}
	if err := only(in.Support != nil, in.Hostnames != nil, in.Metrics != nil); err != nil {
		return wireReturn{}, err
	}
	v = v.clone()
	switch {
	case in.Support != nil:
		v.NoDNSSupport = !in.Support.Value
	case in.Hostnames != nil:
		v.NoDNSHostnames = !in.Hostnames.Value
	default:
		v.UsageMetrics = in.Metrics.Value
	}
	t.c.state.vpcs.set(t, v.ID, v)
	return wireReturn{true}, nil
}

type describeVPCAttributeIn struct {
	ID        string `ec2:"VpcId"`
	Attribute string `ec2:"Attribute"`
}

type describeVPCAttributeOut struct {
	ID        string           `xml:"vpcId"`
	Support   *wireValue[bool] `xml:"enableDnsSupport"`
	Hostnames *wireValue[bool] `xml:"enableDnsHostnames"`
	Metrics   *wireValue[bool] `xml:"enableNetworkAddressUsageMetrics"`
}

func (t *tx) describeVpcAttribute(in describeVPCAttributeIn) (describeVPCAttributeOut, error) {
	none := describeVPCAttributeOut{}
	if in.ID == "" {
		return none, missing("vpcId")
	}
	v := t.c.state.vpcs.at(in.ID, t.view)
	if v == nil {
		return none, kindVPC.unknown(in.ID)
	}
	out := describeVPCAttributeOut{ID: v.ID}
	switch in.Attribute {
	case "enableDnsSupport":
		out.Support = &wireValue[bool]{!v.NoDNSSupport}
	case "enableDnsHostnames":
		out.Hostnames = &wireValue[bool]{!v.NoDNSHostnames}
	case "enableNetworkAddressUsageMetrics":
		out.Metrics = &wireValue[bool]{v.UsageMetrics}
	case "":
		return none, missing("attribute")
	default:
		return none, invalidValue("Value (%s) for parameter attribute is invalid. Unknown attribute.", in.Attribute)
	}
	return out, nil
}
