// SPDX-License-Identifier: Apache-2.0

// Init is the first process of the emulated machine of internal/vm. It loads
// /modules/*.ko in order of name, runs /test with its own arguments, prints the exit
// code of /test and turns the machine off.
package main
