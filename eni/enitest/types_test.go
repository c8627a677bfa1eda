// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// TestInstanceTypeFilters finds instance types by filters on attributes of several
// kinds.
func TestInstanceTypeFilters(t *testing.T) {
	w := newWorld(t, setup{config: enitest.Config{Types: []enitest.InstanceType{
		{Name: "zz1.nano", ENIs: []int{2}, IPv4PerENI: 2, IPv6PerENI: 2, Hypervisor: "nitro", VCPUs: 3, MemoryMiB: 777},
	}}})
	for _, tt := range []struct {
		filters  []string
		has, not string
	}{
		{[]string{"vcpu-info.default-vcpus=48", "memory-info.size-in-mib=98304"}, "c5.12xlarge", "m5.12xlarge"},
		{[]string{"vcpu-info.default-vcpus=3"}, "zz1.nano", "m5.large"},
		{[]string{"memory-info.size-in-mib=777"}, "zz1.nano", "m5.large"},
		{[]string{"network-info.efa-supported=true"}, "p5.48xlarge", "m5.large"},
		{[]string{"network-info.efa-supported=false"}, "m5.large", "p5.48xlarge"},
		{[]string{"network-info.efa-supported=false"}, "m5.large", "zz1.nano"},
		{[]string{"network-info.efa-info.maximum-efa-interfaces=32"}, "p5.48xlarge", "p4d.24xlarge"},
		{[]string{"network-info.maximum-network-interfaces=64"}, "p5.48xlarge", "m5.large"},
		{[]string{"network-info.flexible-ena-queues-support=supported"}, "c6in.8xlarge", "m5.large"},
		{[]string{"network-info.ipv6-supported=false"}, "m3.medium", "m5.large"},
		{[]string{"network-info.ipv6-addresses-per-interface=0"}, "t1.micro", "t2.micro"},
		{[]string{"network-info.ena-support=unsupported"}, "m3.medium", "m5.large"},
		{[]string{"processor-info.supported-architecture=arm64"}, "t4g.nano", "t3.nano"},
		{[]string{"processor-info.sustained-clock-speed-in-ghz=3.1"}, "m5.large", "t4g.nano"},
		{[]string{"burstable-performance-supported=true", "free-tier-eligible=true"}, "t3.micro", "t3.large"},
		{[]string{"current-generation=false"}, "m4.large", "m8g.large"},
		{[]string{"instance-storage-supported=true", "instance-storage-info.disk.type=hdd"}, "d3.xlarge", "m5d.large"},
		{[]string{"instance-storage-supported=false"}, "m5.large", "zz1.nano"},
		{[]string{"instance-storage-info.total-size-in-gb=75"}, "m5d.large", "m5.large"},
		{[]string{"ebs-info.nvme-support=required", "ebs-info.attachment-limit-type=shared"}, "m5.large", "m4.large"},
		{[]string{"ebs-info.ebs-optimized-info.baseline-iops=3600"}, "m5.large", "m5.4xlarge"},
		{[]string{"nitro-tpm-support=supported"}, "m5.large", "m4.large"},
		{[]string{"nitro-tpm-support=unsupported"}, "m4.large", "m5.large"},
		{[]string{"supported-usage-class=capacity-block"}, "p5.48xlarge", "m5.large"},
		{[]string{"supported-boot-mode=uefi", "hypervisor=nitro"}, "m5.large", "m4.large"},
		{[]string{"vcpu-info.valid-cores=1", "vcpu-info.valid-threads-per-core=2"}, "m5.large", "t4g.nano"},
		{[]string{"instance-type=m5*"}, "m5dn.large", "m6i.large"},
	} {
		in := &ec2.DescribeInstanceTypesInput{}
		for _, f := range tt.filters {
			name, value, _ := strings.Cut(f, "=")
			in.Filters = append(in.Filters, types.Filter{Name: &name, Values: []string{value}})
		}
		var got []string
		for p := ec2.NewDescribeInstanceTypesPaginator(w.ec2, in); p.HasMorePages(); {
			for _, it := range must(p.NextPage(t.Context()))(t).InstanceTypes {
				got = append(got, string(it.InstanceType))
			}
		}
		if !slices.Contains(got, tt.has) || slices.Contains(got, tt.not) {
			t.Errorf("%v: got %d types %v, want %s and not %s", tt.filters, len(got), got, tt.has, tt.not)
		}
	}
}

