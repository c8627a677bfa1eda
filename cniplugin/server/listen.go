// SPDX-License-Identifier: Apache-2.0

package server

import "errors"

// ErrInUse means that another process is listening on the socket.
var ErrInUse = errors.New("socket is in use by a running agent")
