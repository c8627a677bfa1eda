// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// newTemplate creates the launch template "node" with one ENI with two addresses.
func (s *stage) newTemplate(ctx context.Context) (*types.LaunchTemplate, error) {
	out, err := s.ec2.CreateLaunchTemplate(ctx, &ec2.CreateLaunchTemplateInput{
		LaunchTemplateName: aws.String("node"), VersionDescription: aws.String("first"),
		LaunchTemplateData: &types.RequestLaunchTemplateData{
			ImageId: aws.String("ami-template"), InstanceType: "c5.large", KeyName: aws.String("key"), UserData: aws.String("aGVsbG8="),
			MetadataOptions: &types.LaunchTemplateInstanceMetadataOptionsRequest{HttpTokens: types.LaunchTemplateHttpTokensStateOptional},
			NetworkInterfaces: []types.LaunchTemplateInstanceNetworkInterfaceSpecificationRequest{{
				DeviceIndex: aws.Int32(0), SubnetId: &s.subnet.ID, Groups: []string{s.SecurityGroups()[0].ID},
				SecondaryPrivateIpAddressCount: aws.Int32(1),
			}},
			TagSpecifications: []types.LaunchTemplateTagSpecificationRequest{{
				ResourceType: types.ResourceTypeInstance, Tags: []types.Tag{{Key: aws.String("from"), Value: aws.String("template")}},
			}},
		},
	})
	if err != nil {
		return nil, err
	}
	return out.LaunchTemplate, nil
}

// newTemplateVersion creates the launch template "node" with two versions.
func (s *stage) newTemplateVersion(ctx context.Context) error {
	l, err := s.newTemplate(ctx)
	if err != nil {
		return err
	}
	_, err = s.ec2.CreateLaunchTemplateVersion(ctx, &ec2.CreateLaunchTemplateVersionInput{
		LaunchTemplateId: l.LaunchTemplateId, LaunchTemplateData: &types.RequestLaunchTemplateData{InstanceType: "m5.large"},
	})
	return err
}

