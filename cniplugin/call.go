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
	// agentWait is how long CHECK and GC wait for an agent that is away: longer
	// than an agent needs to start, and much shorter than a runtime waits. ADD
	// waits for as long as its deadline allows, because a failed ADD costs the pod
	// the runtime's pause between two tries, 10 s for a kubelet.
	agentWait = 10 * time.Second
	// undoTime is the time for taking back an ADD that failed: up to so much of
	// its deadline is reserved for it, and so much it gets after the deadline has
	// passed, as when the process was stopped.
	undoTime = time.Second
	// removeTimeout bounds the kernel's part of a DEL, which takes milliseconds,
	// and some seconds when hundreds of links are deleted at once.
	removeTimeout = 30 * time.Second
	// releaseTimeout bounds one call that gives an address back. A tombstone is
	// as good as an answer, so a DEL does not wait long for a busy agent.
	releaseTimeout = 3 * time.Second
	// lookupTimeout bounds the question which addresses a pod had, whose answer
	// is there at once or not worth waiting for.
	lookupTimeout = time.Second
	// stuckTimeout bounds a release after the agent has let a call of the same
	// command run into its timeout: it will hardly answer the next.
	stuckTimeout = 100 * time.Millisecond
	// statusTimeout is how long STATUS waits for an agent that restarts. A
	// kubelet asks the runtime for its status, and containerd 2 then each plugin,
	// one request after the other with pauses of 5 s. One that fails makes the
	// node NotReady; so does a runtime that has not answered for 30 s. 10 s are
	// many times an agent's restart, and with the pause half of those 30.
	statusTimeout = 10 * time.Second
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
	// stuck means that the agent has let a call run into its timeout.
	stuck bool
	// overtaking means that a DEL goes on while another command holds the lock.
	overtaking bool
}

func (c *call) client(wait time.Duration) Client {
	return Client{Socket: c.conf.AgentSocket, Wait: wait}
}

// note remembers whether err, of a call to the agent, was a timeout.
func (c *call) note(err error) { c.stuck = c.stuck || errors.Is(err, context.DeadlineExceeded) }

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
	case errors.Is(err, datapath.ErrAddressTaken):
		return newError(CodeTryAgainLater, ReasonAddressTaken+": an address that the agent gave leads to another pod", err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return newError(CodeTryAgainLater, "the kernel has not finished in time", err.Error())
	}
	return newError(CodeDatapath, "network of the pod cannot be changed", err.Error())
}
