// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/datapath/trace"
)

var stateCommands = []command{
	{"save", "write this node's network state to standard output", stateSave},
	{"diff", "show what leads from one saved state to another, or to this node's", stateDiff},
}

// state runs "vpcctl state".
func state(ctx context.Context, std stdio, args []string) error {
	return dispatch(ctx, std, "vpcctl state", stateCommands, args)
}

func stateSave(ctx context.Context, std stdio, args []string) error {
	fs := flag.NewFlagSet("state save", flag.ContinueOnError)
	var w where
	w.register(fs)
	format := fs.String("o", "json", "output `format`: json, for diff and trace, or text, a script of ip and nft commands")
	about := "save writes the links, addresses, neighbours, routes, rules, settings and marks of\nthis node, as they are, with what the agent knows."
	if err := parse(fs, std, args, about); err != nil {
		return err
	}
	s, err := w.observe(ctx)
	if err != nil {
		return err
	}
	switch *format {
	case "json":
		enc := json.NewEncoder(std.out)
		enc.SetIndent("", " ")
		return enc.Encode(s)
	case "text":
		fmt.Fprint(std.out, s.Node)
		return nil
	}
	return wrong(fs, std, fmt.Sprintf("-o %q is neither json nor text", *format))
}

func stateDiff(ctx context.Context, std stdio, args []string) error {
	fs := flag.NewFlagSet("state diff", flag.ContinueOnError)
	var w where
	w.register(fs)
	about := "diff prints the ip and nft commands that lead from the state in file FROM to that\nin file TO; without TO, to this node's; then those of the sandbox, and how the\ntranslation of sources and other programs' chains differ. Exit status 3 means that\nthey differ."
	pos, err := parseMixed(fs, std, args, about, "FROM [TO]")
	if err != nil {
		return err
	}
	if len(pos) < 1 || len(pos) > 2 {
		return wrong(fs, std, "want one or two files")
	}
	from, err := load(pos[0])
	if err != nil {
		return err
	}
	second := ""
	if len(pos) == 2 {
		second = pos[1]
	}
	to, err := w.read(ctx, second)
	if err != nil {
		return err
	}
	if differences(std.out, from.View, to.View) {
		return errFault
	}
	return nil
}

// differences prints what leads from one view to another, part by part, and
// reports whether there is anything. The node's part stands first, as it is.
func differences(out io.Writer, from, to trace.View) bool {
	found := false
	part := func(title string, lines []string) {
		if found = found || len(lines) > 0; len(lines) > 0 && title != "" {
			fmt.Fprintln(out, "# "+title)
		}
		for _, line := range lines {
			fmt.Fprintln(out, line)
		}
	}
	part("", steps(from.Node, to.Node))
	switch {
	case from.Sandbox != nil && to.Sandbox != nil:
		part("in the sandbox", steps(*from.Sandbox, *to.Sandbox))
	case from.Sandbox != nil || to.Sandbox != nil:
		fmt.Fprintln(out, "# the sandbox is not compared: only one of the two states has it")
	}
	part("the translation of sources", changedLines(translationLines(from.Translation), translationLines(to.Translation)))
	part("other programs' chains", changedLines(chainLines(from.Filters), chainLines(to.Filters)))
	return found
}

func steps(from, to netstate.State) []string {
	var lines []string
	for _, c := range netstate.Diff(from, to) {
		lines = append(lines, c.String())
	}
	return lines
}

// changedLines returns the lines that only one has, with a sign before them.
func changedLines(from, to []string) []string {
	var lines []string
	for _, l := range from {
		if !slices.Contains(to, l) {
			lines = append(lines, "- "+l)
		}
	}
	for _, l := range to {
		if !slices.Contains(from, l) {
			lines = append(lines, "+ "+l)
		}
	}
	return lines
}

func translationLines(t *trace.Translation) []string {
	if t == nil {
		return nil
	}
	var lines []string
	if t.To.IsValid() {
		lines = append(lines, fmt.Sprintf("packets that leave by %s get the source %s", t.Link, t.To))
	}
	if t.Mark != 0 {
		lines = append(lines, fmt.Sprintf("packets from %s* get the mark %#x", t.HostLinkPrefix, t.Mark))
	}
	for _, p := range t.Inside {
		lines = append(lines, fmt.Sprintf("not to %s", p))
	}
	return append(lines, t.Odd...)
}

func chainLines(chains []trace.OtherChain) []string {
	var lines []string
	for _, c := range chains {
		lines = append(lines, c.String())
	}
	return lines
}

// load reads what "state save" wrote.
func load(file string) (saved, error) {
	var s saved
	b, err := os.ReadFile(file)
	if err != nil {
		return s, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, fmt.Errorf("%s is no saved state: %w", file, err)
	}
	if len(s.Node.Links) == 0 {
		return s, errors.New(file + " is no saved state: it has no links")
	}
	return s, nil
}
