// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"context"
	"log/slog"
	"time"
)

// WatchConfig says what [Handle.Watch] keeps up. Desired is needed.
type WatchConfig struct {
	// Desired returns the rules that are wanted, and false as long as none are:
	// Watch then leaves the table alone. It is called for each look, on Watch's
	// goroutine, and should be quick. A caller that applies other rules makes
	// Desired return them before it calls Apply.
	Desired func() (Ruleset, bool)
	// Repaired is called after each repair, for metrics. Optional.
	Repaired func(Repair)
	// Logger gets a line for each repair. Optional.
	Logger *slog.Logger
	// Every is how often to look although the kernel reports nothing. One minute
	// if 0.
	Every time.Duration
	// Exclusive calls look, which reads the table and repairs it, while the caller
	// keeps it from work of its own, and returns its error or the reason why it
	// was not called. Optional: a look and an Apply of the same Handle take turns
	// anyway.
	Exclusive func(ctx context.Context, look func() error) error
}

// Repair is what Watch found and did.
type Repair struct {
	// Changes lists in words what others had changed.
	Changes []string
	// Took is the time from the kernel's report to the end of the repair; from the
	// beginning of the look if there was no report.
	Took time.Duration
	// By names the programs that changed the table, as "nft (pid 7)", as far as
	// the kernel tells: none if the change was found without a report.
	By []string
	// Fighting means that another program changed the same part so often that
	// Watch now waits before it repairs that part again.
	Fighting bool
	// Err is why the table could not be repaired; Watch tries again.
	Err error
}
