// SPDX-License-Identifier: Apache-2.0

// Command ownagent is a node agent with its own warm pool policy.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/warmpool"
)

// fifth keeps a fifth of the addresses in use spare, and at least one.
type fifth struct{}

func (fifth) Decide(s warmpool.Snapshot) warmpool.Decision {
	v := s.Supply()
	demand := v.Assigned + s.Demand.Pending()
	want := demand + max(1, demand/5)
	d := warmpool.Decision{Explanation: warmpool.Because("want %d for a demand of %d", want, demand)}
	d.Short, d.Over = warmpool.Corridor{Min: want, Max: want + 4, ShrinkTo: want + 2}.Slots(v)
	d.Actions = warmpool.Placer{}.Grow(nil, &s, d.Short, d.Explanation)
	d.Actions = warmpool.Placer{}.Shrink(d.Actions, &s, d.Over, d.Explanation)
	return d
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	agent, err := ipamd.New(ipamd.Config{
		Socket:   os.Getenv("VPCNET_SOCKET"),
		StateDir: os.Getenv("VPCNET_STATE_DIR"),
		Conflist: os.Getenv("VPCNET_CONFLIST"),
		Policy:   fifth{},
		Logger:   log,
		Hooks: ipamd.Hooks{
			BeforeReply: func(_ context.Context, req cniplugin.AddRequest, got []ipam.Allocation) error {
				log.Info("pod", "name", req.Pod.Name, "addr", got[0].Addr)
				return nil
			},
		},
	})
	if err == nil {
		err = agent.Run(ctx)
	}
	if err != nil {
		log.Error("agent ends", "err", err)
		os.Exit(1)
	}
}
