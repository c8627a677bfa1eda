// SPDX-License-Identifier: Apache-2.0

// Package plugins is a module with CNI plugins that combine package cniplugin with
// packages of github.com/containernetworking/plugins: hostlocal has the addresses of
// upstream's host-local, and ptp has a datapath of its own. It is a module of its own
// because these packages would be in the module graph of the libraries. See
// ../standalone for a plugin without an agent.
package plugins
