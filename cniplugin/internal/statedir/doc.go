// SPDX-License-Identifier: Apache-2.0

// Package statedir manages the files that CNI plugin processes and the node
// agent share in a directory: a lock for each attachment, and records of
// attachments. Attachments are named by a key, which is a string of any length.
package statedir
