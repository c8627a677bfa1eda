// SPDX-License-Identifier: Apache-2.0

// Package vm has one test, which runs those tests of datapath and internal/fabric
// that need kinds of links that many kernels lack in an emulated machine, on a
// Debian kernel that has them. The machine is QEMU's, in software, and needs no
// privilege; its file system is an image in memory of the test binaries, the
// modules and the program in init. The script .ci/kernel fetches the kernel.
package vm
