// SPDX-License-Identifier: Apache-2.0

// Init is the first process of the emulated machine of internal/vm. It loads
// /modules/*.ko in order of name and runs the commands in its arguments, with a plus sign
// between two of them, until one fails. Then it prints the exit code of the last one and
// turns the machine off.
package main
