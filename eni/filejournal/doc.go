// SPDX-License-Identifier: Apache-2.0

// Package filejournal keeps the intents of package eni in one file, so that
// they survive a crash of the process and of the machine.
package filejournal
