// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/vpcnet/vpcnet/cniplugin/internal/statedir"
)

// gc removes the attachments that the runtime does not list. A missing list is an
// error and not an empty list, because the list protects pods that run.
func gc(ctx context.Context, c *call) error {
	ctx, cancel := context.WithTimeout(ctx, c.conf.timeout())
	defer cancel()
	valid, err := validAttachments(c.stdin, c.Network)
	if err != nil {
		return err
	}
	resp, err := c.client(agentWait).GC(ctx, GCRequest{Network: c.Network, Valid: valid})
	if err != nil {
		return CNIError(err)
	}
	var errs []error
	for i, a := range resp.Stale {
		if ctx.Err() != nil {
			return &Error{
				Code: CodeTryAgainLater, Msg: fmt.Sprintf("%d stale attachments are left for the next GC", len(resp.Stale)-i),
				Details: ctx.Err().Error(),
			}
		}
		if a.Network != c.Network || slices.Contains(valid, a) {
			c.log.Error("the agent reports an attachment as stale that is in use or of another network", "stale", a.String())
			continue
		}
		if err := c.collect(ctx, a); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return &Error{Code: CodeDatapath, Msg: fmt.Sprintf("%d stale attachments cannot be removed", len(errs)), Details: err.Error()}
	}
	return nil
}

// collect removes one stale attachment. If another command is working on it,
// collect leaves it to that command: a DEL removes the attachment, and after an
// ADD it is no longer stale.
func (c *call) collect(ctx context.Context, a Attachment) error {
	lock, err := statedir.TryAcquire(c.conf.tombstones(), a.String())
	switch {
	case errors.Is(err, statedir.ErrBusy):
		c.log.Info("stale attachment is left to the command that works on it", "stale", a.String())
		return nil
	case err != nil:
		c.log.Warn("deleting without the lock of the attachment", "stale", a.String(), "err", err)
	default:
		defer lock.Release()
	}
	return c.remove(ctx, c.podOf(a, ""), nil, nil)
}

// validAttachments reads the list of attachments in use under either of its
// names: the text of the specification says cni.dev/valid-attachments, other
// parts of it say cni.dev/attachments, and libcni sends both.
func validAttachments(stdin []byte, network string) ([]Attachment, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(stdin, &fields); err != nil {
		return nil, &Error{Code: CodeDecodingFailure, Msg: "network configuration cannot be read", Details: err.Error()}
	}
	const key, otherKey = "cni.dev/valid-attachments", "cni.dev/attachments"
	raw, ok := fields[key]
	if !ok {
		raw, ok = fields[otherKey]
	}
	if !ok {
		return nil, &Error{Code: CodeInvalidConfig, Msg: "missing " + key, Details: "GC needs the list of attachments in use"}
	}
	var list []struct {
		ContainerID string `json:"containerID"`
		IfName      string `json:"ifname"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, &Error{Code: CodeDecodingFailure, Msg: key + " cannot be read", Details: err.Error()}
	}
	valid := make([]Attachment, 0, len(list))
	for _, a := range list {
		valid = append(valid, Attachment{Network: network, ContainerID: a.ContainerID, IfName: a.IfName})
	}
	return valid, nil
}