// serverCalls holds one valid call of each action on instances, launch templates and
// attributes, in the form of calls.
var serverCalls = map[string]func(context.Context, *stage) (got any, want any, err error){
	"StopInstances": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{s.instance.ID}})
		c := out.StoppingInstances[0]
		return []any{c.CurrentState.Name, *c.CurrentState.Code, c.PreviousState.Name},
			[]any{types.InstanceStateNameStopped, int32(80), types.InstanceStateNameRunning}, err
	},
	"StartInstances": func(ctx context.Context, s *stage) (any, any, error) {
		if _, err := s.ec2.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{s.instance.ID}}); err != nil {
			return nil, nil, err
		}
		out, err := s.ec2.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: []string{s.instance.ID}})
		c := out.StartingInstances[0]
		return []any{c.CurrentState.Name, c.PreviousState.Name}, []any{types.InstanceStateNameRunning, types.InstanceStateNameStopped}, err
	},
	"RebootInstances": func(ctx context.Context, s *stage) (any, any, error) {
		_, err := s.ec2.RebootInstances(ctx, &ec2.RebootInstancesInput{InstanceIds: []string{s.instance.ID}})
		return nil, nil, err
	},
	"DescribeAccountAttributes": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.DescribeAccountAttributes(ctx, &ec2.DescribeAccountAttributesInput{
			AttributeNames: []types.AccountAttributeName{"supported-platforms", "default-vpc"},
		})
		got := map[string]string{}
		for _, a := range out.AccountAttributes {
			got[*a.AttributeName] = *a.AttributeValues[0].AttributeValue
		}
		return got, map[string]string{"supported-platforms": "VPC", "default-vpc": "none"}, err
	},
	"ModifySubnetAttribute": func(ctx context.Context, s *stage) (any, any, error) {
		yes := &types.AttributeBooleanValue{Value: aws.Bool(true)}
		for _, in := range []ec2.ModifySubnetAttributeInput{
			{MapPublicIpOnLaunch: &types.AttributeBooleanValue{Value: aws.Bool(false)}},
			{AssignIpv6AddressOnCreation: yes}, {EnableDns64: yes}, {EnableResourceNameDnsARecordOnLaunch: yes},
			{EnableResourceNameDnsAAAARecordOnLaunch: yes}, {PrivateDnsHostnameTypeOnLaunch: types.HostnameTypeResourceName},
		} {
			in.SubnetId = &s.subnet.ID
			if _, err := s.ec2.ModifySubnetAttribute(ctx, &in); err != nil {
				return nil, nil, err
			}
		}
		out, err := s.ec2.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{Filters: []types.Filter{
			{Name: aws.String("enable-dns64"), Values: []string{"true"}},
			{Name: aws.String("private-dns-name-options-on-launch.hostname-type"), Values: []string{"resource-name"}},
		}})
		n := out.Subnets[0]
		made, err2 := s.ec2.CreateNetworkInterface(ctx, &ec2.CreateNetworkInterfaceInput{SubnetId: &s.subnet.ID})
		if err2 != nil {
			return nil, nil, err2
		}
		return []any{*n.MapPublicIpOnLaunch, *n.AssignIpv6AddressOnCreation, *n.EnableDns64, *n.PrivateDnsNameOptionsOnLaunch.EnableResourceNameDnsARecord,
			*n.PrivateDnsNameOptionsOnLaunch.EnableResourceNameDnsAAAARecord, len(made.NetworkInterface.Ipv6Addresses)}, []any{false, true, true, true, true, 1}, err
	},
	"ModifyVpcAttribute": func(ctx context.Context, s *stage) (any, any, error) {
		_, err := s.ec2.ModifyVpcAttribute(ctx, &ec2.ModifyVpcAttributeInput{
			VpcId: &s.vpc.ID, EnableDnsHostnames: &types.AttributeBooleanValue{Value: aws.Bool(false)},
		})
		if err != nil {
			return nil, nil, err
		}
		out, err := s.ec2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{s.instance.ID}})
		i := out.Reservations[0].Instances[0]
		return []string{aws.ToString(i.PublicDnsName), *i.PublicIpAddress}, []string{"", *i.PublicIpAddress}, err
	},
	"DescribeVpcAttribute": func(ctx context.Context, s *stage) (any, any, error) {
		id, err := s.newVPC(ctx, "10.9.0.0/16")
		if err != nil {
			return nil, nil, err
		}
		var got []bool
		for _, name := range []types.VpcAttributeName{"enableDnsSupport", "enableDnsHostnames", "enableNetworkAddressUsageMetrics"} {
			out, err := s.ec2.DescribeVpcAttribute(ctx, &ec2.DescribeVpcAttributeInput{VpcId: id, Attribute: name})
			if err != nil {
				return nil, nil, err
			}
			for _, v := range []*types.AttributeBooleanValue{out.EnableDnsSupport, out.EnableDnsHostnames, out.EnableNetworkAddressUsageMetrics} {
				if v != nil {
					got = append(got, *v.Value)
				}
			}
		}
		return got, []bool{true, false, false}, nil
	},
	"GetManagedResourceVisibility": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.GetManagedResourceVisibility(ctx, &ec2.GetManagedResourceVisibilityInput{})
		return out.Visibility.DefaultVisibility, types.ManagedResourceDefaultVisibilityVisible, err
	},
	"ModifyManagedResourceVisibility": func(ctx context.Context, s *stage) (any, any, error) {
		out, err := s.ec2.ModifyManagedResourceVisibility(ctx, &ec2.ModifyManagedResourceVisibilityInput{DefaultVisibility: "hidden"})
		return out.Visibility.DefaultVisibility, types.ManagedResourceDefaultVisibilityHidden, err
	},
	"CreateLaunchTemplate": func(ctx context.Context, s *stage) (any, any, error) {
		l, err := s.newTemplate(ctx)
		return []any{*l.LaunchTemplateName, *l.DefaultVersionNumber, *l.LatestVersionNumber}, []any{"node", int64(1), int64(1)}, err
	},
	"CreateLaunchTemplateVersion": func(ctx context.Context, s *stage) (any, any, error) {
		l, err := s.newTemplate(ctx)
		if err != nil {
			return nil, nil, err
		}
		out, err := s.ec2.CreateLaunchTemplateVersion(ctx, &ec2.CreateLaunchTemplateVersionInput{
			LaunchTemplateId: l.LaunchTemplateId, SourceVersion: aws.String("1"),
			LaunchTemplateData: &types.RequestLaunchTemplateData{InstanceType: "m5.large"},
		})
		v := out.LaunchTemplateVersion
		return []any{*v.VersionNumber, *v.DefaultVersion, v.LaunchTemplateData.InstanceType, *v.LaunchTemplateData.ImageId},
			[]any{int64(2), false, types.InstanceType("m5.large"), "ami-template"}, err
	},
	"ModifyLaunchTemplate": func(ctx context.Context, s *stage) (any, any, error) {
		if err := s.newTemplateVersion(ctx); err != nil {
			return nil, nil, err
		}
		out, err := s.ec2.ModifyLaunchTemplate(ctx, &ec2.ModifyLaunchTemplateInput{
			LaunchTemplateName: aws.String("node"), DefaultVersion: aws.String("2"),
		})
		return *out.LaunchTemplate.DefaultVersionNumber, int64(2), err
	},
	"DeleteLaunchTemplate": func(ctx context.Context, s *stage) (any, any, error) {
		if _, err := s.newTemplate(ctx); err != nil {
			return nil, nil, err
		}
		_, err := s.ec2.DeleteLaunchTemplate(ctx, &ec2.DeleteLaunchTemplateInput{LaunchTemplateName: aws.String("node")})
		return len(s.LaunchTemplates()), 0, err
	},
	"DescribeLaunchTemplates": func(ctx context.Context, s *stage) (any, any, error) {
		l, err := s.newTemplate(ctx)
		if err != nil {
			return nil, nil, err
		}
		out, err := s.ec2.DescribeLaunchTemplates(ctx, &ec2.DescribeLaunchTemplatesInput{LaunchTemplateNames: []string{"node"}})
		return *out.LaunchTemplates[0].LaunchTemplateId, *l.LaunchTemplateId, err
	},
	"DescribeLaunchTemplateVersions": func(ctx context.Context, s *stage) (any, any, error) {
		l, err := s.newTemplate(ctx)
		if err != nil {
			return nil, nil, err
		}
		out, err := s.ec2.DescribeLaunchTemplateVersions(ctx, &ec2.DescribeLaunchTemplateVersionsInput{
			LaunchTemplateId: l.LaunchTemplateId, Filters: []types.Filter{{Name: aws.String("instance-type"), Values: []string{"c5.*"}}},
		})
		d := out.LaunchTemplateVersions[0].LaunchTemplateData
		e := d.NetworkInterfaces[0]
		return []any{*d.KeyName, *d.UserData, d.MetadataOptions.HttpTokens, *e.SubnetId, e.Groups, *e.SecondaryPrivateIpAddressCount,
				*d.TagSpecifications[0].Tags[0].Value, d.TagSpecifications[0].ResourceType},
			[]any{"key", "aGVsbG8=", types.LaunchTemplateHttpTokensStateOptional, s.subnet.ID, []string{s.SecurityGroups()[0].ID}, int32(1),
				"template", types.ResourceTypeInstance}, err
	},
}

