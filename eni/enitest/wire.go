// SPDX-License-Identifier: Apache-2.0

package enitest

// The types of this file are elements of requests and answers. Their tags are the
// names in the EC2 API reference.

// list is a set in an answer. As in EC2's answers, an empty set is not omitted.
type list[T any] struct {
	Items []T `xml:"item"`
}

// listOf returns the set of the elements of all, converted by f.
func listOf[From, T any](all []From, f func(From) T) list[T] {
	var l list[T]
	for _, one := range all {
		l.Items = append(l.Items, f(one))
	}
	return l
}

// query holds the parameters that all Describe calls have.
type query struct {
	Filters    []filterParam `ec2:"Filter"`
	MaxResults *int          `ec2:"MaxResults"`
	NextToken  string        `ec2:"NextToken"`
}

type filterParam struct {
	Name   string   `ec2:"Name"`
	Values []string `ec2:"Value"`
}

type tagParam struct {
	Key   string  `ec2:"Key"`
	Value *string `ec2:"Value"`
}

type tagSpecParam struct {
	ResourceType string     `ec2:"ResourceType"`
	Tags         []tagParam `ec2:"Tag"`
}

type wireTag struct {
	Key   string `xml:"key"`
	Value string `xml:"value"`
}

type wireGroup struct {
	GroupID   string `xml:"groupId"`
	GroupName string `xml:"groupName"`
}

type wireAssociation struct {
	PublicIP      string `xml:"publicIp"`
	PublicDNSName string `xml:"publicDnsName"`
	IPOwnerID     string `xml:"ipOwnerId"`
	AllocationID  string `xml:"allocationId,omitempty"`
	AssociationID string `xml:"associationId,omitempty"`
}

type wireAddr struct {
	PrivateIPAddress string           `xml:"privateIpAddress"`
	PrivateDNSName   string           `xml:"privateDnsName,omitempty"`
	Primary          bool             `xml:"primary"`
	Association      *wireAssociation `xml:"association"`
}

type wireIPv6Addr struct {
	IPv6Address string `xml:"ipv6Address"`
	IsPrimary   bool   `xml:"isPrimaryIpv6"`
}

type wireAttachment struct {
	AttachmentID        string `xml:"attachmentId"`
	InstanceID          string `xml:"instanceId,omitempty"`
	InstanceOwnerID     string `xml:"instanceOwnerId,omitempty"`
	DeviceIndex         int    `xml:"deviceIndex"`
	NetworkCardIndex    int    `xml:"networkCardIndex"`
	Status              string `xml:"status"`
	AttachTime          string `xml:"attachTime"`
	DeleteOnTermination bool   `xml:"deleteOnTermination"`
	EnaQueues           int    `xml:"enaQueueCount,omitempty"`
}

type wireTracking struct {
	TCPEstablished int `xml:"tcpEstablishedTimeout,omitempty"`
	UDPStream      int `xml:"udpStreamTimeout,omitempty"`
	UDP            int `xml:"udpTimeout,omitempty"`
}

// wireENI is the part of a network interface that DescribeNetworkInterfaces and
// DescribeInstances share.
type wireENI struct {
	ID              string               `xml:"networkInterfaceId"`
	SubnetID        string               `xml:"subnetId"`
	VPCID           string               `xml:"vpcId"`
	Description     string               `xml:"description"`
	OwnerID         string               `xml:"ownerId"`
	Status          string               `xml:"status"`
	MACAddress      string               `xml:"macAddress"`
	PrivateIP       string               `xml:"privateIpAddress,omitempty"`
	PrivateDNSName  string               `xml:"privateDnsName,omitempty"`
	SourceDestCheck bool                 `xml:"sourceDestCheck"`
	Groups          list[wireGroup]      `xml:"groupSet"`
	Attachment      *wireAttachment      `xml:"attachment"`
	Association     *wireAssociation     `xml:"association"`
	PrivateIPs      list[wireAddr]       `xml:"privateIpAddressesSet"`
	IPv6Addresses   list[wireIPv6Addr]   `xml:"ipv6AddressesSet"`
	IPv4Prefixes    list[wireIPv4Prefix] `xml:"ipv4PrefixSet"`
	IPv6Prefixes    list[wireIPv6Prefix] `xml:"ipv6PrefixSet"`
	InterfaceType   string               `xml:"interfaceType"`
	Tracking        *wireTracking        `xml:"connectionTrackingConfiguration"`
}

