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

	"github.com/vpcnet/vpcnet/cniplugin/server"
	"github.com/vpcnet/vpcnet/ipam"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stderr))
}

// run is main with the environment as parameters. It returns the exit status: 2 for
// an error in flags or variables, 1 if the agent cannot run.
func run(ctx context.Context, args []string, getenv func(string) string, stderr io.Writer) int {
	s, err := parse(args, getenv, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "ipamd: %v\nRun ipamd -help for all flags and variables.\n", err)
		return 2
	}
	log := newLog(stderr, s.level())
	if err := serve(ctx, s, log); err != nil {
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

// serve runs the agent until ctx ends. It opens the socket first, so that plugins
// get an answer even while the agent is starting.
func serve(ctx context.Context, s settings, log *slog.Logger) (err error) {
	listener, err := server.Listen(s.Socket)
	if err != nil {
		return fmt.Errorf("listen on -socket: %w", err)
	}
	defer listener.Close()
	if err := os.MkdirAll(s.StateDir, 0o700); err != nil {
		return fmt.Errorf("create -state-dir: %w", err)
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	booted, err := bootTime()
	if err != nil {
		return err
	}
	journals, err := openJournals(ctx, s.StateDir, boot, booted, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, journals.close()) }()
	links, err := openLinks(s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, links.close()) }()
	pool, err := journals.openPool(ipam.Config{Cooldown: s.cooldown(), MaxPods: s.MaxPods, Witness: links.witness})
	if err != nil {
		return err
	}
	known, err := readNodeRecord(s.StateDir, boot)
	if err != nil {
		log.Warn("node record of an earlier agent is not used", "err", err)
	}

	b := newBackend(pool, journals.intents, s)
	b.recorder.dir, b.recorder.boot = s.StateDir, boot
	for _, lost := range journals.lost {
		b.recordEvent(lost)
	}
	links.pods = b.pods
	log.Info("agent listens", "socket", s.Socket, "layout", s.Layout, "policy", s.policyName())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return (&server.Server{Backend: b, SweepSoon: links.sweepSoon, Logger: log}).Serve(ctx, listener)
	})
	g.Go(func() error { return links.sweep(ctx, log) })
	g.Go(func() error { return introspect(ctx, s.Introspection, b, links) })
	g.Go(func() error {
		st, err := start(ctx, s, b, links, known, log)
		if err != nil || st == nil {
			return err
		}
		g.Go(func() error { return audit(ctx, b, links, st.manager, st.agent, log) })
		g.Go(func() error { return sweepOnce(ctx, st.client, st.manager, s.ClusterName, log) })
		g.Go(func() error { return whenReady(ctx, b, links, log) })
		return st.agent.Run(ctx)
	})
	return g.Wait()
}