// TestStopStart stops and starts an instance. Its ENIs stay attached with their private
// addresses, the public address changes, an Elastic IP address stays, and metadata is
// reachable only while the instance is not stopped.
func TestStopStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{config: enitest.Config{Delays: enitest.Delays{Stop: 20 * time.Second, Start: 10 * time.Second}}})
		ctx := t.Context()
		ids := []string{w.instance.ID}
		elastic := must(w.RunInstance(enitest.InstanceInput{Subnet: w.subnet.ID}))(t)
		time.Sleep(time.Minute)
		a := must(w.ec2.AllocateAddress(ctx, &ec2.AllocateAddressInput{}))(t)
		must(w.ec2.AssociateAddress(ctx, &ec2.AssociateAddressInput{AllocationId: a.AllocationId, InstanceId: &elastic.ID}))(t)
		look := func(id string) (state types.InstanceStateName, public string, enis int, launched time.Time) {
			i := must(w.ec2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{id}}))(t).Reservations[0].Instances[0]
			return i.State.Name, aws.ToString(i.PublicIpAddress), len(i.NetworkInterfaces), *i.LaunchTime
		}
		_, before, _, launched := look(w.instance.ID)
		must(w.ec2.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: append(ids, elastic.ID)}))(t)
		if state, public, enis, _ := look(w.instance.ID); state != "stopping" || public != "" || enis != 1 {
			t.Errorf("got state %s, public address %q and %d ENIs, want stopping, none and 1", state, public, enis)
		}
		if _, public, _, _ := look(elastic.ID); public != *a.PublicIp {
			t.Errorf("got public address %q of the other instance, want the Elastic IP address %s", public, *a.PublicIp)
		}
		if got := metadata(t, w.imds, "instance-id"); got != w.instance.ID {
			t.Errorf("metadata while stopping: got %q, want the instance ID", got)
		}
		_, err := w.ec2.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: ids})
		wantCode(t, err, "IncorrectInstanceState")
		time.Sleep(20 * time.Second)
		if state, _, _, _ := look(w.instance.ID); state != "stopped" {
			t.Errorf("got state %s, want stopped", state)
		}
		status := must(w.ec2.DescribeInstanceStatus(ctx, &ec2.DescribeInstanceStatusInput{}))(t).InstanceStatuses
		if len(status) != 0 {
			t.Errorf("got %d statuses, want none", len(status))
		}
		if _, err := w.imds.GetMetadata(ctx, &imds.GetMetadataInput{Path: "instance-id"}); err == nil {
			t.Error("metadata of a stopped instance answers")
		}
		_, err = w.ec2.RebootInstances(ctx, &ec2.RebootInstancesInput{InstanceIds: ids})
		wantCode(t, err, "IncorrectInstanceState")
		must(w.ec2.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: append(ids, elastic.ID)}))(t)
		if state, _, _, _ := look(w.instance.ID); state != "pending" {
			t.Errorf("got state %s, want pending", state)
		}
		time.Sleep(10 * time.Second)
		state, public, _, again := look(w.instance.ID)
		if state != "running" || public == "" || public == before || !again.After(launched) {
			t.Errorf("got state %s, public address %q and launch time %v, want running, not %q and after %v", state, public, again, before, launched)
		}
		if _, public, _, _ := look(elastic.ID); public != *a.PublicIp {
			t.Errorf("after the start: got public address %q, want %s", public, *a.PublicIp)
		}
		if got := metadata(t, w.imds, "public-ipv4"); got != public {
			t.Errorf("got metadata public-ipv4 %q, want %q", got, public)
		}
		roundTrip(t, w.Cloud)
		checkInvariants(t, w.Cloud)
	})
}

