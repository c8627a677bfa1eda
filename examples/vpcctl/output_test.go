// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// TestOutput prints the same value in all formats.
func TestOutput(t *testing.T) {
	value := map[string]any{
		"name": "eni-1", "mac": "06:00", "empty": "", "number": 3.0, "yes": "true", "list": []any{"a", "b: c"}, "none": []any{},
		"time": "2026-01-02T03:04:05Z", "nested": map[string]any{"deep": nil},
	}
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	o := output{format: formatYAML}
	if err := o.print(&out, json.RawMessage(text), nil); err != nil {
		t.Fatal(err)
	}
	var back map[string]any
	if err := yaml.Unmarshal([]byte(out.String()), &back); err != nil {
		t.Fatal(err)
	}
	for name, want := range value {
		if n, ok := back[name].(int); ok {
			back[name] = float64(n)
		}
		if !reflect.DeepEqual(back[name], want) {
			t.Errorf("%s: %#v in YAML, want %#v", name, back[name], want)
		}
	}
	if strings.ContainsAny(out.String(), "{}") {
		t.Errorf("YAML in the style of JSON:\n%s", out.String())
	}
}

func TestTable(t *testing.T) {
	for format, want := range map[string]string{
		formatTable: "ENI    READY\neni-1  no\ne      yes\n",
		formatWide:  "ENI    MAC  READY\neni-1  06   no\ne      -    yes\n",
	} {
		tbl := newTable("ENI", "+MAC", "READY")
		tbl.add("eni-1", "06", red+"no"+plain)
		tbl.add("e", "", "yes")
		var out strings.Builder
		tbl.print(&out, format)
		got := strings.NewReplacer(red, "", plain, "").Replace(out.String())
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", format, diff)
		}
	}
}

// TestFlagForms gives the same flag with one hyphen and with two, and wants the exit statuses
// in each help.
func TestFlagForms(t *testing.T) {
	for _, form := range []string{"-o", "--o"} {
		code, out, stderr := vpcctl(t, "max-pods", form, "yaml", form[1:]+"instance-type=m5.large")
		if code != 2 || out != "" {
			t.Errorf("%s without a hyphen: exit %d, %s%s", form, code, out, stderr)
		}
		code, out, stderr = vpcctl(t, "max-pods", form, "yaml", form[:len(form)-1]+"instance-type=m5.large")
		if code != 0 || !strings.Contains(out, "\nmaxPods: 29\n") {
			t.Errorf("%s: exit %d, %s%s", form, code, out, stderr)
		}
	}
	for _, args := range [][]string{{"-help"}, {"--help"}, {"trace", "-h"}, {"state", "--help"}, {"state", "save", "--help"}} {
		if code, out, _ := vpcctl(t, args...); code != 0 || !strings.Contains(out, exitStatus) {
			t.Errorf("%v: exit %d, want the exit statuses in:\n%s", args, code, out)
		}
	}
}

// TestColour wants colours on a terminal alone.
func TestColour(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	getenv := func(string) string { return "xterm" }
	if isTerminal(file, getenv) {
		t.Error("a file counts as a terminal")
	}
	if got := (stdio{}).paint(red, "no"); got != "no" {
		t.Errorf("%q in a pipe", got)
	}
	if got := (stdio{colour: true}).paint(red, "no"); got != red+"no"+plain {
		t.Errorf("%q on a terminal", got)
	}
}
