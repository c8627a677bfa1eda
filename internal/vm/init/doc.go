// SPDX-License-Identifier: Apache-2.0

// Init is the first process of the emulated machine of internal/vm. It loads
// /modules/*.ko in order of name, runs /test with its own arguments, says with
// which code it ended and turns the machine off.
package main
