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
	"strings"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/datapath/policy"
	"github.com/vpcnet/vpcnet/datapath/trace"
)

var stateCommands = []command{
	{"save", "write this node's network state to standard output", stateSave},
	{"diff", "print the commands that change one saved state into another, or into this node's", stateDiff},
}

// state runs "vpcctl state".
func state(ctx context.Context, std stdio, args []string) error {
	return dispatch(ctx, std, "vpcctl state", stateCommands, args)
}

func stateSave(ctx context.Context, std stdio, args []string) error {
	fs := flag.NewFlagSet("state save", flag.ContinueOnError)
	var w where
	w.register(fs)
	out := outputFlag(fs, formatJSON, formatYAML, formatText)
	about := "save writes the links, addresses, neighbours, routes, rules, settings and marks of\nthis node, and with -agent the data of the agent. diff and trace read JSON; text is a\nscript of ip and nft commands."
	if err := parse(fs, std, args, about); err != nil {
		return err
	}
	s, err := w.read(ctx, "")
	if err != nil {
		return err
	}
	return out.print(std.out, s, func() { fmt.Fprint(std.out, s.Node) })
}

func stateDiff(ctx context.Context, std stdio, args []string) error {
	fs := flag.NewFlagSet("state diff", flag.ContinueOnError)
	var w where
	w.register(fs)
	about := "diff prints the ip and nft commands that change the state in file FROM into the\nstate in file TO, or into the state of this node without TO. It then prints the\ncommands for the sandbox, and the differences in source translation and in other\nprograms' chains. Exit status 3 means that the states differ."
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

// differences prints the differences between two views and reports whether there are
// any. The commands for the node come first, without a title.
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
	part("egress of the other family", changedLines(egressLines(from.Egress), egressLines(to.Egress)))
	part("network policies", policyLines(from.Policies, to.Policies))
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

// changedLines returns the lines that only one of the lists has, with a sign.
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

// policyLines returns the commands of nft that lead from one set of policies to the other.
func policyLines(from, to *trace.Policies) []string {
	switch {
	case from == nil && to == nil:
		return nil
	case from == nil:
		return []string{"+ the table inet vpcnet-policy"}
	case to == nil:
		return []string{"- the table inet vpcnet-policy"}
	}
	return slices.DeleteFunc(strings.Split(policy.Diff(from.State, to.State), "\n"), func(line string) bool { return line == "" })
}

func egressLines(pods []trace.Egress) (lines []string) {
	for _, e := range pods {
		lines = append(lines, fmt.Sprintf("packets of pod %s get the source %s, in table inet %s", e.Pod, e.Node, e.Table))
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

// load reads a file written by "state save".
func load(file string) (saved, error) {
	var s saved
	b, err := os.ReadFile(file)
	if err != nil {
		return s, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, fmt.Errorf("%s is not a saved state: %w", file, err)
	}
	if len(s.Node.Links) == 0 {
		return s, errors.New(file + " is not a saved state: it has no links")
	}
	return s, nil
}
