// SPDX-License-Identifier: Apache-2.0

// Package uml has one test, which runs those tests of datapath that need kinds
// of links that many kernels lack in User-Mode Linux, see .ci/uml.
package uml