// TestAttachToStopped attaches and detaches an ENI while the instance is stopped, and
// checks that an instance with two ENIs gets no new public address.
func TestAttachToStopped(t *testing.T) {
	w := newWorld(t, setup{})
	ctx := t.Context()
	ids := []string{w.instance.ID}
	must(w.ec2.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: ids}))(t)
	e := must(w.ec2.CreateNetworkInterface(ctx, &ec2.CreateNetworkInterfaceInput{SubnetId: &w.subnet.ID}))(t).NetworkInterface
	must(w.ec2.AttachNetworkInterface(ctx, &ec2.AttachNetworkInterfaceInput{
		NetworkInterfaceId: e.NetworkInterfaceId, InstanceId: &w.instance.ID, DeviceIndex: aws.Int32(1),
	}))(t)
	must(w.ec2.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: ids}))(t)
	i := must(w.ec2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: ids}))(t).Reservations[0].Instances[0]
	if len(i.NetworkInterfaces) != 2 || i.PublicIpAddress != nil {
		t.Errorf("got %d ENIs and public address %v, want 2 and none", len(i.NetworkInterfaces), aws.ToString(i.PublicIpAddress))
	}
}

// TestStopEvents checks that the devices of an instance leave it at the stop and come back
// at the start, and that changes in between cause no events.
func TestStopEvents(t *testing.T) {
	s := newStage(t)
	ctx := t.Context()
	ids := []string{s.instance.ID}
	var got []string
	names := map[string]string{s.free: "free", s.second: "second", s.trunk: "trunk"}
	s.OnChange(func(e enitest.Event) {
		if name := names[e.ENI.ID]; name != "" {
			got = append(got, string(e.Op)+" "+name)
		}
	})
	must(s.ec2.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: ids}))(t)
	must(s.ec2.AttachNetworkInterface(ctx, &ec2.AttachNetworkInterfaceInput{
		NetworkInterfaceId: &s.free, InstanceId: &s.instance.ID, DeviceIndex: aws.Int32(2),
	}))(t)
	must(s.ec2.DetachNetworkInterface(ctx, &ec2.DetachNetworkInterfaceInput{AttachmentId: &s.secondAttachment}))(t)
	must(s.ec2.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: ids}))(t)
	must(s.ec2.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: ids}))(t)
	if err := s.TerminateInstance(s.instance.ID); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"detached second", "detached trunk", "attached free", "attached trunk", "detached free", "detached trunk",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestRunFromTemplate runs instances from a launch template. The parameters of the call
