// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/vpcnet/vpcnet/datapath"
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
	about := "diff prints the ip and nft commands that lead from the state in file FROM to that\nin file TO; without TO, to this node's. Exit status 3 means that they differ."
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
	changes := datapath.Diff(from.Node, to.Node)
	for _, c := range changes {
		fmt.Fprintln(std.out, c)
	}
	if len(changes) > 0 {
		return errFault
	}
	return nil
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
