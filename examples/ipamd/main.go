// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vpcnet/vpcnet/internal/logfile"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/ipam/ipamd/install"
	"github.com/vpcnet/vpcnet/ipam/ipamd/introspect"
	"github.com/vpcnet/vpcnet/ipam/ipamd/metrics"
	"github.com/vpcnet/vpcnet/ipam/ipamd/settings"
)

// gcPercent replaces the default of GOGC, 100. The agent is idle most of the time and shares
// the node with its pods, so memory counts more than the time of the garbage collector.
const gcPercent = 50

// While the agent starts, it has startPercent: it allocates several times what it keeps, and a
// node cannot serve pods meanwhile. starting is longer than the start of a node with a thousand
// pods takes.
const (
	startPercent = 200
	starting     = 5 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 && os.Args[1] == "adopt" {
		os.Exit(runAdopt(ctx, os.Args[2:], os.Getenv, os.Stdout, os.Stderr))
	}
	if len(os.Args) > 1 && os.Args[1] == "probe" {
		os.Exit(runProbe(ctx, strings.Join(os.Args[2:], " "), os.Getenv, os.Stderr))
	}
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// The commands other than that of the agent, which has no name.
const (
	commandInstall   = "install"
	commandUninstall = "uninstall"
)

// run is main with the environment as parameters. It returns the exit status: 2 for
// an error in flags or variables, 1 if the agent cannot run or a command fails, and 3 if
// uninstall has to leave something.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	command := ""
	if len(args) > 0 && (args[0] == commandInstall || args[0] == commandUninstall) {
		command, args = args[0], args[1:]
	}
	s, err := settings.Parse(args, getenv, stderr)
	var cfg ipamd.Config
	if err == nil {
		cfg, err = s.Agent()
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "ipamd: %v\nRun ipamd -help for all flags and variables.\n", err)
		return 2
	}
	if command != "" { // its log is for the terminal, or the log of the container
		return manage(ctx, command, s, slog.New(logfile.NewHandler(stderr, s.Level())))
	}
	out, closeLog, err := openLog(s.LogFile, stdout, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "ipamd: %v\n", err)
		return 1
	}
	defer closeLog()
	if getenv("GOGC") == "" {
		debug.SetGCPercent(startPercent)
		defer time.AfterFunc(starting, func() {
			debug.SetGCPercent(gcPercent)
			debug.FreeOSMemory() // what the start needed beyond what is kept
		}).Stop()
	}
	c := settings.NewChanger(args, getenv, s)
	log := slog.New(logfile.NewHandler(out, c))
	c.Logger = log
	if err := serve(ctx, cfg, c, log); err != nil {
		log.Error("agent ends", "err", err)
		return 1
	}
	log.Info("agent ended")
	return 0
}

// manage runs the commands install and uninstall.
func manage(ctx context.Context, command string, s settings.Settings, log *slog.Logger) int {
	for _, w := range s.Warnings() {
		log.Warn(w)
	}
	self, err := os.Executable()
	switch {
	case err != nil:
	case command == commandInstall:
		err = install.Install(ctx, s, filepath.Dir(self), log)
	default:
		err = install.Uninstall(ctx, s, log)
	}
	if err == nil {
		return 0
	}
	log.Error(command+" ends", "err", err)
	if errors.Is(err, install.ErrKept) {
		return 3
	}
	return 1
}

// runProbe runs ipamd probe live and ipamd probe ready. It prints why the probe fails: the
// kubelet shows that in an event.
func runProbe(ctx context.Context, probe string, getenv func(string) string, stderr io.Writer) int {
	s, err := settings.Parse(nil, getenv, stderr)
	if err == nil {
		err = introspect.Probe(ctx, "unix:"+s.Status, probe)
	}
	if err != nil {
		fmt.Fprintf(stderr, "ipamd: %v\n", err)
		return 1
	}
	return 0
}

// openLog opens the log at the place that the settings name.
func openLog(where string, stdout, stderr io.Writer) (w io.Writer, closeLog func(), err error) {
	switch where {
	case settings.LogStdout:
		return stdout, func() {}, nil
	case settings.LogStderr:
		return stderr, func() {}, nil
	}
	f, err := logfile.Open(where)
	if err != nil {
		return nil, nil, fmt.Errorf("-log-file (AWS_VPC_K8S_CNI_LOG_FILE): %w", err)
	}
	return f, func() { _ = f.Close() }, nil
}

// serve runs the agent, the changes of its settings, and what shows its state until ctx ends.
func serve(ctx context.Context, cfg ipamd.Config, c *settings.Changer, log *slog.Logger) error {
	s := c.Settings()
	show := &introspect.Server{Settings: c.Settings}
	start, m := time.Now(), metrics.New(version())
	cfg.Logger, cfg.Hooks, cfg.Handler = log, m.Hooks(show.Called), c.Handler()
	if file := s.NetworkPolicies; file != "" {
		c.Policies = settings.NewPolicyFile(file)
		c.Policies.Read(log)
		cfg.Policies = c.Policies
	}
	a, err := ipamd.New(cfg)
	if err != nil {
		return err
	}
	c.Agent, show.Agent = a, a
	for _, w := range s.Warnings() {
		log.Warn(w)
	}
	m.Watch(a)
	g, ctx := errgroup.WithContext(ctx)
	for _, e := range endpoints(&s, show, m.Handler()) {
		g.Go(func() error { return e.Serve(ctx, log) })
	}
	changed, stop := a.Subscribe()
	defer stop()
	g.Go(func() error {
		m.Started(ctx, start, a.Ready())
		return nil
	})
	g.Go(func() error { return a.Run(ctx) })
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	g.Go(func() error { return c.Follow(ctx, hup) })
	g.Go(func() error { return show.LogPool(ctx, changed, log) })
	return g.Wait()
}

// endpoints returns where the program shows its state.
func endpoints(s *settings.Settings, show *introspect.Server, measured http.Handler) (all []introspect.Endpoint) {
	if s.Status != "" {
		all = append(all, introspect.Endpoint{Setting: "VPCNET_STATUS_SOCKET", Address: "unix:" + s.Status, Handler: show.V2()})
	}
	if !s.NoIntrospection {
		all = append(all, introspect.Endpoint{Setting: "INTROSPECTION_BIND_ADDRESS", Address: s.Introspection, Handler: show.V1()})
	}
	if !s.NoMetrics {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", measured)
		all = append(all, introspect.Endpoint{Setting: "VPCNET_METRICS_BIND_ADDRESS", Address: s.Metrics, Handler: mux})
	}
	return all
}

// version returns the version of the module, as `go install ...@version` records it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "(unknown)"
}
