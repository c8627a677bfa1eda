// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
)

// Plugin answers CNI commands. Its zero value is the plugin.
type Plugin struct {
	// Version is printed by a call without CNI_COMMAND. Optional.
	Version string
}

// Invocation is what a runtime hands to a plugin process.
type Invocation struct {
	// Getenv returns the value of an environment variable, as os.Getenv.
	Getenv func(string) string
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
}

// Main carries one invocation out and returns the exit status of the process.
// Only the CNI result or error goes to Stdout. It works on the network
// namespace of the calling process and needs CAP_NET_ADMIN and CAP_SYS_ADMIN
// there for ADD, DEL, CHECK and GC.
func (p Plugin) Main(ctx context.Context, inv Invocation) int {
	if inv.Getenv("CNI_COMMAND") == "" {
		fmt.Fprintf(inv.Stderr, "CNI plugin vpcnet %s\nCNI protocol versions supported: %s\n",
			p.Version, strings.Join(supportedVersions, ", "))
		return 0
	}
	err := run(ctx, inv)
	if err == nil {
		return 0
	}
	var e *Error
	if !errors.As(err, &e) {
		e = newError(CodeInternal, err.Error(), "")
	}
	if e.CNIVersion == "" {
		e.CNIVersion = newestVersion
	}
	if err := emit(inv.Stdout, e); err != nil {
		fmt.Fprintln(inv.Stderr, err)
	}
	return 1
}

// verb is one CNI command.
type verb struct {
	run func(context.Context, *call) error
	// since is the first version of the specification that has the command.
	since string
	// attachment means that the command works on one: it needs its key.
	attachment bool
	// netns means that the sandbox must be there.
	netns bool
}

// verbs are the CNI commands with a configuration, which is all but VERSION.
//
// https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md#cni-operations
var verbs = map[string]verb{
	"ADD":    {run: add, since: "0.3.0", attachment: true, netns: true},
	"DEL":    {run: del, since: "0.3.0", attachment: true},
	"CHECK":  {run: check, since: "0.4.0", attachment: true, netns: true},
	"GC":     {run: gc, since: "1.1.0"},
	"STATUS": {run: status, since: "1.1.0"},
}

func run(ctx context.Context, inv Invocation) error {
	command := inv.Getenv("CNI_COMMAND")
	v, known := verbs[command]
	if !known && command != "VERSION" {
		return newError(CodeInvalidEnvironment, fmt.Sprintf("invalid CNI_COMMAND %q", command),
			"it is ADD, DEL, CHECK, GC, STATUS or VERSION")
	}
	stdin, err := io.ReadAll(inv.Stdin)
	if err != nil {
		return newError(CodeIOFailure, "standard input cannot be read", err.Error())
	}
	if command == "VERSION" {
		return version(stdin, inv.Stdout)
	}
	c, err := v.parse(inv, stdin)
	if err != nil {
		return withVersion(err, c.conf.CNIVersion)
	}
	if v.since != "" && !supports(c.conf.CNIVersion, v.since) {
		return withVersion(newError(CodeIncompatibleVersion,
			fmt.Sprintf("cniVersion %s has no %s", c.conf.CNIVersion, command), "it came with "+v.since), c.conf.CNIVersion)
	}
	logger, closeLog := openLog(c.conf, inv.Stderr)
	defer closeLog()
	c.log = logger.With("command", command, "attachment", c.Attachment.String())
	if err := v.run(ctx, c); err != nil {
		c.log.Error("command failed", "err", err)
		return withVersion(err, c.conf.CNIVersion)
	}
	c.log.Info("command done")
	return nil
}

// parse reads environment and configuration. The call that it returns with an
// error has as much of the configuration as could be read.
func (v verb) parse(inv Invocation, stdin []byte) (*call, error) {
	c := &call{out: inv.Stdout, stdin: stdin}
	conf, err := ParseNetConf(stdin)
	c.conf = conf
	if err != nil {
		return c, err
	}
	c.Network = conf.Name
	if !v.attachment {
		return c, nil
	}
	c.ContainerID, c.IfName, c.netns = inv.Getenv("CNI_CONTAINERID"), inv.Getenv("CNI_IFNAME"), inv.Getenv("CNI_NETNS")
	if err := v.checkEnvironment(c); err != nil {
		return c, err
	}
	c.pod, err = parseArgs(inv.Getenv("CNI_ARGS"))
	if err != nil && v.netns { // nothing in CNI_ARGS is worth keeping a pod from being deleted
		return c, err
	}
	return c, nil
}

// checkEnvironment names every variable that is missing, or the one that is
// wrong.
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
		return newError(CodeInvalidEnvironment, "missing "+strings.Join(missing, ", "), "")
	}
	if !validID(c.ContainerID) {
		return newError(CodeInvalidEnvironment, fmt.Sprintf("invalid CNI_CONTAINERID %q", c.ContainerID),
			"it begins with a letter or digit and goes on with those, '_', '.' and '-'")
	}
	if reason := badLinkName(c.IfName); reason != "" {
		return newError(CodeInvalidEnvironment, fmt.Sprintf("invalid CNI_IFNAME %q", c.IfName), reason)
	}
	return nil
}

// badLinkName says why the kernel would refuse a name for a link, or nothing.
func badLinkName(name string) string {
	const longest = 15 // IFNAMSIZ without the final zero
	switch {
	case len(name) > longest:
		return fmt.Sprintf("it has %d bytes; the kernel takes at most %d", len(name), longest)
	case name == "." || name == "..":
		return "the kernel does not take it"
	case strings.ContainsAny(name, "/: \t\n\v\f\r"):
		return "it has a slash, a colon or white space in it"
	}
	return ""
}

// version answers VERSION with the version that the runtime asked in, if any.
func version(stdin []byte, out io.Writer) error {
	asked := struct {
		CNIVersion string `json:"cniVersion"`
	}{}
	if len(bytes.TrimSpace(stdin)) > 0 {
		if err := json.Unmarshal(stdin, &asked); err != nil {
			return newError(CodeDecodingFailure, "standard input of VERSION is not a JSON object", err.Error())
		}
	}
	if asked.CNIVersion == "" {
		asked.CNIVersion = newestVersion
	}
	return emit(out, struct {
		CNIVersion        string   `json:"cniVersion"`
		SupportedVersions []string `json:"supportedVersions"`
	}{asked.CNIVersion, supportedVersions})
}

// emit writes v to standard output, in one piece.
func emit(out io.Writer, v any) error {
	b, err := json.MarshalIndent(v, "", "    ")
	if err != nil {
		return err
	}
	if _, err := out.Write(append(b, '\n')); err != nil {
		return newError(CodeIOFailure, "standard output cannot be written", err.Error())
	}
	return nil
}

// openLog never fails: a log that cannot be opened must not keep a pod from
// starting, and standard error is always there.
func openLog(conf NetConf, stderr io.Writer) (l *slog.Logger, closeLog func()) {
	level, _ := conf.level() // checked when the configuration was read
	options := &slog.HandlerOptions{Level: level}
	if conf.logsToStderr() {
		return slog.New(slog.NewTextHandler(stderr, options)), func() {}
	}
	f, err := os.OpenFile(conf.LogFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		l := slog.New(slog.NewTextHandler(stderr, options))
		l.Warn("log file cannot be opened", "err", err)
		return l, func() {}
	}
	return slog.New(slog.NewJSONHandler(f, options)), func() { f.Close() }
}
