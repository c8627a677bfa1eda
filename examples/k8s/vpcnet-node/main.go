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
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vpcnet/vpcnet/internal/logfile"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/ipam/ipamd/introspect"
	"github.com/vpcnet/vpcnet/ipam/ipamd/metrics"
	"github.com/vpcnet/vpcnet/ipam/ipamd/settings"
)

// gcPercent replaces the default of GOGC, 100: the agent is idle most of the time and shares
// the node with its pods.
const gcPercent = 50

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stderr))
}

// run is main with the environment as parameters. It returns the exit status: 2 for an error
// in flags or variables, and 1 if the agent cannot run.
func run(ctx context.Context, args []string, getenv func(string) string, stderr io.Writer) int {
	k, err := readKubernetes(getenv)
	var s settings.Settings
	if err == nil {
		s, err = settings.Parse(args, k.without(getenv), stderr)
	}
	var cfg ipamd.Config
	if err == nil {
		cfg, err = s.Agent()
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "vpcnet-node: %v\nRun vpcnet-node -help for the flags and variables of the agent.\n", err)
		return 2
	}
	if getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	c := settings.NewChanger(args, k.without(getenv), s)
	cfg.Logger = slog.New(logfile.NewHandler(stderr, c))
	c.Logger = cfg.Logger
	for _, w := range s.Warnings() {
		cfg.Logger.Warn(w)
	}
	if err := serve(ctx, c, cfg, k); err != nil {
		cfg.Logger.Error("agent ends", "err", err)
		return 1
	}
	return 0
}

// serve runs the agent, and what it needs of Kubernetes, until ctx ends.
func serve(ctx context.Context, c *settings.Changer, cfg ipamd.Config, k kubernetesSettings) error {
	s := c.Settings()
	show := &introspect.Server{Settings: c.Settings}
	start, m := time.Now(), metrics.New("")
	cfg.Hooks, cfg.Handler = m.Hooks(show.Called), c.Handler()
	if file := s.NetworkPolicies; file != "" {
		c.Policies = settings.NewPolicyFile(file)
		c.Policies.Read(cfg.Logger)
		cfg.Policies = c.Policies
	}
	with, err := k.connect(&cfg, c)
	if err != nil {
		return err
	}
	a, err := ipamd.New(cfg)
	if err != nil {
		return err
	}
	c.Agent, show.Agent = a, a
	m.Watch(a)
	g, ctx := errgroup.WithContext(ctx)
	for _, run := range with.run {
		g.Go(func() error { return run(ctx) })
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	g.Go(func() error { return c.Follow(ctx, hup) })
	for _, e := range endpoints(&s, show, m.Handler()) {
		g.Go(func() error { return e.Serve(ctx, cfg.Logger) })
	}
	g.Go(func() error {
		m.Started(ctx, start, a.Ready())
		return nil
	})
	g.Go(func() error { return a.Run(ctx) })
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
