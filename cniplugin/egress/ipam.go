// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// ipam calls the IPAM plugin of a configuration.
type ipam struct {
	kind string
	// dirs are the directories of plugins, as in CNI_PATH.
	dirs string
	exec invoke.Exec
}

// find returns the path of the plugin.
func (p ipam) find() (string, error) {
	path, err := p.exec.FindInPath(p.kind, filepath.SplitList(p.dirs))
	if err != nil {
		return "", types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("invalid ipam.type %q", p.kind), err.Error())
	}
	return path, nil
}

// args returns the environment of a command. It has no CNI_ARGS: an address there is one for
// the pod's first interface.
func (p ipam) args(command string, a attachment, netns string) *invoke.Args {
	return &invoke.Args{Command: command, ContainerID: a.ContainerID, NetNS: netns, IfName: a.IfName, Path: p.dirs}
}

// add allocates addresses.
func (p ipam) add(ctx context.Context, stdin []byte, a attachment, netns string) (*types100.Result, error) {
	path, err := p.find()
	if err != nil {
		return nil, err
	}
	r, err := invoke.ExecPluginWithResult(ctx, path, stdin, p.args("ADD", a, netns), p.exec)
	if err != nil {
		return nil, p.failed("ADD", err)
	}
	return types100.NewResultFromResult(r)
}

// run executes a command that has no result. GC has no attachment.
func (p ipam) run(ctx context.Context, command string, stdin []byte, a attachment, netns string) error {
	path, err := p.find()
	if err != nil {
		return err
	}
	return p.failed(command, invoke.ExecPluginWithoutResult(ctx, path, stdin, p.args(command, a, netns), p.exec))
}

// failed adds the plugin and the command to its error, and keeps the code.
func (p ipam) failed(command string, err error) error {
	var e *types.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return types.NewError(e.Code, fmt.Sprintf("%s of IPAM plugin %s: %s", command, p.kind, e.Msg), e.Details)
	}
	return fmt.Errorf("%s of IPAM plugin %s: %w", command, p.kind, err)
}

// withAttachments returns the configuration of a GC with another list of valid attachments.
func withAttachments(stdin []byte, valid []types.GCAttachment) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(stdin, &fields); err != nil {
		return nil, err
	}
	list, err := json.Marshal(valid)
	if err != nil {
		return nil, err
	}
	fields["cni.dev/valid-attachments"], fields["cni.dev/attachments"] = list, list
	return json.Marshal(fields)
}
