// SPDX-License-Identifier: Apache-2.0

// Command coredns is CoreDNS with the plugins that the tests need. The program of the module has
// those of every cloud, which would take longer to build than the tests run.
package main

import (
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
)

func main() { coremain.Run() }
