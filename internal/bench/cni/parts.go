// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// event is one system call of a plugin.
type event struct {
	call, args string
	start, end float64 // seconds
}

// part is one part of a command: from a system call until the next part.
type part struct {
	name   string
	wall   float64 // milliseconds
	kernel float64 // of it in the system call itself
}

// traced are the system calls at which parts begin, and those that end one.
const traced = "execve,read,connect,write,exit_group"

// traceWrapper is a program in place of a plugin that runs it under strace. A seccomp
// filter lets system calls that are not traced pass at their usual speed.
const traceWrapper = `#!/bin/sh
exec strace -ff --seccomp-bpf -q -ttt -T -yy -x -s 8 -e signal=none -e trace=` + traced + ` -o "%s/$CNI_COMMAND.$CNI_CONTAINERID" "%s"
`

// measureParts prints where the time of ADD and DEL goes, as medians of traced commands.
func measureParts(ctx context.Context, o options, out io.Writer) (err error) {
	names := []string{flatName, ipamdName}
	if o.before != "" {
		names = []string{beforeName, flatName, ipamdName}
	}
	s := scenario{name: "parts", prefixes: []netip.Prefix{prefix4}, names: names}
	all, err := s.contenders(ctx, o)
	defer func() {
		for _, c := range all {
			err = errors.Join(err, c.stop(), c.close())
		}
	}()
	if err != nil {
		return err
	}
	parts := map[string][][]part{}
	for _, c := range all {
		dir := filepath.Join("/run", c.name+"-trace")
		wrapper := filepath.Join(dir, "plugin")
		err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(wrapper, fmt.Appendf(nil, traceWrapper, dir, c.program), 0o700)) //nolint:gosec // a program
		if err != nil {
			return err
		}
		c.program, c.traces = wrapper, dir
	}
	for range o.rounds {
		for _, c := range all {
			if err := c.tracePod(ctx, parts); err != nil {
				return err
			}
		}
	}
	for _, verb := range []string{"ADD", "DEL"} {
		for _, c := range all {
			fmt.Fprintf(out, "%s, %s\n", verb, about[c.name])
			if err := printParts(out, parts[verb+c.name]); err != nil {
				return err
			}
			fmt.Fprintln(out)
		}
	}
	return nil
}

// tracePod adds and deletes a pod and adds the parts of both commands to parts.
func (c *contender) tracePod(ctx context.Context, parts map[string][][]part) error {
	p, err := c.newPod()
	if err != nil {
		return err
	}
	for _, verb := range []string{"ADD", "DEL"} {
		if _, err := p.call(ctx, verb); err != nil {
			return err
		}
		events, err := readTrace(filepath.Join(c.traces, verb+"."+p.id))
		if err != nil {
			return err
		}
		parts[verb+c.name] = append(parts[verb+c.name], partsOf(events))
	}
	return errors.Join(c.waitSweeps(), p.sandbox.Delete())
}

var (
	traceLine = regexp.MustCompile(`^([0-9.]+) (\w+)\((.*)\) += .*?(?:<([0-9.]+)>)?$`)
	exitLine  = regexp.MustCompile(`^([0-9.]+) \+\+\+ exited`)
)

// readTrace reads the files of all threads of a process.
func readTrace(prefix string) ([]event, error) {
	files, err := filepath.Glob(prefix + ".*")
	if err != nil || len(files) == 0 {
		return nil, errors.Join(err, fmt.Errorf("strace has written no file %s.*", prefix))
	}
	var events []event
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if e, ok := parseEvent(lines.Text()); ok {
				events = append(events, e)
			}
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(events, func(a, b event) int { return cmp.Compare(a.start, b.start) })
	return events, nil
}

func parseEvent(line string) (event, bool) {
	if m := exitLine.FindStringSubmatch(line); m != nil {
		at, err := strconv.ParseFloat(m[1], 64)
		return event{call: "exited", start: at, end: at}, err == nil
	}
	m := traceLine.FindStringSubmatch(line)
	if m == nil {
		return event{}, false
	}
	at, err := strconv.ParseFloat(m[1], 64)
	took, _ := strconv.ParseFloat(m[4], 64) // exit_group has none
	return event{m[2], m[3], at, at + took}, err == nil
}

