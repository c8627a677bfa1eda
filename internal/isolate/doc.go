// SPDX-License-Identifier: Apache-2.0

// Package isolate runs a program in new network, mount and PID namespaces, so that
// its changes to links, routes, rules, sysctls and mounts do not affect the machine
// and end with the program.
//
// If the caller is not root, the program also gets a user namespace, in which it is
// root. The PID namespace guarantees the clean-up: when its first process ends, for
// any reason, the kernel kills all other processes in it and then removes the
// namespaces.
//
// Tests use package isolatetest; examples/lab starts itself again with [Command].
package isolate
