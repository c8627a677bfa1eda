// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/preflight"
)

// preflightReport is the output of "vpcctl preflight -o json".
type preflightReport struct {
	// Keep names the links that the system configures.
	Keep     []string            `json:"keep"`
	Written  []string            `json:"written"`
	Findings []preflight.Finding `json:"findings"`
}

// preflightCheck runs "vpcctl preflight".
func preflightCheck(_ context.Context, std stdio, args []string) error {
	fs := flag.NewFlagSet("preflight", flag.ContinueOnError)
	root := fs.String("root", "/", "root `directory` of the system: an image, or the node's as mounted in a container")
	write := fs.Bool("write", false, "write the files that stop other programs from configuring pods' links")
	out := outputFlag(fs, formatText, formatJSON, formatYAML)
	keep := fs.String("keep", "", "comma-separated `links` that the system configures; empty means those of the default routes")
	var c preflight.Config
	fs.StringVar(&c.HostLinkPrefix, "host-link-prefix", "eni", "`prefix` of the names of pods' host links")
	fs.IntVar(&c.Peers, "peers", 0, "number of other `addresses` of its subnets with which this node communicates at a time")
	fs.BoolVar(&c.Iptables, "iptables", false, "the agent translates sources with iptables")
	about := "preflight reports other programs and settings of this system that configure\ninterfaces, rules and routes, and how to prevent it. Exit status 3 means that it\nfound some; it also reports, as information, what the system lacks."
	if err := parse(fs, std, args, about); err != nil {
		return err
	}
	if c.Peers < 0 {
		return wrong(fs, std, fmt.Sprintf("-peers %d: want 0 or more", c.Peers))
	}
	if info, err := os.Stat(*root); err != nil {
		return err
	} else if !info.IsDir() {
		return fmt.Errorf("-root %s is not a directory", *root)
	}
	fsys := os.DirFS(*root)
	if c.Keep = strings.FieldsFunc(*keep, func(r rune) bool { return r == ',' }); len(c.Keep) == 0 {
		c.Keep = preflight.DefaultRouteLinks(fsys)
	}
	if err := c.Validate(); err != nil {
		return wrong(fs, std, err.Error())
	}
	report := preflightReport{Keep: c.Keep, Written: []string{}}
	if *write {
		written, err := preflight.Write(*root, preflight.Files(c))
		if err != nil {
			return err
		}
		report.Written = append(report.Written, written...)
	}
	report.Findings = preflight.Check(fsys, c)
	if err := out.print(std.out, report, func() { report.print(std.out) }); err != nil {
		return err
	}
	if report.conflicts() {
		return errFault
	}
	return nil
}

func (r preflightReport) print(w io.Writer) {
	for _, path := range r.Written {
		fmt.Fprintf(w, "wrote /%s\n", path)
	}
	if len(r.Keep) == 0 {
		fmt.Fprintln(w, "No default route and no -keep: pod ENIs cannot be told from the primary ENI, so no file excludes them.")
	}
	for _, f := range r.Findings {
		fmt.Fprintf(w, "\n%s (%s): %s\n  why:   %s\n  do:    %s\n", f.ID, f.Severity, f.What, f.Why, f.Do)
		if f.Written {
			fmt.Fprintln(w, "         (vpcctl preflight -write writes the file)")
		}
		fmt.Fprintf(w, "  found: /%s\n", strings.Join(f.Paths, " /"))
	}
	if !r.conflicts() {
		fmt.Fprintln(w, "No conflicts found.")
	}
}

// conflicts reports whether a finding is more than information.
func (r preflightReport) conflicts() bool {
	return slices.ContainsFunc(r.Findings, func(f preflight.Finding) bool { return f.Severity != preflight.Info })
}
