// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
)

const (
	// agentWait is how long CHECK and GC wait for an agent that is away: longer
	// than an agent needs to start, and much shorter than a runtime waits. ADD
	// waits as long as its deadline allows, because after a failed ADD the pod
	// waits for the next attempt of the runtime, 10 s with a kubelet.
	agentWait = 10 * time.Second
	// undoTime is the time for undoing an ADD that failed. ADD reserves up to this
	// much of its deadline, and undo gets this much after the deadline has passed,
	// for example because the process was stopped.
	undoTime = time.Second
	// lockWait is how long a DEL waits for the lock of its attachment. A command
	// holds the lock for milliseconds, or for as long as an ADD waits for an
	// address. The holder may also have been stopped, and the DEL must still delete
	// the pod.
	lockWait = 5 * time.Second
	// fenceAfter is how old the lock of an ADD is when a DEL may have gone on
	// without it. It is less than lockWait, so that the ADD misses no such DEL.
	fenceAfter = lockWait - time.Second
	// removeTimeout bounds the kernel's part of a DEL, which takes milliseconds,
	// and some seconds when hundreds of links are deleted at once.
	removeTimeout = 30 * time.Second
	// releaseTimeout bounds one call that releases addresses. A tombstone has the
	// same effect as an answer, so a DEL does not wait long for a busy agent.
	releaseTimeout = 3 * time.Second
	// lookupTimeout bounds the call that asks which addresses a pod has. The agent
	// answers it at once, or the answer is not worth waiting for.
	lookupTimeout = time.Second
	// stuckTimeout bounds a release after the agent has let an earlier call of the
	// same command time out: it will probably not answer the next one either.
	stuckTimeout = 100 * time.Millisecond
	// statusTimeout is how long STATUS waits for an agent that restarts. A kubelet
	// asks the runtime for its status, and containerd 2 then calls STATUS of each
	// plugin. The kubelet pauses for 5 s between requests. The node becomes
	// NotReady if one request fails, or if the runtime has not answered for 30 s.
	// 10 s are many times the duration of a restart, and together with the pause
	// half of those 30 s.
	statusTimeout = 10 * time.Second
)

// call is one invocation, parsed and validated.
type call struct {
	Attachment
	plugin Plugin
	conf   config
	// confErr is why a command that is lenient could not use the whole configuration.
	confErr error
	netns   string
	pod     Pod
	wants   wants
	stdin   []byte
	out     io.Writer
	log     *slog.Logger
	// agentStuck means that a call of this command to the agent has timed out.
	agentStuck bool
	// releaseErr is the error of an own Allocator that has not released addresses.
	releaseErr error
	// unlocked means that a DEL goes on while another command holds the lock.
	unlocked bool
}

// client returns the Allocator of the Plugin or, if that is nil, a Client that waits
// for the agent.
func (c *call) client(wait time.Duration) backend {
	if c.plugin.Allocator != nil {
		return backend{c.plugin.Allocator}
	}
	return backend{Client{Socket: c.conf.AgentSocket, Wait: wait}}
}

// recordTimeout sets agentStuck if err, returned by a call to the agent, is a
// timeout.
func (c *call) recordTimeout(err error) {
	c.agentStuck = c.agentStuck || errors.Is(err, context.DeadlineExceeded)
}

func (c *call) podOf(a Attachment, netns string) datapath.Pod {
	return datapath.Pod{
		ContainerID:    a.ContainerID,
		IfName:         a.IfName,
		Netns:          netns,
		HostLinkPrefix: c.conf.vethPrefix(),
	}
}

// validateSandbox returns an error unless CNI_NETNS is a network namespace other
// than the node's own.
func (c *call) validateSandbox() error {
	err := checkSandbox(c.netns)
	if err == nil {
		return nil
	}
	e := &Error{Code: CodeInvalidEnvironment, Msg: "invalid CNI_NETNS " + shorten(c.netns), Details: err.Error()}
	if errors.Is(err, datapath.ErrNoSandbox) {
		e.Code = CodeUnknownContainer
	}
	return e
}

// datapathFailure returns the CNI error for an error of package datapath or of a
// Wiring.
func datapathFailure(err error) *Error {
	if _, ok := asError(err); ok {
		return CNIError(err)
	}
	e := &Error{Code: CodeDatapath, Msg: "network of the pod cannot be changed", Details: err.Error()}
	for _, known := range []struct {
		is   error
		code Code
		msg  string
	}{
		{datapath.ErrNoSandbox, CodeUnknownContainer, "invalid CNI_NETNS: the sandbox is gone"},
		{datapath.ErrInterfaceTaken, CodeInvalidEnvironment, "invalid CNI_IFNAME: the sandbox has this interface already"},
		{datapath.ErrAddressTaken, CodeTryAgainLater, ReasonAddressTaken + ": an address that the agent gave leads to another pod"},
		{context.DeadlineExceeded, CodeTryAgainLater, "the kernel did not finish before the deadline"},
	} {
		if errors.Is(err, known.is) {
			e.Code, e.Msg = known.code, known.msg
			e.Details = strings.Replace(err.Error(), ": "+known.is.Error(), "", 1) // e.Msg says it
			break
		}
	}
	return e
}
