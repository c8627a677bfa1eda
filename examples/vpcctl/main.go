// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
)

// command is a subcommand. A command with subcommands calls dispatch.
type command struct {
	name, doc string
	run       func(ctx context.Context, std stdio, args []string) error
}

// commands returns the subcommands.
func commands() []command {
	return []command{
		{"status", "show the agent, its pool and what it waits for at a glance", runStatus},
		{"enis", "list the ENIs of this node", runENIs},
		{"pods", "list the pods of this node with their addresses", runPods},
		{"explain", "say why a pod has its address or waits, what an ENI is for, what EC2 last said", runExplain},
		{"doctor", "check a node: findings with evidence and remedy", runDoctor},
		{"bundle", "write one archive for support, without secrets", runBundle},
		{"events", "list what the agent did and found", runEvents},
		{"pool", "simulate, plan and tune warm pool policies", pool},
		{"max-pods", "print how many pods an instance type can run", maxPods},
		{"sweep", "delete ENIs that nodes left behind", sweep},
		{"trace", "explain the way of a packet and name its faults", runTrace},
		{"policy", "show what a pod may receive and send", runPolicy},
		{"preflight", "find programs that also configure interfaces, and prevent it", preflightCheck},
		{"state", "save the network state of a node, and compare two", state},
		{"completion", "print a script for bash, zsh or fish", runCompletion},
	}
}

// stdio holds the standard input and outputs of a command.
type stdio struct {
	in       io.Reader
	out, err io.Writer
	// colour says that out is a terminal that shows colours.
	colour bool
}

// exitStatus is the part of each help about the exit status.
const exitStatus = "Exit status: 0 success, 1 failure, 2 wrong arguments, 3 a fault or a difference was found and printed."

// errUsage is the error for wrong arguments, after their description was printed.
var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, stdio{os.Stdin, os.Stdout, os.Stderr, isTerminal(os.Stdout, os.Getenv)}, os.Args[1:])
	stop()
	os.Exit(code)
}

// run runs a command line and returns the exit status: 0 for success, 1 for a
// failure, 2 for wrong arguments, 3 for a fault or a difference that was printed.
func run(ctx context.Context, std stdio, args []string) int {
	err := dispatch(ctx, std, "vpcctl", commands(), args)
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	case errors.Is(err, errFault):
		return 3
	}
	fmt.Fprintln(std.err, "vpcctl:", err)
	return 1
}

// dispatch runs the command that the first argument names.
func dispatch(ctx context.Context, std stdio, program string, commands []command, args []string) error {
	if len(args) == 0 {
		usage(std.err, program, commands)
		return errUsage
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		usage(std.out, program, commands)
		return nil
	}
	for _, c := range commands {
		if c.name == args[0] {
			return c.run(ctx, std, args[1:])
		}
	}
	fmt.Fprintf(std.err, "%s: unknown command %q\n", program, args[0])
	usage(std.err, program, commands)
	return errUsage
}

func usage(w io.Writer, program string, commands []command) {
	fmt.Fprintf(w, "Usage: %s COMMAND [flags]\n\n", program)
	out := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, c := range commands {
		fmt.Fprintf(out, "  %s\t%s\n", c.name, c.doc)
	}
	out.Flush()
	fmt.Fprintf(w, "\n%s COMMAND -h describes the flags of a command, each as -flag or --flag.\n%s\n", program, exitStatus)
}

// parse parses the flags of a command that takes no other arguments.
func parse(fs *flag.FlagSet, std stdio, args []string, about string) error {
	rest, err := parseMixed(fs, std, args, about, "")
	if err == nil && len(rest) > 0 {
		err = wrong(fs, std, fmt.Sprintf("unexpected argument %q", rest[0]))
	}
	return err
}

// parseMixed parses flags before, between and after arguments, and returns the
// arguments. It prints requested help to standard output.
func parseMixed(fs *flag.FlagSet, std stdio, args []string, about, arguments string) ([]string, error) {
	fs.SetOutput(io.Discard) // wrong prints errors, without the list of all flags
	fs.Usage = func() {}
	var rest []string
	for {
		err := fs.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			fs.SetOutput(std.out)
			fmt.Fprintf(std.out, "%s\n\nUsage: %s\n\n", about, strings.TrimSpace("vpcctl "+fs.Name()+" [flags] "+arguments))
			fs.PrintDefaults()
			fmt.Fprintf(std.out, "\n%s\n", exitStatus)
			return nil, err
		}
		if err != nil {
			return nil, wrong(fs, std, err.Error())
		}
		if fs.NArg() == 0 {
			return rest, nil
		}
		rest, args = append(rest, fs.Arg(0)), fs.Args()[1:]
	}
}

// wrong prints an error in the arguments and returns errUsage.
func wrong(fs *flag.FlagSet, std stdio, what string) error {
	fmt.Fprintf(std.err, "vpcctl %s: %s\n(vpcctl %s -h describes the flags)\n", fs.Name(), what, fs.Name())
	return errUsage
}
