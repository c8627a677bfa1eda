// SPDX-License-Identifier: Apache-2.0

package vpcnet_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// maxPersons is how many of the words of persons may stand in 1,000 lines of
// comments, and in 1,000 lines of Markdown.
const maxPersons = 2

var (
	// persons are the words that hide which part of the system acts. A comment
	// names the actor instead: the caller, the agent, the kernel.
	persons = regexp.MustCompile(`(?i)\b(who|whoever|whose|somebody|nobody|anybody)\b`)

	// errorForms are the forms of error texts that English writes otherwise:
	// "is not a prefix", "another program's rule", "5 bytes, want 6".
	errorForms = regexp.MustCompile(`\b(is|are|was) no [a-z"%]|\bof ours\b|\bof not\b`)

	// existence says that something does not exist, which is English. EC2 uses it.
	existence = regexp.MustCompile(`(?i)\bthere (is|are|was) no\b`)

	// riddles are the beginnings of comments whose subject comes last.
	riddles = regexp.MustCompile(`^(What|Of|Whoever)\b`)
)

// TestVoice holds the tree to plain technical English, as far as a program can
// tell: comments and documents name the actor, error texts say "is not a", and
// comments begin with their subject.
func TestVoice(t *testing.T) {
	comments, documents := tally{unit: "lines of comments"}, tally{unit: "lines of Markdown"}
	for name, data := range texts(t) {
		if path.Ext(name) == ".md" {
			documents.add(name, string(data))
			continue
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, data, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, group := range file.Comments {
			for _, c := range group.List {
				comments.add(fset.Position(c.Pos()).String(), c.Text)
			}
			if text := group.Text(); riddles.MatchString(text) {
				first, _, _ := strings.Cut(text, "\n")
				t.Errorf("%s: the comment does not begin with its subject: %s", fset.Position(group.Pos()), first)
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			text = existence.ReplaceAllString(text, "")
			if err == nil && errorForms.MatchString(text) {
				t.Errorf("%s: %q: say what is wrong and what is right", fset.Position(lit.Pos()), errorForms.FindString(text))
			}
			return true
		})
	}
	comments.check(t)
	documents.check(t)
}

// tally counts lines, and the words of persons in them.
type tally struct {
	unit  string
	lines int
	found []string
}

func (c *tally) add(where, text string) {
	for line := range strings.Lines(text) {
		c.lines++
		for range persons.FindAllString(line, -1) {
			c.found = append(c.found, where+": "+strings.TrimSpace(line))
		}
	}
}

func (c *tally) check(t *testing.T) {
	t.Helper()
	rate := 1000 * float64(len(c.found)) / float64(max(c.lines, 1))
	t.Logf("%d words of persons in %d %s: %.1f in 1,000", len(c.found), c.lines, c.unit, rate)
	if c.lines == 0 || rate > maxPersons {
		t.Errorf("want at most %d in 1,000 %s; name the actor in:\n%s", maxPersons, c.unit, strings.Join(c.found, "\n"))
	}
}

// texts returns the Go and Markdown files of the tree by path.
func texts(t *testing.T) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == ".git"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, ".md"):
			return nil
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		// The patterns of this file are what it looks for.
		if !bytes.Contains(data, []byte("Code generated")) && name != "voice_test.go" {
			all[filepath.ToSlash(name)] = data
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
