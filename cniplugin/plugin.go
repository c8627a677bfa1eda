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

	"github.com/vpcnet/vpcnet/datapath"
)

// Plugin executes CNI commands. Its zero value is ready to use.
type Plugin struct {
	// Version is printed if CNI_COMMAND is not set. Optional.
	Version string
}

// Invocation is the environment that a runtime gives to a plugin process.
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
		e = &Error{Code: CodeInternal, Msg: err.Error()}
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
	// attachment means that the command needs the key of an attachment.
	attachment bool
	// netns means that the command needs an existing sandbox.
	netns bool
}

// verbs are the CNI commands that read a configuration: all but VERSION.
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
		return &Error{
			Code: CodeInvalidEnvironment, Msg: fmt.Sprintf("invalid CNI_COMMAND %q", command),
			Details: "want ADD, DEL, CHECK, GC, STATUS or VERSION",
		}
	}
	stdin, err := io.ReadAll(inv.Stdin)
	if err != nil {
		return &Error{Code: CodeIOFailure, Msg: "standard input cannot be read", Details: err.Error()}
	}
	if command == "VERSION" {
		return version(stdin, inv.Stdout)
	}
	c, err := v.parse(inv, stdin)
	if err != nil {
		return withVersion(err, c.conf.CNIVersion)
	}
	if v.since != "" && !supports(c.conf.CNIVersion, v.since) {
		return &Error{
			CNIVersion: c.conf.CNIVersion, Code: CodeIncompatibleVersion,
			Msg:     fmt.Sprintf("cniVersion %s has no %s", c.conf.CNIVersion, command),
			Details: fmt.Sprintf("want %s or later", v.since),
		}
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

// parse parses the environment and the configuration. Together with an error it
// returns a call that has the part of the configuration that could be read.
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
	if err != nil && v.netns { // malformed CNI_ARGS must not prevent a DEL
		return c, err
	}
	return c, nil
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
		return &Error{Code: CodeInvalidEnvironment, Msg: fmt.Sprintf("invalid CNI_CONTAINERID %q", c.ContainerID), Details: wantID}
	}
	if err := datapath.ValidateLinkName(c.IfName); err != nil {
		return &Error{Code: CodeInvalidEnvironment, Msg: fmt.Sprintf("invalid CNI_IFNAME %q", c.IfName), Details: err.Error()}
	}
	return nil
}

// version answers VERSION in the version of the request, if it has one.
func version(stdin []byte, out io.Writer) error {
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

// emit writes v to standard output as JSON, in one call of Write.
func emit(out io.Writer, v any) error {
	b, err := json.MarshalIndent(v, "", "    ")
	if err != nil {
		return err
	}
	if _, err := out.Write(append(b, '\n')); err != nil {
		return &Error{Code: CodeIOFailure, Msg: "standard output cannot be written", Details: err.Error()}
	}
	return nil
}

// openLog opens the log. If that fails, it logs to standard error instead, because
// a log that cannot be opened must not prevent a pod from starting.
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
