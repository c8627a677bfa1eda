// SPDX-License-Identifier: Apache-2.0

// Command limitsgen generates the table of package instancetype from
// instance-limits.csv. The limits come from
// github.com/aws/amazon-vpc-resource-controller-k8s, pkg/aws/vpc/limits.go
// (Apache-2.0), combined with the table of github.com/aws/amazon-vpc-cni-k8s.
//
// It also compares the data with the instance types that the AWS SDK names. It lists
// types without limits as unknown, and never derives limits from other
// sizes of a family. Without flags, which is how go generate runs it in the directory
// of package instancetype, it writes table.go and, beside its own source, unknown.txt.
// With -missing it writes nothing and prints the comparison:
//
//	go run ./eni/internal/limitsgen -missing
//
// The vCPUs, the memory and the EFAs come from instance-types.csv of package enitest,
// which holds answers of DescribeInstanceTypes as github.com/getmoto/moto
// (Apache-2.0, release 5.2.1) publishes them in
// moto/ec2/resources/instance_types.json.gz. With -specs it writes that file from the
// output of the AWS CLI, so that an AWS account can bring it up to date:
//
//	aws ec2 describe-instance-types >types.json
//	cd eni/instancetype && go run ../internal/limitsgen -specs types.json && go generate
package main

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/csv"
	"flag"
	"fmt"
	"go/format"
	"io"
	"log"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

//go:embed instance-limits.csv
var data []byte

// The columns of instance-limits.csv.
const (
	columnType = iota
	columnENIs
	columnAddrs
	columnHypervisor
	columnBareMetal
	columnDefaultCard
	columnCards
	columnTrunk
	columnBranches
)

// The files that go generate writes, relative to the directory of package
// instancetype.
const (
	tableFile   = "table.go"
	unknownFile = "../internal/limitsgen/unknown.txt"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("limitsgen: ")
	missing := flag.Bool("missing", false, "print which instance types the SDK or the table lacks, and write nothing")
	source := flag.String("specs", "", "write instance-types.csv from this `file`, the output of aws ec2 describe-instance-types")
	flag.Parse()
	if *source != "" {
		if err := writeSpecs(*source); err != nil {
			log.Fatal(err)
		}
		return
	}
	rows, err := read(data)
	if err != nil {
		log.Fatal(err)
	}
	if *missing {
		compare(rows, sdkTypes()).print(os.Stdout)
		return
	}
	known, err := os.ReadFile(specsFile)
	if err != nil {
		log.Fatal(err)
	}
	attributes, err := readSpecs(known)
	if err != nil {
		log.Fatal(err)
	}
	out, err := generate(rows, attributes)
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(tableFile, out, 0o644); err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(unknownFile, unknown(compare(rows, sdkTypes()).unknown), 0o644); err != nil {
		log.Fatal(err)
	}
}

func writeSpecs(source string) error {
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	out, err := convert(f)
	if err != nil {
		return err
	}
	return os.WriteFile(specsFile, out, 0o644)
}

// read returns the rows of the data without the header, sorted by type.
func read(data []byte) ([][]string, error) {
	rows, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
	if err != nil {
		return nil, err
	}
	rows = rows[1:]
	slices.SortFunc(rows, func(a, b []string) int { return strings.Compare(a[columnType], b[columnType]) })
	return rows, nil
}

// sdkTypes returns the instance types that the AWS SDK names.
func sdkTypes() []string {
	var names []string
	for _, t := range types.InstanceType("").Values() {
		names = append(names, string(t))
	}
	return names
}

// comparison is the difference between the data and the types of the SDK. The lists
// are sorted.
type comparison struct {
	unknown  []string // types of the SDK without limits in the data
	notInSDK []string // types of the data that the SDK does not name
	noTrunk  []string // types of the data whose trunk and branch limits are unknown
}

