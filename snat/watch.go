// SPDX-License-Identifier: Apache-2.0

package snat

import (
	"context"
	"log/slog"
	"time"
)

// WatchConfig is the configuration of [Handle.Watch]. Desired is needed.
type WatchConfig struct {
	// Desired returns the rules that the table must hold. It returns false as long
	// as there are none to keep; Watch then leaves the table alone. Watch calls it on
	// its own goroutine before each comparison, so it should be quick. Before a
	// caller applies other rules, Desired must return them.
	Desired func() (Ruleset, bool)
	// Repaired is called after each repair, for metrics. Optional.
	Repaired func(Repair)
	// Logger gets a line for each repair. Optional.
	Logger *slog.Logger
	// Every is the time after which Watch reads the table although the kernel
	// reported no change; 0 is one minute.
	Every time.Duration
	// Exclusive calls check, which reads the table and repairs it, while the caller
	// does no work of its own that check must not meet. It returns the error of
	// check, or the reason why it did not call it. Optional: check and an Apply of
	// the same Handle never run at the same time.
	Exclusive func(ctx context.Context, check func() error) error
}

// Repair describes a repair by Watch.
type Repair struct {
	// Changes lists in words what other programs had changed.
	Changes []string
	// Took is the time from the kernel's report to the end of the repair, or from
	// the beginning of the comparison if there was no report.
	Took time.Duration
	// By names the programs that changed the table, as "nft (pid 7)", if the kernel
	// told. It is empty if Watch found the change without a report.
	By []string
	// Fighting means that another program changed the same part so often that
	// Watch now waits before it repairs that part again.
	Fighting bool
	// Err is why the table could not be repaired; Watch tries again.
	Err error
}
