// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/ipam/ipamd/settings"
)

// changer changes the settings of a running agent.
type changer struct {
	args   []string
	getenv func(string) string
	level  slog.LevelVar
	log    *slog.Logger
	agent  *ipamd.Agent
	// policies are those of the file, nil without one.
	policies *settings.PolicyFile
	start    settings.Settings // those of the start

	// turn has a value while a change is under way, which has the fields below.
	turn   chan struct{}
	latest settings.Settings
	text   string // of the latest PUT

	present atomic.Pointer[settings.Settings] // a copy of latest
}

func newChanger(args []string, getenv func(string) string, s settings.Settings) *changer {
	c := &changer{args: args, getenv: getenv, start: s, latest: s, turn: make(chan struct{}, 1)}
	c.level.Set(s.Level())
	c.present.Store(&s)
	return c
}

// settings returns the present settings.
func (c *changer) settings() settings.Settings { return *c.present.Load() }

// follow reads the files again at each SIGHUP, until ctx ends.
func (c *changer) follow(ctx context.Context) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-hup:
		case <-ctx.Done():
			return nil
		}
		if _, err := c.change(ctx, nil); err != nil {
			c.log.Error("settings stay as they are", "err", err)
		}
		if c.policies != nil {
			c.policies.Read(c.log)
		}
	}
}

// change reads all settings again, with those of put above them. Nil means those of the
// latest PUT.
func (c *changer) change(ctx context.Context, put *string) (settings.Changes, error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return settings.Changes{}, ctx.Err()
	}
	text := c.text
	if put != nil {
		text = *put
	}
	next, err := settings.Reread(c.args, c.getenv, text)
	if err != nil {
		return settings.Changes{}, badSettings{err}
	}
	cfg, err := next.Agent()
	if err != nil {
		return settings.Changes{}, badSettings{err}
	}
	waiting, err := c.agent.Reconfigure(ctx, cfg)
	if err != nil {
		return settings.Changes{}, err
	}
	c.level.Set(next.Level())
	changes := next.Since(&c.start, &c.latest)
	for _, w := range next.Warnings() {
		c.log.Warn(w)
	}
	c.log.Info("settings read", "live", changes.Live, "waiting", changes.Waiting, "fields", waiting)
	c.latest, c.text = next, text
	c.present.Store(&next)
	return changes, nil
}

// badSettings is an error in settings.
type badSettings struct{ error }

// maxSettings bounds the body of a PUT in bytes.
const maxSettings = 1 << 20

// handler serves PUT /v1/config: settings in the format of the file, in the place of those
// of the PUT before.
func (c *changer) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/config", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxSettings))
		if err != nil {
			reply(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
			return
		}
		text := string(body)
		changes, err := c.change(r.Context(), &text)
		if err == nil {
			reply(w, http.StatusOK, changes)
			return
		}
		status := http.StatusServiceUnavailable
		if bad := (badSettings{}); errors.As(err, &bad) || errors.Is(err, ipamd.ErrConfig) {
			status = http.StatusBadRequest
		}
		c.log.Warn("refused settings", "err", err)
		reply(w, status, map[string]string{"error": err.Error()})
	})
	return mux
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // an error means that the client has ended
}