// TestInstanceTypeAttributes checks the attributes in the answer of
// DescribeInstanceTypes, with those of a type that only Config.Types has.
func TestInstanceTypeAttributes(t *testing.T) {
	w := newWorld(t, setup{config: enitest.Config{Types: []enitest.InstanceType{
		{Name: "zz1.nano", ENIs: []int{2}, IPv4PerENI: 2, Hypervisor: "nitro"},
	}}})
	out := must(w.ec2.DescribeInstanceTypes(t.Context(), &ec2.DescribeInstanceTypesInput{
		InstanceTypes: []types.InstanceType{"c6in.32xlarge", "m5d.large", "zz1.nano"},
	}))(t).InstanceTypes
	in, md, own := out[0], out[1], out[2]
	var flexible []int32
	for _, card := range in.NetworkInfo.NetworkCards {
		flexible = append(flexible, *card.AdditionalFlexibleNetworkInterfaces)
	}
	want := []any{
		int32(128), int64(262144), true, int32(2), []int32{4, 4}, int32(16), types.FlexibleEnaQueuesSupportSupported,
		[]types.ArchitectureType{"x86_64"}, 3.5, "200 Gigabit",
	}
	got := []any{
		*in.VCpuInfo.DefaultVCpus, *in.MemoryInfo.SizeInMiB, *in.NetworkInfo.EfaSupported, *in.NetworkInfo.EfaInfo.MaximumEfaInterfaces,
		flexible, *in.NetworkInfo.MaximumNetworkInterfaces, in.NetworkInfo.FlexibleEnaQueuesSupport,
		in.ProcessorInfo.SupportedArchitectures, *in.ProcessorInfo.SustainedClockSpeedInGhz, *in.NetworkInfo.NetworkPerformance,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("c6in.32xlarge (-want +got):\n%s", diff)
	}
	disk := md.InstanceStorageInfo.Disks[0]
	want = []any{int64(75), int32(1), types.DiskTypeSsd, int32(3600), 593.75, []types.BootModeType{"legacy-bios", "uefi"}, true}
	got = []any{
		*md.InstanceStorageInfo.TotalSizeInGB, *disk.Count, disk.Type, *md.EbsInfo.EbsOptimizedInfo.BaselineIops,
		*md.EbsInfo.EbsOptimizedInfo.MaximumThroughputInMBps, md.SupportedBootModes, *md.HibernationSupported,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("m5d.large (-want +got):\n%s", diff)
	}
	if own.VCpuInfo != nil || own.MemoryInfo != nil || own.NetworkInfo.EfaSupported != nil || own.EbsInfo != nil || own.InstanceStorageSupported != nil {
		t.Errorf("zz1.nano: got %+v, want no attributes that Config.Types does not have", own)
	}
}

// TestFlexibleENAQueues attaches more ENIs than the card allows with the default ENA
// queues. EC2 accepts the additional ones only with a number of queues.
func TestFlexibleENAQueues(t *testing.T) {
	w := newWorld(t, setup{config: enitest.Config{Types: []enitest.InstanceType{
		{Name: "zz1.nano", ENIs: []int{2}, IPv4PerENI: 2, Hypervisor: "nitro", Flexible: []int{1}},
	}}, kind: "zz1.nano"})
	attach := func(device int32, queues *int32) (string, error) {
		e := must(w.ec2.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: &w.subnet.ID}))(t).NetworkInterface
		_, err := w.ec2.AttachNetworkInterface(t.Context(), &ec2.AttachNetworkInterfaceInput{
			NetworkInterfaceId: e.NetworkInterfaceId, InstanceId: &w.instance.ID, DeviceIndex: &device, EnaQueueCount: queues,
		})
		return *e.NetworkInterfaceId, err
	}
	if _, err := attach(1, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := attach(2, nil); codeOf(err) != "AttachmentLimitExceeded" {
		t.Errorf("attach without queues: got %v, want AttachmentLimitExceeded", err)
	}
	if _, err := attach(2, aws.Int32(0)); codeOf(err) != "InvalidParameterValue" {
		t.Errorf("attach with 0 queues: got %v, want InvalidParameterValue", err)
	}
	id, err := attach(2, aws.Int32(4))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := attach(3, aws.Int32(4)); codeOf(err) != "AttachmentLimitExceeded" {
		t.Errorf("attach above both limits: got %v, want AttachmentLimitExceeded", err)
	}
	queues := func() int32 {
		out := must(w.ec2.DescribeNetworkInterfaces(t.Context(), &ec2.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{id}}))(t)
		return aws.ToInt32(out.NetworkInterfaces[0].Attachment.EnaQueueCount)
	}
	if n := queues(); n != 4 {
		t.Errorf("got %d queues, want 4", n)
	}
	e, _ := w.ENI(id)
	if _, err := w.ec2.ModifyNetworkInterfaceAttribute(t.Context(), &ec2.ModifyNetworkInterfaceAttributeInput{
		NetworkInterfaceId: &id, Attachment: &types.NetworkInterfaceAttachmentChanges{AttachmentId: &e.Attachment.ID, EnaQueueCount: aws.Int32(2)},
	}); err != nil {
		t.Fatal(err)
	}
	if n := queues(); n != 2 {
		t.Errorf("after the change: got %d queues, want 2", n)
	}
}

