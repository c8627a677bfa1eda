// SPDX-License-Identifier: Apache-2.0

// Package isolate runs a program in user, network, mount and PID namespaces of
// its own, so that whatever it does to links, routes, rules, sysctls and mounts
// ends with it and never touches the machine.
//
// Root gets network, mount and PID namespaces; an ordinary user gets a user
// namespace around them in which it is root. The PID namespace is what makes
// the clean-up certain: when the first process ends, however it ends, the
// kernel kills all others and, with the last of them, every namespace goes.
//
// Tests use package isolatetest; examples/lab starts itself again with [Command].
package isolate