// come before those of the template.
func TestRunFromTemplate(t *testing.T) {
	s := newStage(t)
	ctx := t.Context()
	if _, err := s.newTemplate(ctx); err != nil {
		t.Fatal(err)
	}
	must(s.ec2.CreateLaunchTemplateVersion(ctx, &ec2.CreateLaunchTemplateVersionInput{
		LaunchTemplateName: aws.String("node"), SourceVersion: aws.String("$Latest"),
		LaunchTemplateData: &types.RequestLaunchTemplateData{InstanceType: "m5.large"},
	}))(t)
	for _, tt := range []struct {
		version string
		kind    types.InstanceType
		want    []any
	}{
		{"", "", []any{"c5.large", "ami-template", 1, "template", true}},
		{"$Default", "", []any{"c5.large", "ami-template", 1, "template", true}},
		{"$Latest", "", []any{"m5.large", "ami-template", 1, "template", true}},
		{"1", "t3.small", []any{"t3.small", "ami-template", 1, "template", true}},
	} {
		out := must(s.ec2.RunInstances(ctx, &ec2.RunInstancesInput{
			MinCount: aws.Int32(1), MaxCount: aws.Int32(1), InstanceType: tt.kind,
			LaunchTemplate: &types.LaunchTemplateSpecification{LaunchTemplateName: aws.String("node"), Version: &tt.version},
		}))(t)
		i, _ := s.Instance(*out.Instances[0].InstanceId)
		var addrs int
		for _, e := range s.ENIs() {
			if e.Attachment != nil && e.Attachment.Instance == i.ID {
				addrs += len(e.Addrs)
			}
		}
		if diff := cmp.Diff(tt.want, []any{i.Type, i.Image, addrs, i.Tags["from"], i.MetadataV1}); diff != "" {
			t.Errorf("version %q (-want +got):\n%s", tt.version, diff)
		}
		if i.UserData != "hello" {
			t.Errorf("version %q: got user data %q, want hello", tt.version, i.UserData)
		}
	}
	roundTrip(t, s.Cloud)
}

// TestLaunchTemplateVersions lists the versions of a template with bounds and names, and
// the default versions of all templates.
func TestLaunchTemplateVersions(t *testing.T) {
	s := newStage(t)
	ctx := t.Context()
	l, err := s.newTemplate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		must(s.ec2.CreateLaunchTemplateVersion(ctx, &ec2.CreateLaunchTemplateVersionInput{
			LaunchTemplateId: l.LaunchTemplateId, LaunchTemplateData: &types.RequestLaunchTemplateData{ImageId: aws.String("ami-2")},
		}))(t)
	}
	for _, tt := range []struct {
		in   ec2.DescribeLaunchTemplateVersionsInput
		want []int64
	}{
		{ec2.DescribeLaunchTemplateVersionsInput{LaunchTemplateId: l.LaunchTemplateId}, []int64{4, 3, 2, 1}},
		{ec2.DescribeLaunchTemplateVersionsInput{LaunchTemplateId: l.LaunchTemplateId, MinVersion: aws.String("2"), MaxVersion: aws.String("3")}, []int64{3, 2}},
		{ec2.DescribeLaunchTemplateVersionsInput{LaunchTemplateId: l.LaunchTemplateId, Versions: []string{"1", "$Latest"}}, []int64{4, 1}},
		{ec2.DescribeLaunchTemplateVersionsInput{Versions: []string{"$Default"}}, []int64{1}},
		{ec2.DescribeLaunchTemplateVersionsInput{LaunchTemplateId: l.LaunchTemplateId, MaxResults: aws.Int32(2)}, []int64{4, 3, 2, 1}},
	} {
		var got []int64
		for p := ec2.NewDescribeLaunchTemplateVersionsPaginator(s.ec2, &tt.in); p.HasMorePages(); {
			for _, v := range must(p.NextPage(ctx))(t).LaunchTemplateVersions {
				got = append(got, *v.VersionNumber)
			}
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", tt.in, diff)
		}
	}
}

