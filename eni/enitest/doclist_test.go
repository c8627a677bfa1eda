// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"flag"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the generated part of doc.go")

// docList returns the generated part of the package documentation: the actions and
// the metadata keys, in lines of at most 80 characters.
func docList() string {
	var b strings.Builder
	section := func(title, intro string, names []string) {
		b.WriteString("//\n// # " + title + "\n//\n")
		line := "//"
		words := append(strings.Fields(intro), strings.Fields(strings.Join(names, ", ")+".")...)
		for _, word := range words {
			if len(line)+1+len(word) > 82 {
				b.WriteString(line + "\n")
				line = "//"
			}
			line += " " + word
		}
		b.WriteString(line + "\n")
	}
	section("Actions", "These are the actions of EC2, and GetCallerIdentity of the Security Token Service:",
		slices.Sorted(maps.Keys(actions())))
	var keys []string
	for path := range instanceKeys {
		keys = append(keys, path)
	}
	keys = append(keys, tagsDir+"KEY")
	slices.Sort(keys)
	section("Metadata keys", "These are the keys of an instance, below /latest/ and below each dated version:", keys)
	names := append(slices.Collect(maps.Keys(eniKeys)), associationsDir+"/ADDRESS")
	slices.Sort(names)
	section("Metadata keys of an ENI", "These are the keys below "+macsDir+"MAC/ of an attached ENI:", names)
	return b.String()
}

// TestDocList checks that the package documentation lists all actions and metadata
// keys. With -update it rewrites the list.
func TestDocList(t *testing.T) {
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	before, _, found := strings.Cut(string(text), "//\n// # Actions\n")
	if !found {
		before = strings.TrimSuffix(string(text), "package enitest\n")
	}
	want := before + docList() + "package enitest\n"
	if string(text) == want {
		return
	}
	if !*update {
		t.Fatal("doc.go does not list the actions and keys as they are; run go test -run TestDocList -update")
	}
	if err := os.WriteFile("doc.go", []byte(want), 0o644); err != nil { //nolint:gosec // a source file
		t.Fatal(err)
	}
}
