// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// gc takes down what the runtime does not list. The list is what keeps running
// pods, so its absence is an error and not an empty list.
func gc(ctx context.Context, c *call) error {
	ctx, cancel := context.WithTimeout(ctx, c.conf.timeout())
	defer cancel()
	valid, err := validAttachments(c.stdin, c.Network)
	if err != nil {
		return err
	}
	resp, err := c.client(agentWait).GC(ctx, GCRequest{Network: c.Network, Valid: valid})
	if err != nil {
		return agentFailure(err)
	}
	var errs []error
	for i, a := range resp.Stale {
		if ctx.Err() != nil {
			return newError(CodeTryAgainLater, fmt.Sprintf("%d stale attachments are left for the next GC", len(resp.Stale)-i), ctx.Err().Error())
		}
		if a.Network != c.Network || slices.Contains(valid, a) {
			c.log.Error("agent calls an attachment stale that is not", "stale", a.String())
			continue
		}
		if err := c.collect(ctx, a); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return newError(CodeDatapath, fmt.Sprintf("%d stale attachments cannot be removed", len(errs)), err.Error())
	}
	return nil
}

// collect removes one stale attachment. One that another command is working on
// is left to that command: a DEL removes it, and after an ADD it is not stale.
func (c *call) collect(ctx context.Context, a Attachment) error {
	lock, err := tryLockAttachment(c.conf.tombstones(), a)
	switch {
	case errors.Is(err, errBusy):
		c.log.Info("stale attachment is left to the command that works on it", "stale", a.String())
		return nil
	case err != nil:
		c.log.Warn("deleting without the lock of the attachment", "stale", a.String(), "err", err)
	default:
		defer lock.unlock()
	}
	return c.remove(ctx, c.podOf(a, ""), nil)
}

// validAttachments reads the list under either of its names: the specification
// says cni.dev/valid-attachments in its text and cni.dev/attachments elsewhere,
// and libcni sends both.
func validAttachments(stdin []byte, network string) ([]Attachment, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(stdin, &fields); err != nil {
		return nil, newError(CodeDecodingFailure, "network configuration cannot be read", err.Error())
	}
	const key, otherKey = "cni.dev/valid-attachments", "cni.dev/attachments"
	raw, ok := fields[key]
	if !ok {
		raw, ok = fields[otherKey]
	}
	if !ok {
		return nil, newError(CodeInvalidConfig, "missing "+key, "GC needs the list of attachments in use")
	}
	var list []struct {
		ContainerID string `json:"containerID"`
		IfName      string `json:"ifname"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, newError(CodeDecodingFailure, key+" cannot be read", err.Error())
	}
	valid := make([]Attachment, 0, len(list))
	for _, a := range list {
		valid = append(valid, Attachment{Network: network, ContainerID: a.ContainerID, IfName: a.IfName})
	}
	return valid, nil
}
