// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/server"
	"github.com/vpcnet/vpcnet/cniplugin/servertest"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

// The environment variable agentEnv makes the test program an agent that listens on
// the given path, for tests that stop or kill an agent. With hangEnv, the Add of
// that agent prints a line and never answers.
const (
	agentEnv = "CNIPLUGIN_TEST_AGENT"
	hangEnv  = "CNIPLUGIN_TEST_HANG"
)

func TestMain(m *testing.M) {
	if socket := os.Getenv(agentEnv); socket != "" {
		fmt.Fprintln(os.Stderr, serveAlone(socket))
		os.Exit(1)
	}
	isolatetest.Test(m)
}

func serveAlone(socket string) error {
	l, err := server.Listen(socket)
	if err != nil {
		return err
	}
	agent := servertest.New(servertest.Config{
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24")}, ENI: "eni-0a", Device: 1, Layout: "per-pod",
	})
	s := &server.Server{Backend: agent}
	if os.Getenv(hangEnv) != "" {
		s.Backend = hanging{agent}
	}
	return s.Serve(context.Background(), l)
}

// hanging is an agent that allocates addresses and never answers.
type hanging struct{ *servertest.Agent }

func (h hanging) Add(ctx context.Context, req cniplugin.AddRequest) (cniplugin.AddResponse, error) {
	_, err := h.Agent.Add(ctx, req)
	fmt.Println("allocated", err)
	select {}
}
