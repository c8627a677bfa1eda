// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/csv"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestGenerated checks that the committed files are what go generate writes. It fails
// after an update of the SDK that adds instance types; go generate then lists them as
// unknown.
func TestGenerated(t *testing.T) {
	rows, err := read(data)
	if err != nil {
		t.Fatal(err)
	}
	known, err := os.ReadFile("../../instancetype/" + specsFile)
	if err != nil {
		t.Fatal(err)
	}
	attributes, err := readSpecs(known)
	if err != nil {
		t.Fatal(err)
	}
	table, err := generate(rows, attributes)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]byte{
		"../../instancetype/" + tableFile: table,
		"unknown.txt":                     unknown(compare(rows, sdkTypes()).unknown),
	} {
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(got), "\n")); diff != "" {
			t.Errorf("%s is out of date, run go generate in eni/instancetype (-want +got):\n%s", path, diff)
		}
	}
}

func TestCompare(t *testing.T) {
	rows, err := read([]byte(`instance_type,max_enis_default_card,ipv4_per_eni,hypervisor,bare_metal,default_card,enis_by_card,trunk_capable,max_branch_enis
b1.large,2,4,nitro,false,0,0:2,,
a1.large,3,10,nitro,false,0,0:3,true,9
`))
	if err != nil {
		t.Fatal(err)
	}
	got := compare(rows, []string{"c1.small", "b1.large", "b1.nano"})
	want := comparison{unknown: []string{"b1.nano", "c1.small"}, notInSDK: []string{"a1.large"}, noTrunk: []string{"b1.large"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(comparison{})); diff != "" {
		t.Errorf("comparison (-want +got):\n%s", diff)
	}
	var out bytes.Buffer
	got.print(&out)
	if diff := cmp.Diff(`2 instance types of the SDK that the table lacks, because no source has their limits:
	b1.nano
	c1.small
1 instance types of the table that the SDK lacks:
	a1.large
1 instance types of the table whose trunk and branch limits no source has:
	b1.large
`, out.String()); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

// TestConvert converts an answer with a number, a list, an absent attribute and the
// attributes of two network cards.
func TestConvert(t *testing.T) {
	out, err := convert(strings.NewReader(`{"InstanceTypes": [{
		"InstanceType": "b1.large", "VCpuInfo": {"DefaultVCpus": 2}, "MemoryInfo": {"SizeInMiB": 4096},
		"ProcessorInfo": {"SustainedClockSpeedInGhz": 3.0, "SupportedArchitectures": ["i386", "x86_64"]},
		"NetworkInfo": {"EfaInfo": {"MaximumEfaInterfaces": 1}, "NetworkCards": [
			{"AdditionalFlexibleNetworkInterfaces": 0}, {"AdditionalFlexibleNetworkInterfaces": 4}]},
		"SupportedUsageClasses": ["spot"], "FreeTierEligible": false
	}, {"InstanceType": "a1.large"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(bytes.NewReader(out)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for i, name := range rows[0] {
		if rows[2][i] != "" {
			got[name] = rows[2][i]
		}
	}
	want := map[string]string{
		"instance-type": "b1.large", columnVCPUs: "2", columnMemory: "4096", columnEFAs: "1", columnFlexible: "0|4",
		"processor-info.sustained-clock-speed-in-ghz": "3", "processor-info.supported-architecture": "i386|x86_64",
		"supported-usage-class": "spot", "free-tier-eligible": "false",
	}
	if diff := cmp.Diff(want, got); diff != "" || rows[1][0] != "a1.large" {
		t.Errorf("first row %q, second row (-want +got):\n%s", rows[1], diff)
	}
	all, err := readSpecs(out)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]specs{"a1.large": {}, "b1.large": {2, 4096, 1, "\x00\x04"}}, all, cmp.AllowUnexported(specs{})); diff != "" {
		t.Errorf("specs (-want +got):\n%s", diff)
	}
}

func TestGenerateRefuses(t *testing.T) {
	for cards, want := range map[string]string{
		"1:4":   `b1.large: cards "1:4" are not numbered from 0`,
		"0:300": `b1.large: strconv.ParseUint: parsing "300": value out of range`,
	} {
		_, err := generate([][]string{{"b1.large", "2", "4", "nitro", "false", "0", cards, "", ""}}, nil)
		if err == nil || err.Error() != want {
			t.Errorf("%s: error %v, want %s", cards, err, want)
		}
	}
}
