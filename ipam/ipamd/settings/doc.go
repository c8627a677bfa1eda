// SPDX-License-Identifier: Apache-2.0

// Package settings has the settings of the node agent as flags, environment variables and
// lines of a file, under the names of amazon-vpc-cni-k8s where it has them. [Parse] turns
// them into an [ipamd.Config], for programs that embed package ipamd and want the same
// settings as the reference program, and a [Changer] does so again while the agent runs.
// docs/settings.md lists them all.
package settings
