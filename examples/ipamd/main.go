// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/ipam/ipamd/settings"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 && os.Args[1] == "adopt" {
		os.Exit(runAdopt(ctx, os.Args[2:], os.Getenv, os.Stdout, os.Stderr))
	}
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stderr))
}

// run is main with the environment as parameters. It returns the exit status: 2 for
// an error in flags or variables, 1 if the agent cannot run.
func run(ctx context.Context, args []string, getenv func(string) string, stderr io.Writer) int {
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
	c := newChanger(args, getenv, s)
	log := newLog(stderr, &c.level)
	c.log = log
	if err := serve(ctx, cfg, c, log); err != nil {
		log.Error("agent ends", "err", err)
		return 1
	}
	log.Info("agent ended")
	return 0
}

// newLog returns the log of the agent. It has durations such as 1.5s and not in
// nanoseconds.
func newLog(w io.Writer, level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration {
			a.Value = slog.StringValue(a.Value.Duration().String())
		}
		return a
	}}))
}

// serve runs the agent, the changes of its settings, and its introspection until ctx ends.
func serve(ctx context.Context, cfg ipamd.Config, c *changer, log *slog.Logger) error {
	m := newMetrics()
	cfg.Logger, cfg.Hooks, cfg.Handler = log, m.hooks(), c.handler()
	a, err := ipamd.New(cfg)
	if err != nil {
		return err
	}
	c.agent = a
	for _, w := range c.start.Warnings() {
		log.Warn(w)
	}
	m.watch(a.View)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.Run(ctx) })
	g.Go(func() error { return c.follow(ctx) })
	g.Go(func() error { return introspect(ctx, c.start.Introspection, a.Status, m.handler()) })
	return g.Wait()
}