type wireNetworkInterface struct {
	Operator wireOperator `xml:"operator"`
	wireENI
	AvailabilityZone   string        `xml:"availabilityZone"`
	AvailabilityZoneID string        `xml:"availabilityZoneId"`
	IPv6Address        string        `xml:"ipv6Address,omitempty"`
	RequesterID        string        `xml:"requesterId"`
	RequesterManaged   bool          `xml:"requesterManaged"`
	Tags               list[wireTag] `xml:"tagSet"`
}

type wireOperator struct {
	Managed   bool   `xml:"managed"`
	Principal string `xml:"principal,omitempty"`
}

type wireIPv4Prefix struct {
	Prefix string `xml:"ipv4Prefix"`
}

type wireIPv6Prefix struct {
	Prefix string `xml:"ipv6Prefix"`
}

type wireState struct {
	Code int    `xml:"code"`
	Name string `xml:"name"`
}

type wirePlacement struct {
	AvailabilityZone   string `xml:"availabilityZone"`
	AvailabilityZoneID string `xml:"availabilityZoneId"`
	Tenancy            string `xml:"tenancy"`
}

type wireMetadataOptions struct {
	State      string `xml:"state"`
	HTTPTokens string `xml:"httpTokens"`
	HopLimit   int    `xml:"httpPutResponseHopLimit"`
	Endpoint   string `xml:"httpEndpoint"`
	Tags       string `xml:"instanceMetadataTags"`
	IPv6       string `xml:"httpProtocolIpv6"`
}

type wireInstance struct {
	ID                string              `xml:"instanceId"`
	ImageID           string              `xml:"imageId"`
	State             wireState           `xml:"instanceState"`
	PrivateDNSName    string              `xml:"privateDnsName"`
	DNSName           string              `xml:"dnsName"`
	InstanceType      string              `xml:"instanceType"`
	LaunchIndex       int                 `xml:"amiLaunchIndex"`
	LaunchTime        string              `xml:"launchTime"`
	Placement         wirePlacement       `xml:"placement"`
	SubnetID          string              `xml:"subnetId,omitempty"`
	VPCID             string              `xml:"vpcId,omitempty"`
	PrivateIP         string              `xml:"privateIpAddress,omitempty"`
	PublicIP          string              `xml:"ipAddress,omitempty"`
	IPv6Address       string              `xml:"ipv6Address,omitempty"`
	SourceDestCheck   bool                `xml:"sourceDestCheck"`
	Groups            list[wireGroup]     `xml:"groupSet"`
	NetworkInterfaces list[wireENI]       `xml:"networkInterfaceSet"`
	MetadataOptions   wireMetadataOptions `xml:"metadataOptions"`
	Operator          wireOperator        `xml:"operator"`
	Architecture      string              `xml:"architecture"`
	CPU               *wireCPUOptions     `xml:"cpuOptions"`
	wireMachine
	Tags list[wireTag] `xml:"tagSet"`
}

type wireCPUOptions struct {
	Cores   string `xml:"coreCount"`
	Threads string `xml:"threadsPerCore"`
}

// wireMachine are the properties of an instance that all instances have alike.
type wireMachine struct {
	Hypervisor     string `xml:"hypervisor"`
	Virtualization string `xml:"virtualizationType"`
	RootName       string `xml:"rootDeviceName"`
	RootType       string `xml:"rootDeviceType"`
	EBSOptimized   bool   `xml:"ebsOptimized"`
	ENA            bool   `xml:"enaSupport"`
	Monitoring     string `xml:"monitoring>state"`
	Platform       string `xml:"platformDetails"`
	Usage          string `xml:"usageOperation"`
	Enclave        bool   `xml:"enclaveOptions>enabled"`
	Hibernation    bool   `xml:"hibernationOptions>configured"`
	AutoRecovery   string `xml:"maintenanceOptions>autoRecovery"`
	Capacity       string `xml:"capacityReservationSpecification>capacityReservationPreference"`
	Bandwidth      string `xml:"networkPerformanceOptions>bandwidthWeighting"`
	Hostname       string `xml:"privateDnsNameOptions>hostnameType"`
	RecordA        bool   `xml:"privateDnsNameOptions>enableResourceNameDnsARecord"`
	RecordAAAA     bool   `xml:"privateDnsNameOptions>enableResourceNameDnsAAAARecord"`
}

