// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package egress

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
)

// errNotSupported is returned on every system but Linux.
var errNotSupported = fmt.Errorf("egress: %w", errors.ErrUnsupported)

func checkSandbox(string) error                       { return errNotSupported }
func (w wiring) connect(context.Context) error        { return errNotSupported }
func (w wiring) faults() ([]string, error)            { return nil, errNotSupported }
func disconnect(string) error                         { return errNotSupported }
func linked() (map[attachment][]string, error)        { return nil, errNotSupported }
func routed() (map[netip.Addr]bool, error)            { return nil, errNotSupported }
func hasNodeAddr(netip.Addr) (link string, err error) { return "", errNotSupported }