// partsOf divides a command into its parts. A system call that has no name belongs to the
// part that is going on.
func partsOf(events []event) []part {
	var parts []part
	var began, kernel float64
	sockets := map[string]string{}
	name := ""
	for _, e := range events {
		next := partName(e, sockets)
		if next == "" || next == name && !strings.Contains(next, "RTM") {
			kernel += e.end - e.start
			continue
		}
		if name != "" {
			parts = append(parts, part{name, (e.start - began) * 1000, kernel * 1000})
		}
		name, began, kernel = next, e.start, e.end-e.start
	}
	if len(events) > 0 && name != "" {
		last := events[len(events)-1]
		parts = append(parts, part{name, (last.end - began) * 1000, 0})
	}
	return parts
}

// partName returns the name of the part that a system call begins, "" if it begins none.
// sockets are the names of netlink sockets by descriptor: the first one is on the node.
func partName(e event, sockets map[string]string) string {
	fd, _, _ := strings.Cut(e.args, ",")
	number, file, _ := strings.Cut(fd, "<")
	switch {
	case e.call == "execve":
		return "process start: exec, runtime, packages"
	case e.call == "read" && number == "0":
		return "configuration: read, parse; lock, namespaces"
	case e.call == "connect":
		return "agent: connect, request, answer"
	case e.call == "write" && number == "1":
		return "result"
	case e.call == "exit_group":
		return "exit"
	case e.call != "write":
		return ""
	case strings.HasPrefix(file, "NETLINK"):
		if sockets[number] == "" {
			sockets[number] = []string{"node", "sandbox"}[min(len(sockets), 1)]
		}
		return sockets[number] + ": " + requestName(e.args)
	case strings.Contains(file, "/net/ipv"):
		return "setting " + filepath.Base(strings.TrimSuffix(file, ">"))
	}
	return ""
}

// requests are the names of linux/rtnetlink.h.
var requests = map[uint16]string{
	16: "RTM_NEWLINK", 17: "RTM_DELLINK", 18: "RTM_GETLINK", 19: "RTM_SETLINK", 20: "RTM_NEWADDR", 21: "RTM_DELADDR",
	24: "RTM_NEWROUTE", 25: "RTM_DELROUTE", 26: "RTM_GETROUTE", 28: "RTM_NEWNEIGH", 32: "RTM_NEWRULE", 33: "RTM_DELRULE", 34: "RTM_GETRULE",
}

// requestName returns the name of the first request of a batch, from the bytes that strace
// shows, and the size of the batch.
func requestName(args string) string {
	_, text, _ := strings.Cut(args, `"`)
	text, rest, _ := strings.Cut(text, `"`)
	b, err := hex.DecodeString(strings.ReplaceAll(text, `\x`, ""))
	if err != nil || len(b) < 6 {
		return "RTM"
	}
	kind := binary.NativeEndian.Uint16(b[4:])
	size := strings.TrimLeft(rest, "., ")
	return cmp.Or(requests[kind], fmt.Sprintf("RTM %d", kind)) + ", batch of " + size + " bytes"
}

// printParts prints the medians of the commands that have the most frequent sequence of
// parts. The sizes of batches may differ between pods.
func printParts(out io.Writer, all [][]part) error {
	size := regexp.MustCompile(`, batch of \d+ bytes`)
	key := func(parts []part) string {
		var names []string
		for _, p := range parts {
			names = append(names, size.ReplaceAllString(p.name, ""))
		}
		return strings.Join(names, "|")
	}
	count := map[string]int{}
	most := ""
	for _, parts := range all {
		k := key(parts)
		if count[k]++; count[k] > count[most] {
			most = k
		}
	}
	all = slices.DeleteFunc(all, func(parts []part) bool { return key(parts) != most })
	tab := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "  part\tms\tin its system calls\t")
	total := 0.0
	for i, p := range all[0] {
		var wall, kernel []float64
		for _, parts := range all {
			wall, kernel = append(wall, parts[i].wall), append(kernel, parts[i].kernel)
		}
		slices.Sort(wall)
		slices.Sort(kernel)
		total += wall[len(wall)/2]
		fmt.Fprintf(tab, "  %s\t%.2f\t%.2f\t\n", p.name, wall[len(wall)/2], kernel[len(kernel)/2])
	}
	fmt.Fprintf(tab, "  all\t%.2f\t\t\n", total)
	return tab.Flush()
}