// TestManagedVisibility hides the resources of an operator. They are shown only to calls
// that ask for them.
func TestManagedVisibility(t *testing.T) {
	w := newWorld(t, setup{config: enitest.Config{HideManaged: true}})
	ctx := t.Context()
	managed := must(w.RunInstance(enitest.InstanceInput{Subnet: w.subnet.ID, Operator: "eks.amazonaws.com"}))(t)
	count := func(include *bool) []int {
		i := must(w.ec2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{IncludeManagedResources: include}))(t).Reservations
		e := must(w.ec2.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{IncludeManagedResources: include}))(t).NetworkInterfaces
		s := must(w.ec2.DescribeInstanceStatus(ctx, &ec2.DescribeInstanceStatusInput{IncludeManagedResources: include}))(t).InstanceStatuses
		return []int{len(i), len(e), len(s)}
	}
	want := func(when string, got []int, n int) {
		t.Helper()
		if diff := cmp.Diff([]int{n, n, n}, got); diff != "" {
			t.Errorf("%s: instances, ENIs and statuses (-want +got):\n%s", when, diff)
		}
	}
	want("hidden", count(nil), 1)
	want("hidden, included", count(aws.Bool(true)), 2)
	want("hidden, not included", count(aws.Bool(false)), 1)
	_, err := w.ec2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{managed.ID}})
	wantCode(t, err, "InvalidInstanceID.NotFound")
	must(w.ec2.ModifyManagedResourceVisibility(ctx, &ec2.ModifyManagedResourceVisibilityInput{DefaultVisibility: "visible"}))(t)
	want("visible", count(nil), 2)
}

