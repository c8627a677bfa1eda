// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
)

const (
	// agentWait is how long ADD, CHECK and GC wait for an agent that is away:
	// longer than an agent needs to start, and much shorter than a runtime waits.
	agentWait = 10 * time.Second
	// releaseTimeout bounds one call that gives an address back. A tombstone is
	// as good as an answer, so nobody has to wait for a busy agent.
	releaseTimeout = 5 * time.Second
	// lookupTimeout bounds the question which addresses a pod had, whose answer
	// is there at once or not worth waiting for.
	lookupTimeout = time.Second
	// statusTimeout is short because runtimes ask all the time.
	statusTimeout = 5 * time.Second
)

// call is one invocation, parsed and checked.
type call struct {
	Attachment
	conf  NetConf
	netns string
	pod   Pod
	stdin []byte
	out   io.Writer
	log   *slog.Logger
}

func (c *call) client(wait time.Duration) Client {
	return Client{Socket: c.conf.AgentSocket, Wait: wait}
}

func (c *call) podOf(a Attachment, netns string) datapath.Pod {
	return datapath.Pod{
		ContainerID:    a.ContainerID,
		IfName:         a.IfName,
		Netns:          netns,
		HostLinkPrefix: c.conf.vethPrefix(),
	}
}

// needSandbox makes sure that CNI_NETNS is a network namespace other than the
// node's own.
func (c *call) needSandbox() error {
	switch err := checkSandbox(c.netns); {
	case errors.Is(err, datapath.ErrNoSandbox):
		return newError(CodeUnknownContainer, fmt.Sprintf("invalid CNI_NETNS %q", c.netns), err.Error())
	case err != nil:
		return newError(CodeInvalidEnvironment, fmt.Sprintf("invalid CNI_NETNS %q", c.netns), err.Error())
	}
	return nil
}

// datapathFailure gives the kernel's refusal the CNI code that fits.
func datapathFailure(err error) *Error {
	switch {
	case errors.Is(err, datapath.ErrNoSandbox):
		return newError(CodeUnknownContainer, "invalid CNI_NETNS: the sandbox is gone", err.Error())
	case errors.Is(err, datapath.ErrInterfaceTaken):
		return newError(CodeInvalidEnvironment, "invalid CNI_IFNAME: the sandbox has this interface already", err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return newError(CodeTryAgainLater, "the kernel has not finished in time", err.Error())
	}
	return newError(CodeDatapath, "network of the pod cannot be changed", err.Error())
}
