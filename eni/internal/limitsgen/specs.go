// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// specsFile holds the further attributes of instance types that DescribeInstanceTypes
// answers, relative to the directory of package instancetype. Package enitest embeds
// it.
const specsFile = "../enitest/instance-types.csv"

// specColumns are the columns of specsFile after the instance type. A column has the
// name of the filter of DescribeInstanceTypes, which is also the path of the attribute
// in the answer, or such a path for an attribute without a filter.
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceTypes.html
var specColumns = []string{
	columnVCPUs, "vcpu-info.default-cores", "vcpu-info.default-threads-per-core", "vcpu-info.valid-cores",
	"vcpu-info.valid-threads-per-core", columnMemory,
	"processor-info.manufacturer", "processor-info.supported-architecture", "processor-info.supported-features",
	"processor-info.sustained-clock-speed-in-ghz",
	columnEFAs, columnFlexible, "network-info.bandwidth-weightings", "network-info.ena-support",
	"network-info.encryption-in-transit-supported", "network-info.flexible-ena-queues-support",
	"network-info.ipv6-supported", "network-info.network-performance",
	"ebs-info.attachment-limit-type", "ebs-info.maximum-ebs-attachments", "ebs-info.ebs-optimized-support",
	"ebs-info.encryption-support", "ebs-info.nvme-support",
	"ebs-info.ebs-optimized-info.baseline-bandwidth-in-mbps", "ebs-info.ebs-optimized-info.baseline-iops",
	"ebs-info.ebs-optimized-info.baseline-throughput-in-mbps", "ebs-info.ebs-optimized-info.maximum-bandwidth-in-mbps",
	"ebs-info.ebs-optimized-info.maximum-iops", "ebs-info.ebs-optimized-info.maximum-throughput-in-mbps",
	"instance-storage-info.disk.count", "instance-storage-info.disk.size-in-gb", "instance-storage-info.disk.type",
	"instance-storage-info.encryption-support", "instance-storage-info.nvme-support", "instance-storage-info.total-size-in-gb",
	"auto-recovery-supported", "burstable-performance-supported", "current-generation", "dedicated-hosts-supported",
	"free-tier-eligible", "hibernation-supported", "nitro-enclaves-support", "nitro-tpm-info.supported-versions",
	"reboot-migration-support", "supported-boot-mode", "supported-root-device-type", "supported-usage-class",
	"supported-virtualization-type",
}

// The columns of specsFile that package instancetype has as well.
const (
	columnVCPUs    = "vcpu-info.default-vcpus"
	columnMemory   = "memory-info.size-in-mib"
	columnEFAs     = "network-info.efa-info.maximum-efa-interfaces"
	columnFlexible = "network-info.network-cards.additional-flexible-network-interfaces"
)

// convert reads answers of DescribeInstanceTypes in the JSON of the AWS CLI and returns
// the content of specsFile. Several values of a column are joined with "|".
func convert(r io.Reader) ([]byte, error) {
	var in struct{ InstanceTypes []map[string]any }
	dec := json.NewDecoder(r)
	dec.UseNumber()
	if err := dec.Decode(&in); err != nil {
		return nil, err
	}
	var rows [][]string
	for _, t := range in.InstanceTypes {
		row := []string{strings.Join(find(t, []string{"instance-type"}), "|")}
		for _, column := range specColumns {
			text := strings.Join(find(t, strings.Split(column, ".")), "|")
			if column == columnFlexible && strings.Trim(text, "0|") == "" {
				text = ""
			}
			row = append(row, text)
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b []string) int { return strings.Compare(a[0], b[0]) })
	var out bytes.Buffer
	w := csv.NewWriter(&out)
	err := w.WriteAll(append([][]string{append([]string{"instance-type"}, specColumns...)}, rows...))
	return out.Bytes(), err
}

// find returns the values at a path of an answer. An element of the path names the
// member with the same letters, or the list that has the element as its singular.
func find(v any, path []string) []string {
	switch v := v.(type) {
	case []any:
		var all []string
		for _, one := range v {
			all = append(all, find(one, path)...)
		}
		return all
	case map[string]any:
		name := strings.ReplaceAll(path[0], "-", "")
		for key, inner := range v {
			if k := strings.ToLower(key); k == name || k == name+"s" || k == name+"es" {
				return find(inner, path[1:])
			}
		}
		return nil
	case json.Number:
		return []string{strings.TrimSuffix(v.String(), ".0")}
	}
	return []string{fmt.Sprint(v)}
}

// specs are the attributes of an instance type that package instancetype has.
type specs struct {
	vcpus, memory, efas int
	// flexible holds one byte for each card, and is empty if all are 0.
	flexible string
}

// readSpecs returns the attributes by instance type.
func readSpecs(data []byte) (map[string]specs, error) {
	rows, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
	if err != nil {
		return nil, err
	}
	index := map[string]int{}
	for i, name := range rows[0] {
		index[name] = i
	}
	all := map[string]specs{}
	for _, row := range rows[1:] {
		var s specs
		for column, to := range map[string]*int{columnVCPUs: &s.vcpus, columnMemory: &s.memory, columnEFAs: &s.efas} {
			text := row[index[column]]
			if text == "" {
				continue
			}
			if *to, err = strconv.Atoi(text); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", row[0], column, err)
			}
		}
		if text := row[index[columnFlexible]]; text != "" {
			for field := range strings.SplitSeq(text, "|") {
				n, err := strconv.ParseUint(field, 10, 8)
				if err != nil {
					return nil, fmt.Errorf("%s: %s: %w", row[0], columnFlexible, err)
				}
				s.flexible += string([]byte{byte(n)})
			}
		}
		all[row[0]] = s
	}
	return all, nil
}
