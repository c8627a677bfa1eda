// SPDX-License-Identifier: Apache-2.0

// Package vm runs tests of other packages in an emulated machine: tests of datapath
// and internal/fabric that need kinds of links that many kernels do not have, on a
// Debian kernel that has them, and tests of internal/crash that set the wall clock,
// for which Linux has no namespace. A machine without IPv6 in its kernel and, at first,
// without modules runs tests of datapath and snat, and examples/lab.
//
// QEMU emulates the machine in software and needs no privileges. The file system of
// the machine is in memory and contains the test binaries, the programs that they
// execute, the kernel modules and the program in directory init. The script
// .ci/kernel fetches the kernel.
package vm
