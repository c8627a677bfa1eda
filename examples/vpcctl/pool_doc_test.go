// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/csv"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// docTables lists the commands of docs/warm-pool.md that have a table, and the CSV
// columns in the table for each trace.
var docTables = []struct {
	command string
	columns []string
}{
	{"pool sim -policy band -policy presets -shape churn,rollout,cron,diurnal", []string{"wait p99 s", "EC2 calls", "idle addr-h"}},
	{"pool sim -policy band -policy presets -shape restart -nodes 500 -for 4h",
		[]string{"wait p99 s", "wait max s", "EC2 calls", "throttled", "unserved"}},
	{"pool sim -shape diurnal -nodes 100 -subnet 4096 -policy band -policy aws:WARM_ENI_TARGET=1 -policy cilium -policy azure-v1",
		[]string{"subnet high", "wait max s", "idle addr-h"}},
	{"pool sim -prefix -policy band -policy band:low=-1 -policy presets -shape churn,cron,diurnal", []string{"wait p99 s", "EC2 calls", "idle addr-h"}},
}

const docPage, docPictures = "../../docs/warm-pool.md", "../../docs/warm-pool"

// TestWarmPoolPage runs the commands of docs/warm-pool.md and compares their results
// with the tables and pictures of the page.
func TestWarmPoolPage(t *testing.T) {
	if testing.Short() {
		t.Skip("simulates half a year")
	}
	page, err := os.ReadFile(docPage)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for i, table := range docTables {
		_, rest, found := strings.Cut(string(page), "vpcctl "+table.command)
		if !found {
			t.Fatalf("the page has no command %q", table.command)
		}
		args := append(strings.Fields(table.command), "-o", "csv")
		if i == 0 {
			args = append(args, "-svg", dir)
		}
		code, out, stderr := piped(t, "", args...)
		if code != 0 {
			t.Fatalf("%s: exit status %d: %s", table.command, code, stderr)
		}
		compareTable(t, rest, tableNumbers(t, out, table.columns))
	}
	comparePictures(t, dir)
}

// tableNumbers returns the columns by policy, one trace after another.
func tableNumbers(t *testing.T, out string, columns []string) map[string][]string {
	t.Helper()
	lines, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	numbers := map[string][]string{}
	for _, line := range lines[1:] {
		for _, c := range columns {
			numbers[line[0]] = append(numbers[line[0]], line[slices.Index(lines[0], c)])
		}
	}
	return numbers
}

// compareTable compares the rows of the first table in the text. The table may omit
// policies.
func compareTable(t *testing.T, text string, numbers map[string][]string) {
	t.Helper()
	rows := 0
	for line := range strings.SplitSeq(text[strings.Index(text, "\n| ")+1:], "\n") {
		if line == "" {
			break // the end of the table
		}
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		label := slices.IndexFunc(cells, func(c string) bool { return strings.HasPrefix(c, "`") })
		if label < 0 {
			continue // the header
		}
		rows++
		compareRow(t, line, cells[label+1:], numbers[strings.Trim(cells[label], "`")])
	}
	if rows < 4 {
		t.Errorf("%d rows, want at least 4", rows)
	}
}

// compareRow compares the cells of a row after rounding as on the page.
func compareRow(t *testing.T, line string, cells, want []string) {
	t.Helper()
	var got []string
	for _, c := range cells {
		c = strings.NewReplacer("*", "", ",", "").Replace(c)
		got = append(got, strings.Split(c, " / ")...)
	}
	if len(got) != len(want) {
		t.Errorf("%s\nhas %d numbers, want %d: %v", line, len(got), len(want), want)
		return
	}
	for i, w := range want {
		_, decimals, _ := strings.Cut(got[i], ".")
		v, err := strconv.ParseFloat(w, 64)
		if err != nil {
			t.Fatal(err)
		}
		if s := strconv.FormatFloat(v, 'f', len(decimals), 64); s != got[i] {
			t.Errorf("%s\nhas %s, want %s", line, got[i], s)
		}
	}
}

// comparePictures compares the pictures of the page with those in drawn.
func comparePictures(t *testing.T, drawn string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(docPictures, "*.svg"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d pictures, error %v", len(files), err)
	}
	for _, f := range files {
		old, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if now, err := os.ReadFile(filepath.Join(drawn, filepath.Base(f))); err != nil || !bytes.Equal(old, now) {
			t.Errorf("%s differs from the output of `vpcctl pool sim -svg`; error %v", f, err)
		}
	}
}
