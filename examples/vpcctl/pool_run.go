// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vpcnet/vpcnet/warmpool/sim"
)

// job is one policy on one trace.
type job struct {
	cfg   sim.Config
	trace sim.Trace
}

// simulate runs the jobs on all processors and returns the reports in order.
func simulate(ctx context.Context, jobs []job, p *progress) ([]sim.Report, error) {
	defer p.done()
	reports := make([]sim.Report, len(jobs))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, j := range jobs {
		g.Go(func() error {
			j.cfg.Progress = func(at time.Duration) { p.at(i, float64(at)/float64(j.trace.Horizon)) }
			r, err := sim.Run(ctx, j.cfg, j.trace)
			if err != nil {
				return fmt.Errorf("%s on %s: %w", j.cfg.Name, j.trace.Name, err)
			}
			reports[i] = r
			p.at(i, 1)
			return nil
		})
	}
	return reports, g.Wait()
}

// progress shows the progress of the runs on a terminal.
type progress struct {
	w     io.Writer
	start time.Time

	mu    sync.Mutex
	parts []float64
	shown time.Time
}

// newProgress returns nil, which shows nothing, if w is not a terminal.
func newProgress(w io.Writer, runs int) *progress {
	f, ok := w.(*os.File)
	if !ok {
		return nil
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return nil
	}
	return &progress{w: w, start: time.Now(), parts: make([]float64, runs)}
}

func (p *progress) at(i int, part float64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parts[i] = part
	if time.Since(p.shown) < 100*time.Millisecond {
		return
	}
	p.shown = time.Now()
	sum, ended := 0.0, 0
	for _, x := range p.parts {
		if sum += x; x == 1 {
			ended++
		}
	}
	fmt.Fprintf(p.w, "\r\033[K%3.0f %%  %d of %d runs  %s", 100*sum/float64(len(p.parts)), ended, len(p.parts), time.Since(p.start).Round(time.Second))
}

func (p *progress) done() {
	if p != nil {
		fmt.Fprint(p.w, "\r\033[K")
	}
}