// TestServerRefusals checks the codes of calls on instances, launch templates and
// attributes that EC2 refuses.
func TestServerRefusals(t *testing.T) {
	template := func(name string, data *types.RequestLaunchTemplateData) func(context.Context, *stage) error {
		return func(ctx context.Context, s *stage) error {
			if _, err := s.newTemplate(ctx); err != nil {
				return err
			}
			_, err := s.ec2.CreateLaunchTemplate(ctx, &ec2.CreateLaunchTemplateInput{LaunchTemplateName: &name, LaunchTemplateData: data})
			return err
		}
	}
	data := &types.RequestLaunchTemplateData{ImageId: aws.String("ami-1")}
	runFrom := func(spec types.LaunchTemplateSpecification) func(context.Context, *stage) error {
		return func(ctx context.Context, s *stage) error {
			if _, err := s.newTemplate(ctx); err != nil {
				return err
			}
			_, err := s.ec2.RunInstances(ctx, &ec2.RunInstancesInput{MinCount: aws.Int32(1), MaxCount: aws.Int32(1), LaunchTemplate: &spec})
			return err
		}
	}
	yes := &types.AttributeBooleanValue{Value: aws.Bool(true)}
	for _, tt := range []struct {
		name, code string
		call       func(context.Context, *stage) error
	}{
		{"stop unknown", "InvalidInstanceID.NotFound", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{"i-0"}})
			return err
		}},
		{"start malformed", "InvalidInstanceID.Malformed", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: []string{"i-xyz"}})
			return err
		}},
		{"reboot terminated", "IncorrectInstanceState", func(ctx context.Context, s *stage) error {
			if err := s.TerminateInstance(s.instance.ID); err != nil {
				return err
			}
			_, err := s.ec2.RebootInstances(ctx, &ec2.RebootInstancesInput{InstanceIds: []string{s.instance.ID}})
			return err
		}},
		{"two subnet attributes", "InvalidParameterCombination", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.ModifySubnetAttribute(ctx, &ec2.ModifySubnetAttributeInput{SubnetId: &s.subnet.ID, EnableDns64: yes, MapPublicIpOnLaunch: yes})
			return err
		}},
		{"attribute of an unknown subnet", "InvalidSubnetID.NotFound", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.ModifySubnetAttribute(ctx, &ec2.ModifySubnetAttributeInput{SubnetId: aws.String("subnet-0"), EnableDns64: yes})
			return err
		}},
		{"IPv6 in a subnet without it", "InvalidParameterValue", func(ctx context.Context, s *stage) error {
			out, err := s.ec2.CreateSubnet(ctx, &ec2.CreateSubnetInput{VpcId: &s.vpc.ID, CidrBlock: aws.String("10.0.9.0/24")})
			if err != nil {
				return err
			}
			_, err = s.ec2.ModifySubnetAttribute(ctx, &ec2.ModifySubnetAttributeInput{SubnetId: out.Subnet.SubnetId, AssignIpv6AddressOnCreation: yes})
			return err
		}},
		{"no VPC attribute", "InvalidParameterCombination", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.ModifyVpcAttribute(ctx, &ec2.ModifyVpcAttributeInput{VpcId: &s.vpc.ID})
			return err
		}},
		{"unknown VPC attribute", "InvalidParameterValue", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DescribeVpcAttribute(ctx, &ec2.DescribeVpcAttributeInput{VpcId: &s.vpc.ID, Attribute: "colour"})
			return err
		}},
		{"attribute of a malformed VPC", "InvalidVpcID.Malformed", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DescribeVpcAttribute(ctx, &ec2.DescribeVpcAttributeInput{VpcId: aws.String("vpc-xyz"), Attribute: "enableDnsSupport"})
			return err
		}},
		{"unknown account attribute", "InvalidParameterValue", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DescribeAccountAttributes(ctx, &ec2.DescribeAccountAttributesInput{AttributeNames: []types.AccountAttributeName{"colour"}})
			return err
		}},
		{"visibility", "InvalidParameterValue", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.ModifyManagedResourceVisibility(ctx, &ec2.ModifyManagedResourceVisibilityInput{DefaultVisibility: "dim"})
			return err
		}},
		{"template twice", "InvalidLaunchTemplateName.AlreadyExistsException", template("node", data)},
		{"template with a wrong name", "InvalidLaunchTemplateName.MalformedException", template("a b", data)},
		{"template without data", "MissingParameter", template("other", &types.RequestLaunchTemplateData{})},
		{"unknown template", "InvalidLaunchTemplateId.NotFound", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DescribeLaunchTemplates(ctx, &ec2.DescribeLaunchTemplatesInput{LaunchTemplateIds: []string{"lt-0"}})
			return err
		}},
		{"malformed template", "InvalidLaunchTemplateId.Malformed", func(ctx context.Context, s *stage) error {
			_, err := s.ec2.DeleteLaunchTemplate(ctx, &ec2.DeleteLaunchTemplateInput{LaunchTemplateId: aws.String("lt-xyz")})
			return err
		}},
		{"unknown template name", "InvalidLaunchTemplateName.NotFoundException", runFrom(types.LaunchTemplateSpecification{LaunchTemplateName: aws.String("other")})},
		{"unknown version", "InvalidLaunchTemplateId.VersionNotFound",
			runFrom(types.LaunchTemplateSpecification{LaunchTemplateName: aws.String("node"), Version: aws.String("7")})},
		{"no version", "InvalidParameterValue",
			runFrom(types.LaunchTemplateSpecification{LaunchTemplateName: aws.String("node"), Version: aws.String("new")})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStage(t)
			wantCode(t, tt.call(t.Context(), s), tt.code)
			checkInvariants(t, s.Cloud)
		})
	}
}
