// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"context"
	"io"
)

// Plugin answers CNI commands. Its zero value is the plugin.
type Plugin struct {
	// Version is printed by a call without CNI_COMMAND. Optional.
	Version string
}

// Invocation is what a runtime hands to a plugin process.
type Invocation struct {
	// Getenv returns the value of an environment variable, as os.Getenv.
	Getenv func(string) string
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
}

// Main carries one invocation out and returns the exit status of the process.
// Only the CNI result or error goes to Stdout.
func (p Plugin) Main(ctx context.Context, inv Invocation) int { return 1 }