// TestDefaultCard runs instances of a type with another default network card than card 0. The
// primary ENI is device 0 of the default card, and device 0 of card 0 is another ENI.
func TestDefaultCard(t *testing.T) {
	w := newWorld(t, setup{config: enitest.Config{Types: []enitest.InstanceType{
		{Name: "zz1.nano", ENIs: []int{2, 2}, IPv4PerENI: 4, Hypervisor: "nitro", DefaultCard: 1},
	}}, kind: "zz1.nano"})
	ctx := t.Context()
	out := must(w.ec2.RunInstances(ctx, &ec2.RunInstancesInput{
		ImageId: aws.String("ami-1"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1), InstanceType: "zz1.nano",
		NetworkInterfaces: []types.InstanceNetworkInterfaceSpecification{
			{DeviceIndex: aws.Int32(0), NetworkCardIndex: aws.Int32(0), SubnetId: &w.subnet.ID},
			{DeviceIndex: aws.Int32(0), NetworkCardIndex: aws.Int32(1), SubnetId: &w.subnet.ID, PrivateIpAddress: aws.String("10.0.1.99")},
		},
	}))(t)
	if got := *out.Instances[0].PrivateIpAddress; got != "10.0.1.99" {
		t.Errorf("got private address %s, want that of the ENI on the default card", got)
	}
	primary := must(w.ec2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{w.instance.ID}}))(t).Reservations[0].Instances[0]
	a := primary.NetworkInterfaces[0].Attachment
	if *a.NetworkCardIndex != 1 || *a.DeviceIndex != 0 || metadata(t, w.imds, "local-ipv4") != *primary.PrivateIpAddress {
		t.Errorf("got the primary ENI at card %d device %d, and metadata local-ipv4 %s; want card 1, device 0 and %s",
			*a.NetworkCardIndex, *a.DeviceIndex, metadata(t, w.imds, "local-ipv4"), *primary.PrivateIpAddress)
	}
	_, err := w.ec2.DetachNetworkInterface(ctx, &ec2.DetachNetworkInterfaceInput{AttachmentId: a.AttachmentId})
	wantCode(t, err, "OperationNotPermitted")
}

// TestInstanceProperties checks the properties of an instance that follow from its type,
// and the ones that all instances have alike, against the filters on them.
func TestInstanceProperties(t *testing.T) {
	w := newWorld(t, setup{kind: "t4g.small"})
	out := must(w.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{Filters: []types.Filter{
		{Name: aws.String("architecture"), Values: []string{"arm64"}}, {Name: aws.String("hypervisor"), Values: []string{"xen"}},
		{Name: aws.String("monitoring-state"), Values: []string{"disabled"}}, {Name: aws.String("ena-support"), Values: []string{"true"}},
		{Name: aws.String("metadata-options.http-put-response-hop-limit"), Values: []string{"2"}},
	}}))(t)
	if len(out.Reservations) != 1 {
		t.Fatalf("got %d reservations, want 1", len(out.Reservations))
	}
	i := out.Reservations[0].Instances[0]
	got := []any{
		i.Architecture, i.Hypervisor, i.RootDeviceType, i.VirtualizationType, i.Monitoring.State, *i.EnaSupport, *i.EbsOptimized,
		i.PrivateDnsNameOptions.HostnameType, *i.CpuOptions.CoreCount, *i.CpuOptions.ThreadsPerCore, i.MetadataOptions.HttpProtocolIpv6,
	}
	want := []any{
		types.ArchitectureValuesArm64, types.HypervisorTypeXen, types.DeviceTypeEbs, types.VirtualizationTypeHvm,
		types.MonitoringStateDisabled, true, false, types.HostnameTypeIpName, int32(2), int32(1), types.InstanceMetadataProtocolStateDisabled,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	identity := must(w.imds.GetInstanceIdentityDocument(t.Context(), nil))(t)
	if identity.Architecture != "arm64" {
		t.Errorf("identity document: got architecture %s, want arm64", identity.Architecture)
	}
}