// machine is the wireMachine of every instance.
var machine = wireMachine{
	Hypervisor: "xen", Virtualization: "hvm", RootName: "/dev/xvda", RootType: "ebs", ENA: true, Monitoring: "disabled",
	Platform: "Linux/UNIX", Usage: "RunInstances", AutoRecovery: "default", Capacity: "open", Bandwidth: "default", Hostname: "ip-name",
}

type wireReservation struct {
	ID        string             `xml:"reservationId"`
	OwnerID   string             `xml:"ownerId"`
	Groups    list[wireGroup]    `xml:"groupSet"`
	Instances list[wireInstance] `xml:"instancesSet"`
}

type wireStateChange struct {
	InstanceID string    `xml:"instanceId"`
	Current    wireState `xml:"currentState"`
	Previous   wireState `xml:"previousState"`
}

type wireSubnet struct {
	ID                 string                   `xml:"subnetId"`
	ARN                string                   `xml:"subnetArn"`
	State              string                   `xml:"state"`
	OwnerID            string                   `xml:"ownerId"`
	VPCID              string                   `xml:"vpcId"`
	CIDRBlock          string                   `xml:"cidrBlock,omitempty"`
	IPv6Native         bool                     `xml:"ipv6Native"`
	IPv6               list[wireIPv6CIDRSubnet] `xml:"ipv6CidrBlockAssociationSet"`
	Available          int                      `xml:"availableIpAddressCount"`
	AvailabilityZone   string                   `xml:"availabilityZone"`
	AvailabilityZoneID string                   `xml:"availabilityZoneId"`
	DefaultForAZ       bool                     `xml:"defaultForAz"`
	MapPublic          bool                     `xml:"mapPublicIpOnLaunch"`
	AssignIPv6         bool                     `xml:"assignIpv6AddressOnCreation"`
	DNS64              bool                     `xml:"enableDns64"`
	DNSOptions         wireDNSOptions           `xml:"privateDnsNameOptionsOnLaunch"`
	Tags               list[wireTag]            `xml:"tagSet"`
}

type wireDNSOptions struct {
	HostnameType string `xml:"hostnameType"`
	RecordA      bool   `xml:"enableResourceNameDnsARecord"`
	RecordAAAA   bool   `xml:"enableResourceNameDnsAAAARecord"`
}

type wireIPv6CIDRSubnet struct {
	AssociationID string `xml:"associationId"`
	CIDRBlock     string `xml:"ipv6CidrBlock"`
	State         string `xml:"ipv6CidrBlockState>state"`
}

type wireCIDRVPC struct {
	AssociationID string `xml:"associationId"`
	CIDRBlock     string `xml:"cidrBlock"`
	State         string `xml:"cidrBlockState>state"`
}

type wireVPC struct {
	ID        string `xml:"vpcId"`
	OwnerID   string `xml:"ownerId"`
	State     string `xml:"state"`
	CIDRBlock string `xml:"cidrBlock"`

	DHCPOptions string `xml:"dhcpOptionsId"`

	IPv4      list[wireCIDRVPC]        `xml:"cidrBlockAssociationSet"`
	IPv6      list[wireIPv6CIDRSubnet] `xml:"ipv6CidrBlockAssociationSet"`
	Tenancy   string                   `xml:"instanceTenancy"`
	IsDefault bool                     `xml:"isDefault"`
	Tags      list[wireTag]            `xml:"tagSet"`
}

type wireSecurityGroup struct {
	ID          string               `xml:"groupId"`
	ARN         string               `xml:"securityGroupArn"`
	Name        string               `xml:"groupName"`
	Description string               `xml:"groupDescription"`
	OwnerID     string               `xml:"ownerId"`
	VPCID       string               `xml:"vpcId"`
	Ingress     list[wirePermission] `xml:"ipPermissions"`
	Egress      list[wirePermission] `xml:"ipPermissionsEgress"`
	Tags        list[wireTag]        `xml:"tagSet"`
}

type wireTagDescription struct {
	ResourceID   string `xml:"resourceId"`
	ResourceType string `xml:"resourceType"`
	Key          string `xml:"key"`
	Value        string `xml:"value"`
}

type wireZone struct {
	Name       string `xml:"zoneName"`
	ID         string `xml:"zoneId"`
	State      string `xml:"zoneState"`
	RegionName string `xml:"regionName"`
	GroupName  string `xml:"groupName"`
	Type       string `xml:"zoneType"`
	OptIn      string `xml:"optInStatus"`
	Border     string `xml:"networkBorderGroup"`
}

type wireReturn struct {
	Return bool `xml:"return"`
}
