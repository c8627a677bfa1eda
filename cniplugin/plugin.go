// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"

	"github.com/vpcnet/vpcnet/cniplugin/internal/pluginlog"
	"github.com/vpcnet/vpcnet/datapath"
)

// Plugin executes CNI commands. Its zero value asks the agent of the node for
// addresses and wires pods with package datapath.
type Plugin struct {
	// Version is printed if CNI_COMMAND is not set. Optional.
	Version string
	// Allocator allocates addresses. Nil means the agent that listens on the socket
	// of the network configuration. With an Allocator the configuration may have the
	// field ipam, which is left to the Allocator.
	Allocator Allocator
	// Wiring connects pods to the network. Nil means package datapath.
	Wiring Wiring
}

// Invocation is the environment that a runtime gives to a plugin process. A field that
// is nil stands for something empty.
type Invocation struct {
	// Getenv returns the value of an environment variable, as os.Getenv.
	Getenv func(string) string
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
}

// Main executes one invocation and returns the exit status of the process. It
// writes only the CNI result or error to Stdout. It changes the network namespace
// of the calling process, and needs CAP_NET_ADMIN and CAP_SYS_ADMIN there for ADD,
// DEL, CHECK and GC.
func (p Plugin) Main(ctx context.Context, inv Invocation) int {
	inv = inv.withDefaults()
	if inv.Getenv("CNI_COMMAND") == "" {
		fmt.Fprintf(inv.Stderr, "CNI plugin vpcnet %s\nCNI protocol versions supported: %s\n",
			p.Version, strings.Join(supportedVersions, ", "))
		return 0
	}
	ver, err := p.run(ctx, inv)
	if err == nil {
		return 0
	}
	e, ok := asError(err)
	if !ok {
		e = &Error{Code: CodeInternal, Msg: err.Error()}
	}
	if err := emit(inv.Stdout, errorResult{cmp.Or(ver, newestVersion), e.Code, shortenText(e.Msg), shortenText(e.Details)}); err != nil {
		fmt.Fprintln(inv.Stderr, err)
	}
	return 1
}

func (inv Invocation) withDefaults() Invocation {
	if inv.Getenv == nil {
		inv.Getenv = func(string) string { return "" }
	}
	if inv.Stdin == nil {
		inv.Stdin = strings.NewReader("")
	}
	if inv.Stdout == nil {
		inv.Stdout = io.Discard
	}
	if inv.Stderr == nil {
		inv.Stderr = io.Discard
	}
	return inv
}

// errorResult is the error result of the specification, in every version.
type errorResult struct {
	CNIVersion string `json:"cniVersion"`
	Code       Code   `json:"code"`
	Msg        string `json:"msg"`
	Details    string `json:"details,omitempty"`
}

// asError returns the Error that err is or wraps.
func asError(err error) (e *Error, ok bool) { return e, errors.As(err, &e) }

// verb is one CNI command.
type verb struct {
	run func(context.Context, *call) error
	// since is the first version of the specification that has the command.
	since string
	// attachment means that the command needs the key of an attachment.
	attachment bool
	// netns means that the command needs an existing sandbox.
	netns bool
	// lenient means that the command uses what it can read of an invalid configuration.
	lenient bool
}

// verbs are the CNI commands that read a configuration: all but VERSION.
//
// https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md#cni-operations
var verbs = map[string]verb{
	"ADD":    {run: add, since: "0.1.0", attachment: true, netns: true},
	"DEL":    {run: del, since: "0.1.0", attachment: true, lenient: true},
	"CHECK":  {run: check, since: "0.4.0", attachment: true, netns: true},
	"GC":     {run: gc, since: "1.1.0", lenient: true},
	"STATUS": {run: status, since: "1.1.0"},
}

// maxInput bounds standard input. The list of attachments of a GC is the longest
// part: about 100 kB for a node with a thousand pods.
const maxInput = 16 << 20

// run executes one command. Together with an error it returns the version in which
// the runtime expects it, empty if that is not known.
func (p Plugin) run(ctx context.Context, inv Invocation) (ver string, err error) {
	defer func() { // an Allocator, a Wiring or this package has a defect: the runtime must get an error result
		if v := recover(); v != nil {
			fmt.Fprintf(inv.Stderr, "panic: %v\n%s", v, debug.Stack())
			err = &Error{Code: CodeInternal, Msg: fmt.Sprintf("the plugin panicked: %v", v)}
		}
	}()
	command := inv.Getenv("CNI_COMMAND")
	v, known := verbs[command]
	if !known && command != "VERSION" {
		return "", &Error{
			Code: CodeInvalidEnvironment, Msg: "invalid CNI_COMMAND " + shorten(command),
			Details: "want ADD, DEL, CHECK, GC, STATUS or VERSION",
		}
	}
	stdin, err := io.ReadAll(io.LimitReader(inv.Stdin, maxInput+1))
	switch {
	case err != nil:
		return "", &Error{Code: CodeIOFailure, Msg: "standard input cannot be read", Details: err.Error()}
	case len(stdin) > maxInput:
		return "", &Error{Code: CodeIOFailure, Msg: fmt.Sprintf("standard input has more than %d bytes", maxInput)}
	case command == "VERSION":
		return "", printVersions(stdin, inv.Stdout)
	}
	c, err := v.parse(p, inv, stdin)
	ver = c.conf.CNIVersion
	if err != nil {
		return ver, err
	}
	if !supports(ver, v.since) {
		return ver, &Error{
			Code: CodeIncompatibleVersion, Msg: fmt.Sprintf("cniVersion %s has no %s", ver, command),
			Details: fmt.Sprintf("want %s or later", v.since),
		}
	}
	level, _ := c.conf.level() // checked when the configuration was read
	logger, closeLog := pluginlog.Open(c.conf.LogFile, level, inv.Stderr)
	defer closeLog()
	c.log = logger.With(c.identity(command)...)
	if c.confErr != nil {
		c.log.Warn("network configuration is invalid; using what can be read of its name, socket and state directory",
			"err", c.confErr, "name", c.conf.Name, "socket", c.conf.AgentSocket, "stateDir", c.conf.StateDir)
	}
	err = v.run(ctx, c)
	if err == nil {
		err = c.releaseErr
	}
	if err != nil {
		c.log.Error("command failed", "err", err)
		return ver, err
	}
	c.log.Info("command done")
	return ver, nil
}

