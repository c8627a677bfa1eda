// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package server

import (
	"net"

	"github.com/vpcnet/vpcnet/cniplugin"
)

// Listen returns [cniplugin.ErrNotSupported].
func Listen(string) (net.Listener, error) { return nil, cniplugin.ErrNotSupported }

func peerGone(net.Conn) bool { return false }

func peerUID(net.Conn) (uint32, error) { return 0, cniplugin.ErrNotSupported }
