// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// Changer changes the settings of a running agent. Create it with [NewChanger].
// It is safe for concurrent use once its fields are set.
type Changer struct {
	// Agent is the agent.
	Agent *ipamd.Agent
	// Policies is the file that Follow reads again. Nil means that there is none.
	Policies *PolicyFile
	// Adjust changes the configuration that follows from the settings, by what the program
	// has from elsewhere. Optional.
	Adjust func(*ipamd.Config)
	// Logger receives each change. It must be set.
	Logger *slog.Logger

	args   []string
	getenv func(string) string
	level  slog.LevelVar
	start  Settings // those of the start

	// turn has a value while a change is under way, which has the fields below.
	turn   chan struct{}
	latest Settings
	texts  [layers]string

	present atomic.Pointer[Settings] // a copy of latest
}

// layer is a text with settings that override those of the start. Of two layers the later one
// counts.
type layer int

// The layers.
const (
	layerFurther layer = iota // of SetFurther
	layerPut                  // of the latest PUT
	layers
)

// NewChanger returns a changer of the settings s, which [Parse] has returned for the other
// parameters.
func NewChanger(args []string, getenv func(string) string, s Settings) *Changer {
	c := &Changer{args: args, getenv: getenv, start: s, latest: s, turn: make(chan struct{}, 1)}
	c.level.Set(s.Level())
	c.present.Store(&s)
	return c
}

// Settings returns the present settings.
func (c *Changer) Settings() Settings { return *c.present.Load() }

// Level is the present level of the log.
func (c *Changer) Level() slog.Level { return c.level.Level() }

// Follow reads the files again at each value of hup, which programs send at SIGHUP, until ctx
// ends. It then returns nil.
func (c *Changer) Follow(ctx context.Context, hup <-chan os.Signal) error {
	for {
		select {
		case <-hup:
		case <-ctx.Done():
			return nil
		}
		if err := c.Apply(ctx); err != nil {
			c.Logger.Error("settings stay as they are", "err", err)
		}
		if c.Policies != nil {
			c.Policies.Read(c.Logger)
		}
	}
}

// Apply reads all settings again, and gives them to the agent. After an error the agent has
// those of before.
func (c *Changer) Apply(ctx context.Context) error {
	_, err := c.change(ctx, layers, "")
	return err
}

// SetFurther is Apply with further settings, by the names of their variables, in the place of
// those of the call before. They override all others but those of a PUT. It returns the names
// of those that it leaves out, because they are not [Live].
func (c *Changer) SetFurther(ctx context.Context, further map[string]string) (left []string, err error) {
	var text strings.Builder
	options := c.start.options()
	for _, name := range slices.Sorted(maps.Keys(further)) {
		i := slices.IndexFunc(options, func(o option) bool { return o.env == name })
		if i < 0 || options[i].effect() != Live || strings.Contains(further[name], "\n") {
			left = append(left, name)
			continue
		}
		fmt.Fprintf(&text, "%s=%s\n", name, further[name])
	}
	_, err = c.change(ctx, layerFurther, text.String())
	return left, err
}

// change reads all settings again, with a new text in one of the layers.
func (c *Changer) change(ctx context.Context, l layer, text string) (Changes, error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return Changes{}, ctx.Err()
	}
	texts := c.texts
	if l < layers {
		texts[l] = text
	}
	next, err := parse(c.args, c.getenv, texts[:]...)
	if err != nil {
		return Changes{}, badSettings{err}
	}
	cfg, err := next.Agent()
	if err != nil {
		return Changes{}, badSettings{err}
	}
	if c.Adjust != nil {
		c.Adjust(&cfg)
	}
	waiting, err := c.Agent.Reconfigure(ctx, cfg)
	if err != nil {
		return Changes{}, err
	}
	c.level.Set(next.Level())
	changes := next.since(&c.start, &c.latest)
	for _, w := range next.Warnings() {
		c.Logger.Warn(w)
	}
	c.Logger.Info("settings read", "live", changes.Live, "waiting", changes.Waiting, "fields", waiting)
	c.latest, c.texts = next, texts
	c.present.Store(&next)
	return changes, nil
}

// badSettings is an error in settings.
type badSettings struct{ error }

// maxSettings bounds the body of a PUT in bytes.
const maxSettings = 1 << 20

// Handler serves PUT /v1/config: settings in the format of the file, in the place of those
// of the PUT before.
func (c *Changer) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/config", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxSettings))
		if err != nil {
			reply(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
			return
		}
		changes, err := c.change(r.Context(), layerPut, string(body))
		if err == nil {
			reply(w, http.StatusOK, changes)
			return
		}
		status := http.StatusServiceUnavailable
		if bad := (badSettings{}); errors.As(err, &bad) || errors.Is(err, ipamd.ErrConfig) {
			status = http.StatusBadRequest
		}
		c.Logger.Warn("refused settings", "err", err)
		reply(w, status, map[string]string{"error": err.Error()})
	})
	return mux
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // an error means that the client has ended
}