func compare(rows [][]string, sdk []string) comparison {
	var c comparison
	known := map[string]bool{}
	for _, row := range rows {
		name := row[columnType]
		known[name] = true
		if !slices.Contains(sdk, name) {
			c.notInSDK = append(c.notInSDK, name)
		}
		if row[columnTrunk] == "" {
			c.noTrunk = append(c.noTrunk, name)
		}
	}
	for _, name := range sdk {
		if !known[name] {
			c.unknown = append(c.unknown, name)
		}
	}
	slices.Sort(c.unknown)
	return c
}

func (c comparison) print(w io.Writer) {
	for _, l := range []struct {
		title string
		types []string
	}{
		{"instance types of the SDK that the table lacks, because no source has their limits", c.unknown},
		{"instance types of the table that the SDK lacks", c.notInSDK},
		{"instance types of the table whose trunk and branch limits no source has", c.noTrunk},
	} {
		fmt.Fprintf(w, "%d %s:\n", len(l.types), l.title)
		for _, name := range l.types {
			fmt.Fprintf(w, "\t%s\n", name)
		}
	}
}

// unknown returns the content of unknown.txt.
func unknown(names []string) []byte {
	var out bytes.Buffer
	out.WriteString("# Instance types that the AWS SDK names and no source has limits for.\n# Generated by go generate in eni/instancetype; DO NOT EDIT.\n")
	for _, name := range names {
		fmt.Fprintln(&out, name)
	}
	return out.Bytes()
}

// generate returns the source of the table: each distinct profile once, and the types
// with their profiles.
func generate(rows [][]string, attributes map[string]specs) ([]byte, error) {
	var types, profiles bytes.Buffer
	seen := map[string]int{}
	for _, row := range rows {
		a, known := attributes[row[columnType]]
		p, err := profile(row, a, known)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", row[columnType], err)
		}
		n, ok := seen[p]
		if !ok {
			n = len(seen)
			seen[p] = n
			fmt.Fprintf(&profiles, "%s,\n", p)
		}
		fmt.Fprintf(&types, "{%q, %d, %d, %d},\n", row[columnType], n, a.vcpus, a.memory)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "// SPDX-License-Identifier: Apache-2.0\n\n")
	fmt.Fprintf(&out, "// Code generated by limitsgen from instance-limits.csv and instance-types.csv; DO NOT EDIT.\n\npackage instancetype\n\n")
	fmt.Fprintf(&out, "// profiles holds each distinct set of limits once.\nvar profiles = [...]profile{\n%s}\n\n", &profiles)
	fmt.Fprintf(&out, "// typeRows holds the profile of each instance type, sorted by name.\nvar typeRows = [...]typeRow{\n%s}\n", &types)
	return format.Source(out.Bytes())
}

// profile returns one row as a composite literal. The columns of trunk ENIs are empty
// if the source lacks the type, and known is false if no source has its attributes.
func profile(row []string, a specs, known bool) (string, error) {
	cards, err := cards(row[columnCards])
	if err != nil {
		return "", err
	}
	bare := row[columnBareMetal] == "true"
	nitro := row[columnHypervisor] == "nitro" || bare
	trunkKnown, trunk := row[columnTrunk] != "", row[columnTrunk] == "true"
	branches := cmp.Or(row[columnBranches], "0")
	return fmt.Sprintf("{perENI: %s, nitro: %t, bareMetal: %t, defaultCard: %s, cards: %q, trunkKnown: %t, trunk: %t, branches: %s, "+
		"efaKnown: %t, efas: %d, flexible: %q}",
		row[columnAddrs], nitro, bare, row[columnDefaultCard], cards, trunkKnown, trunk, branches, known, a.efas, a.flexible), nil
}

// cards converts "0:4 1:4" to one byte for each card, so that the table stays
// small.
func cards(s string) (string, error) {
	var out []byte
	for n, field := range strings.Fields(s) {
		card, enis, _ := strings.Cut(field, ":")
		if card != strconv.Itoa(n) {
			return "", fmt.Errorf("cards %q are not numbered from 0", s)
		}
		limit, err := strconv.ParseUint(enis, 10, 8)
		if err != nil {
			return "", err
		}
		out = append(out, byte(limit))
	}
	return string(out), nil
}
