// SPDX-License-Identifier: Apache-2.0

// Package server is the agent's side of package cniplugin. [Server] listens on the
// unix socket, checks the user of each caller, and passes each call to a [Backend].
// [CollectTombstones] releases the addresses of pods that were deleted while no
// agent answered, and [WriteConflist] makes the runtime use the plugin.
//
// It is a separate package because it needs net/http. That would add a fifth to
// the start-up time of the plugin, which a runtime starts twice for each pod, and
// three quarters to its size.
package server
