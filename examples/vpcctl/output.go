// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// The output formats. Text and the tables are for people.
const (
	formatText  = "text"
	formatTable = "table"
	formatWide  = "wide"
	formatJSON  = "json"
	formatYAML  = "yaml"
)

// output is the flag -o.
type output struct {
	format  string
	formats []string
}

// outputFlag registers -o. The first format is the default.
func outputFlag(fs *flag.FlagSet, formats ...string) *output {
	o := &output{format: formats[0], formats: formats}
	fs.Var(o, "o", "output `format`: "+o.list())
	return o
}

// list returns the formats as an English list.
func (o *output) list() string {
	last := len(o.formats) - 1
	return strings.Join(o.formats[:last], ", ") + " or " + o.formats[last]
}

// Set implements flag.Value.
func (o *output) Set(s string) error {
	if !slices.Contains(o.formats, s) {
		return fmt.Errorf("want %s", o.list())
	}
	o.format = s
	return nil
}

// String implements flag.Value.
func (o *output) String() string { return o.format }

// print writes v as JSON or YAML, or calls people.
func (o *output) print(w io.Writer, v any, people func()) error {
	switch o.format {
	case formatJSON:
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case formatYAML:
		return writeYAML(w, v)
	}
	people()
	return nil
}

// writeYAML writes v as YAML with the fields that its JSON has, in the same order.
func writeYAML(w io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var doc yaml.Node // JSON is YAML
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return err
	}
	blockStyle(&doc)
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return err
	}
	return enc.Close()
}

// blockStyle removes the braces, brackets and quotes of JSON. The encoder quotes the
// strings that need it.
func blockStyle(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		blockStyle(c)
	}
}

// table is a table for people. Columns with wide set are in the format wide only.
type table struct {
	columns []column
	rows    [][]string
}

type column struct {
	name string
	wide bool
}

// newTable returns a table. The names of columns that only the format wide has begin with "+".
func newTable(names ...string) *table {
	t := &table{}
	for _, n := range names {
		name, wide := strings.CutPrefix(n, "+")
		t.columns = append(t.columns, column{name, wide})
	}
	return t
}

// add adds a row. Empty cells are shown as "-".
func (t *table) add(cells ...any) {
	row := make([]string, len(t.columns))
	for i := range row {
		if row[i] = fmt.Sprint(cells[i]); row[i] == "" {
			row[i] = "-"
		}
	}
	t.rows = append(t.rows, row)
}

// print writes the table with aligned columns.
func (t *table) print(w io.Writer, format string) {
	var shown []int
	for i, c := range t.columns {
		if !c.wide || format == formatWide {
			shown = append(shown, i)
		}
	}
	header := make([]string, len(t.columns))
	for i, c := range t.columns {
		header[i] = c.name
	}
	all := append([][]string{header}, t.rows...)
	width := make([]int, len(t.columns))
	for _, row := range all {
		for i, cell := range row {
			width[i] = max(width[i], visible(cell))
		}
	}
	for _, row := range all {
		var line strings.Builder
		for _, i := range shown {
			line.WriteString(row[i] + strings.Repeat(" ", width[i]-visible(row[i])+2))
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

// The colours of a terminal, as in ECMA-48.
const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	bold   = "\x1b[1m"
	plain  = "\x1b[0m"
)

// visible returns how many columns of a terminal a cell needs.
func visible(s string) int {
	for _, c := range []string{red, green, yellow, bold, plain} {
		s = strings.ReplaceAll(s, c, "")
	}
	return utf8.RuneCountInString(s)
}

// paint colours a text if the output is a terminal.
func (s stdio) paint(colour, text string) string {
	if !s.colour || text == "" {
		return text
	}
	return colour + text + plain
}

// isTerminal reports whether a file is a terminal that shows colours. NO_COLOR switches
// them off, see https://no-color.org.
func isTerminal(f *os.File, getenv func(string) string) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && getenv("NO_COLOR") == "" && getenv("TERM") != "" && getenv("TERM") != "dumb"
}
