// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"slices"
	"strconv"
	"strings"
)

type describeTypesIn struct {
	query
	Names       []string `ec2:"InstanceType"`
	Unsupported ignored  `ec2:"IncludeUnsupportedInRegion"`
}

type describeTypesOut struct {
	Types list[wireInstanceType] `xml:"instanceTypeSet"`
	Next  string                 `xml:"nextToken,omitempty"`
}

// typesPage is the largest page of DescribeInstanceTypes, and the size of its pages
// if the caller names none.
const typesPage = 100

// describeInstanceTypes describes the instance types that the Cloud knows. A type
// that instance-types.csv lacks is answered without the attributes of that file, and
// no value of a filter on one of them matches it.
func (t *tx) describeInstanceTypes(in describeTypesIn) (describeTypesOut, error) {
	if in.MaxResults == nil && len(in.Names) == 0 {
		size := typesPage
		in.MaxResults = &size
	}
	var unknown []string
	for _, name := range in.Names {
		if _, ok := t.c.InstanceType(name); !ok {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		return describeTypesOut{}, errorf("InvalidInstanceType", "The following supplied instance types do not exist: [%s]",
			strings.Join(unknown, ", "))
	}
	page, next, err := typeResource().find(t.c.instanceTypes(), in.Names, in.query)
	if err != nil {
		return describeTypesOut{}, err
	}
	return describeTypesOut{listOf(page, wireType), next}, nil
}

// typeResource has the filters of
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceTypes.html.
// Most of them are the columns of instance-types.csv.
func typeResource() resource[InstanceType] {
	one := func(f func(InstanceType) string) func(InstanceType) []string {
		return func(it InstanceType) []string { return nonEmpty(f(it)) }
	}
	count := func(f func(InstanceType) int) func(InstanceType) []string {
		return one(func(it InstanceType) string { return strconv.Itoa(f(it)) })
	}
	known := func(f func(InstanceType) int) func(InstanceType) []string {
		return one(func(it InstanceType) string { return positive(f(it)) })
	}
	r := resource[InstanceType]{
		idsParam: "instanceTypes", maxResults: typesPage,
		id:      func(it InstanceType) string { return it.Name },
		filters: map[string]func(InstanceType) []string{},
	}
	for _, column := range specTable().columns {
		r.filters[column] = func(it InstanceType) []string { return it.spec(column) }
	}
	delete(r.filters, flexibleColumn)
	delete(r.filters, manufacturerColumn)
	for name, f := range map[string]func(InstanceType) []string{
		"bare-metal":                 one(func(it InstanceType) string { return strconv.FormatBool(it.BareMetal) }),
		"hypervisor":                 one(func(it InstanceType) string { return it.Hypervisor }),
		"instance-storage-supported": one(func(it InstanceType) string { return it.bool(it.spec(storageColumn) != nil) }),
		"instance-type":              one(func(it InstanceType) string { return it.Name }),
		"memory-info.size-in-mib":    known(func(it InstanceType) int { return it.MemoryMiB }),
		"network-info.efa-info.maximum-efa-interfaces": known(func(it InstanceType) int { return it.EFAs }),
		"network-info.efa-supported": one(func(it InstanceType) string {
			if it.EFAs > 0 {
				return "true"
			}
			return it.bool(false)
		}),
		"network-info.ipv4-addresses-per-interface": count(func(it InstanceType) int { return it.IPv4PerENI }),
		"network-info.ipv6-addresses-per-interface": count(func(it InstanceType) int { return it.IPv6PerENI }),
		"network-info.ipv6-supported":               one(func(it InstanceType) string { return strconv.FormatBool(it.IPv6PerENI > 0) }),
		"network-info.maximum-network-cards":        count(func(it InstanceType) int { return len(it.ENIs) }),
		"network-info.maximum-network-interfaces":   count(InstanceType.maxENIs),
		"nitro-tpm-support": one(func(it InstanceType) string {
			switch {
			case it.spec("nitro-tpm-info.supported-versions") != nil:
				return "supported"
			case it.known():
				return "unsupported"
			}
			return ""
		}),
		"vcpu-info.default-vcpus": known(func(it InstanceType) int { return it.VCPUs }),
	} {
		r.filters[name] = f
	}
	return r
}

// maxENIs is the maximum number of ENIs on all network cards together.
func (t InstanceType) maxENIs() int {
	n := 0
	for _, most := range t.ENIs {
		n += most
	}
	return n
}

// bool returns the text of an attribute that follows from instance-types.csv. It is
// empty if that file lacks the type.
func (t InstanceType) bool(v bool) string {
	if !t.known() {
		return ""
	}
	return strconv.FormatBool(v)
}

func positive(n int) string {
	if n <= 0 {
		return ""
	}
	return strconv.Itoa(n)
}

type wireCard struct {
	Index    int    `xml:"networkCardIndex"`
	Max      int    `xml:"maximumNetworkInterfaces"`
	Flexible string `xml:"additionalFlexibleNetworkInterfaces,omitempty"`
}

type wireNetworkInfo struct {
	Performance string         `xml:"networkPerformance,omitempty"`
	Cards       list[wireCard] `xml:"networkCards"`
	MaxCards    int            `xml:"maximumNetworkCards"`
	DefaultCard int            `xml:"defaultNetworkCardIndex"`
	MaxENIs     int            `xml:"maximumNetworkInterfaces"`
	IPv4        int            `xml:"ipv4AddressesPerInterface"`
	IPv6        int            `xml:"ipv6AddressesPerInterface"`
	IPv6OK      bool           `xml:"ipv6Supported"`
	ENA         string         `xml:"enaSupport,omitempty"`
	EFA         string         `xml:"efaSupported,omitempty"`
	EFAInfo     *wireEFAInfo   `xml:"efaInfo"`
	Encryption  string         `xml:"encryptionInTransitSupported,omitempty"`
	Queues      string         `xml:"flexibleEnaQueuesSupport,omitempty"`
	Weightings  *list[string]  `xml:"bandwidthWeightings"`
}

type wireEFAInfo struct {
	Max int `xml:"maximumEfaInterfaces"`
}

type wireVCPUInfo struct {
	VCPUs        int           `xml:"defaultVCpus"`
	Cores        string        `xml:"defaultCores,omitempty"`
	Threads      string        `xml:"defaultThreadsPerCore,omitempty"`
	ValidCores   *list[string] `xml:"validCores"`
	ValidThreads *list[string] `xml:"validThreadsPerCore"`
}

type wireMemoryInfo struct {
	MiB int `xml:"sizeInMiB"`
}

type wireProcessorInfo struct {
	Manufacturer  string        `xml:"manufacturer"`
	Architectures list[string]  `xml:"supportedArchitectures"`
	Features      *list[string] `xml:"supportedFeatures"`
	GHz           string        `xml:"sustainedClockSpeedInGhz,omitempty"`
}

type wireDisk struct {
	Count string `xml:"count"`
	GB    string `xml:"sizeInGB"`
	Type  string `xml:"type"`
}

type wireStorageInfo struct {
	TotalGB    string         `xml:"totalSizeInGB"`
	Disks      list[wireDisk] `xml:"disks"`
	NVMe       string         `xml:"nvmeSupport,omitempty"`
	Encryption string         `xml:"encryptionSupport,omitempty"`
}

type wireEBSOptimized struct {
	Bandwidth     string `xml:"baselineBandwidthInMbps"`
	IOPS          string `xml:"baselineIops"`
	Throughput    string `xml:"baselineThroughputInMBps"`
	MaxBandwidth  string `xml:"maximumBandwidthInMbps"`
	MaxIOPS       string `xml:"maximumIops"`
	MaxThroughput string `xml:"maximumThroughputInMBps"`
}

type wireEBSInfo struct {
	LimitType   string            `xml:"attachmentLimitType,omitempty"`
	Attachments string            `xml:"maximumEbsAttachments,omitempty"`
	Optimized   string            `xml:"ebsOptimizedSupport"`
	Encryption  string            `xml:"encryptionSupport"`
	NVMe        string            `xml:"nvmeSupport"`
	Info        *wireEBSOptimized `xml:"ebsOptimizedInfo"`
}

type wireTPMInfo struct {
	Versions list[string] `xml:"supportedVersions"`
}

type wireInstanceType struct {
	Name            string             `xml:"instanceType"`
	Hypervisor      string             `xml:"hypervisor,omitempty"`
	BareMetal       bool               `xml:"bareMetal"`
	Current         string             `xml:"currentGeneration,omitempty"`
	FreeTier        string             `xml:"freeTierEligible,omitempty"`
	Burstable       string             `xml:"burstablePerformanceSupported,omitempty"`
	DedicatedHosts  string             `xml:"dedicatedHostsSupported,omitempty"`
	AutoRecovery    string             `xml:"autoRecoverySupported,omitempty"`
	Hibernation     string             `xml:"hibernationSupported,omitempty"`
	Enclaves        string             `xml:"nitroEnclavesSupport,omitempty"`
	TPM             string             `xml:"nitroTpmSupport,omitempty"`
	TPMInfo         *wireTPMInfo       `xml:"nitroTpmInfo"`
	RebootMigration string             `xml:"rebootMigrationSupport,omitempty"`
	Boot            *list[string]      `xml:"supportedBootModes"`
	Root            *list[string]      `xml:"supportedRootDeviceTypes"`
	Usage           *list[string]      `xml:"supportedUsageClasses"`
	Virtualization  *list[string]      `xml:"supportedVirtualizationTypes"`
	VCPU            *wireVCPUInfo      `xml:"vCpuInfo"`
	Memory          *wireMemoryInfo    `xml:"memoryInfo"`
	Processor       *wireProcessorInfo `xml:"processorInfo"`
	StorageOK       string             `xml:"instanceStorageSupported,omitempty"`
	Storage         *wireStorageInfo   `xml:"instanceStorageInfo"`
	EBS             *wireEBSInfo       `xml:"ebsInfo"`
	Network         wireNetworkInfo    `xml:"networkInfo"`
}

func wireType(it InstanceType) wireInstanceType {
	one := func(column string) string { return firstLine(it.spec(column)) }
	many := func(column string) *list[string] {
		if values := it.spec(column); values != nil {
			return &list[string]{values}
		}
		return nil
	}
	w := wireInstanceType{
		Name: it.Name, Hypervisor: it.Hypervisor, BareMetal: it.BareMetal, Network: it.wireNetwork(),
		Current: one("current-generation"), FreeTier: one("free-tier-eligible"), Burstable: one("burstable-performance-supported"),
		DedicatedHosts: one("dedicated-hosts-supported"), AutoRecovery: one("auto-recovery-supported"),
		Hibernation: one("hibernation-supported"), Enclaves: one("nitro-enclaves-support"), RebootMigration: one("reboot-migration-support"),
		Boot: many("supported-boot-mode"), Root: many("supported-root-device-type"), Usage: many("supported-usage-class"),
		Virtualization: many("supported-virtualization-type"),
	}
	filters := typeResource().filters
	w.TPM = firstLine(filters["nitro-tpm-support"](it))
	w.StorageOK = firstLine(filters["instance-storage-supported"](it))
	if versions := many("nitro-tpm-info.supported-versions"); versions != nil {
		w.TPMInfo = &wireTPMInfo{*versions}
	}
	if it.MemoryMiB > 0 {
		w.Memory = &wireMemoryInfo{it.MemoryMiB}
	}
	if it.VCPUs > 0 {
		w.VCPU = &wireVCPUInfo{
			it.VCPUs, one("vcpu-info.default-cores"), one("vcpu-info.default-threads-per-core"),
			many("vcpu-info.valid-cores"), many("vcpu-info.valid-threads-per-core"),
		}
	}
	if architectures := many("processor-info.supported-architecture"); architectures != nil {
		w.Processor = &wireProcessorInfo{
			one(manufacturerColumn), *architectures, many("processor-info.supported-features"),
			one("processor-info.sustained-clock-speed-in-ghz"),
		}
	}
	w.Storage, w.EBS = it.wireStorage(), it.wireEBS()
	return w
}

func (t InstanceType) wireNetwork() wireNetworkInfo {
	one := func(column string) string { return firstLine(t.spec(column)) }
	w := wireNetworkInfo{
		MaxCards: len(t.ENIs), DefaultCard: t.DefaultCard, MaxENIs: t.maxENIs(),
		IPv4: t.IPv4PerENI, IPv6: t.IPv6PerENI, IPv6OK: t.IPv6PerENI > 0,
		Performance: one("network-info.network-performance"), ENA: one("network-info.ena-support"),
		EFA:        firstLine(typeResource().filters["network-info.efa-supported"](t)),
		Encryption: one("network-info.encryption-in-transit-supported"), Queues: one("network-info.flexible-ena-queues-support"),
	}
	if t.EFAs > 0 {
		w.EFAInfo = &wireEFAInfo{t.EFAs}
	}
	if weightings := t.spec("network-info.bandwidth-weightings"); weightings != nil {
		w.Weightings = &list[string]{weightings}
	}
	for card, n := range t.ENIs {
		one := wireCard{Index: card, Max: n}
		if slices.Equal(t.spec("network-info.flexible-ena-queues-support"), []string{"supported"}) || t.flexible(card) > 0 {
			one.Flexible = strconv.Itoa(t.flexible(card))
		}
		w.Cards.Items = append(w.Cards.Items, one)
	}
	return w
}

func (t InstanceType) wireStorage() *wireStorageInfo {
	total := t.spec(storageColumn)
	if total == nil {
		return nil
	}
	w := &wireStorageInfo{
		TotalGB: total[0], NVMe: firstLine(t.spec("instance-storage-info.nvme-support")),
		Encryption: firstLine(t.spec("instance-storage-info.encryption-support")),
	}
	sizes, kinds := t.spec("instance-storage-info.disk.size-in-gb"), t.spec("instance-storage-info.disk.type")
	for i, count := range t.spec("instance-storage-info.disk.count") {
		w.Disks.Items = append(w.Disks.Items, wireDisk{count, sizes[i], kinds[i]})
	}
	return w
}

func (t InstanceType) wireEBS() *wireEBSInfo {
	if !t.known() {
		return nil
	}
	one := func(column string) string { return firstLine(t.spec("ebs-info." + column)) }
	w := &wireEBSInfo{
		LimitType: one("attachment-limit-type"), Attachments: one("maximum-ebs-attachments"), Optimized: one("ebs-optimized-support"),
		Encryption: one("encryption-support"), NVMe: one("nvme-support"),
	}
	if bandwidth := one("ebs-optimized-info.baseline-bandwidth-in-mbps"); bandwidth != "" {
		w.Info = &wireEBSOptimized{
			bandwidth, one("ebs-optimized-info.baseline-iops"), one("ebs-optimized-info.baseline-throughput-in-mbps"),
			one("ebs-optimized-info.maximum-bandwidth-in-mbps"), one("ebs-optimized-info.maximum-iops"),
			one("ebs-optimized-info.maximum-throughput-in-mbps"),
		}
	}
	return w
}

// flexible returns the number of ENIs that the card allows with flexible ENA queues in
// addition to ENIs.
func (t InstanceType) flexible(card int) int {
	if card >= len(t.Flexible) {
		return 0
	}
	return t.Flexible[card]
}

// spec returns the values of a column of instance-types.csv for the type. They are nil
// if there are none or if the file lacks the type.
func (t InstanceType) spec(column string) []string {
	table := specTable()
	row, ok := table.rows[t.Name]
	i := slices.Index(table.columns, column)
	if !ok || row[i] == "" {
		return nil
	}
	return strings.Split(row[i], "|")
}

// known reports whether instance-types.csv has the type.
func (t InstanceType) known() bool {
	_, ok := specTable().rows[t.Name]
	return ok
}
