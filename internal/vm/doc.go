// SPDX-License-Identifier: Apache-2.0

// Package vm has one test, which runs tests of other packages in an emulated
// machine: those of datapath and internal/fabric that need kinds of links that many
// kernels lack, on a Debian kernel that has them, and those of internal/crash that
// set the wall clock, which no namespace has for itself. The machine is QEMU's, in
// software, and needs no privilege; its file system is an image in memory of the
// test binaries, the programs that they execute, the modules and the program in
// init. The script .ci/kernel fetches the kernel.
package vm