// identity returns the log attributes that name the command and its pod.
func (c *call) identity(command string) []any {
	attrs := []any{"command", command}
	if c.pod.Name != "" {
		attrs = append(attrs, "pod", c.pod.String())
	}
	if c.ContainerID == "" {
		return append(attrs, "network", c.Network)
	}
	return append(attrs, "attachment", c.Attachment.String())
}

// parse parses the environment and the configuration. Together with an error it
// returns a call that has the part of the configuration that could be read.
func (v verb) parse(p Plugin, inv Invocation, stdin []byte) (*call, error) {
	c := &call{plugin: p, out: inv.Stdout, stdin: stdin}
	conf, err := parseConfig(stdin)
	c.conf = conf
	if err == nil && p.Allocator == nil {
		err = conf.checkIPAM()
	}
	if err != nil && v.lenient {
		c.confErr = err
		c.conf = lenientConfig(stdin)
		if c.conf.Name != "" || v.attachment {
			err = nil
		}
	}
	if err != nil {
		return c, err
	}
	c.Network = c.conf.Name
	if !v.attachment {
		return c, nil
	}
	c.ContainerID, c.IfName, c.netns = inv.Getenv("CNI_CONTAINERID"), inv.Getenv("CNI_IFNAME"), inv.Getenv("CNI_NETNS")
	if err := v.checkEnvironment(c); err != nil {
		return c, err
	}
	args, err := parseArgs(inv.Getenv("CNI_ARGS"))
	c.pod = args.pod
	if !v.netns { // invalid CNI_ARGS and capabilities must not prevent a DEL
		return c, nil
	}
	if err == nil {
		c.wants, err = c.conf.wants(args)
	}
	return c, err
}

// checkEnvironment returns an error that names every variable that is missing, or
// the first one that is invalid.
func (v verb) checkEnvironment(c *call) error {
	var missing []string
	for _, e := range []struct {
		name, value string
		required    bool
	}{
		{"CNI_CONTAINERID", c.ContainerID, true},
		{"CNI_IFNAME", c.IfName, true},
		{"CNI_NETNS", c.netns, v.netns},
	} {
		if e.required && e.value == "" {
			missing = append(missing, e.name)
		}
	}
	if len(missing) > 0 {
		return &Error{Code: CodeInvalidEnvironment, Msg: "missing " + strings.Join(missing, ", ")}
	}
	if !validID(c.ContainerID) {
		return &Error{Code: CodeInvalidEnvironment, Msg: "invalid CNI_CONTAINERID " + shorten(c.ContainerID), Details: wantIDOf(c.ContainerID)}
	}
	if err := datapath.ValidateLinkName(c.IfName); err != nil {
		return &Error{Code: CodeInvalidEnvironment, Msg: "invalid CNI_IFNAME " + shorten(c.IfName), Details: err.Error()}
	}
	return nil
}

// printVersions answers VERSION in the version of the request, if it has one.
func printVersions(stdin []byte, out io.Writer) error {
	request := struct {
		CNIVersion string `json:"cniVersion"`
	}{}
	if len(bytes.TrimSpace(stdin)) > 0 {
		if err := json.Unmarshal(stdin, &request); err != nil {
			return &Error{Code: CodeDecodingFailure, Msg: "standard input of VERSION is not a JSON object", Details: err.Error()}
		}
	}
	if request.CNIVersion == "" {
		request.CNIVersion = newestVersion
	}
	return emit(out, struct {
		CNIVersion        string   `json:"cniVersion"`
		SupportedVersions []string `json:"supportedVersions"`
	}{request.CNIVersion, supportedVersions})
}

const indent = "    "

// emit writes v to standard output as JSON.
func emit(out io.Writer, v any) error {
	b, err := json.MarshalIndent(v, "", indent)
	if err != nil {
		return err
	}
	return writeLine(out, b)
}

// writeLine writes a line to standard output, in one call of Write.
func writeLine(out io.Writer, b []byte) error {
	if _, err := out.Write(append(b, '\n')); err != nil {
		return &Error{Code: CodeIOFailure, Msg: "standard output cannot be written", Details: err.Error()}
	}
	return nil
}
