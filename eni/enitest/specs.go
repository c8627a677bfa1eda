// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	_ "embed"
	"fmt"
	"strings"
	"sync"
)

// instanceTypesCSV holds attributes of instance types, one type a line. Command
// limitsgen, which writes it, documents its source.
//
//go:embed instance-types.csv
var instanceTypesCSV string

// The columns of instance-types.csv that are not, or not only, filters of
// DescribeInstanceTypes.
const (
	flexibleColumn     = "network-info.network-cards.additional-flexible-network-interfaces"
	manufacturerColumn = "processor-info.manufacturer"
	storageColumn      = "instance-storage-info.total-size-in-gb"
)

// specs is the content of instance-types.csv.
type specs struct {
	columns []string
	// rows holds the values of the columns, by instance type.
	rows map[string][]string
}

// specTable returns the content of instance-types.csv. No value has a comma or a
// quote.
var specTable = sync.OnceValue(func() specs {
	head, rest, _ := strings.Cut(instanceTypesCSV, "\n")
	s := specs{columns: strings.Split(head, ",")[1:], rows: map[string][]string{}}
	for line := range strings.Lines(rest) {
		name, values, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ",")
		s.rows[name] = strings.Split(values, ",")
		if len(s.rows[name]) != len(s.columns) {
			panic(fmt.Sprintf("instance-types.csv: %s has %d values, want %d", name, len(s.rows[name]), len(s.columns)))
		}
	}
	return s
})
