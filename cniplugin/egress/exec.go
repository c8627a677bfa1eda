// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"runtime"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// executor executes IPAM plugins. On Linux the kernel kills the IPAM plugin if this one is
// killed: an ADD that goes on alone would allocate an address after the runtime's DEL.
type executor struct {
	version.PluginDecoder
	stderr io.Writer
}

var _ invoke.Exec = (*executor)(nil)

func (*executor) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

// ExecPlugin executes a command and returns its output, or the error that it prints.
func (e *executor) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	runtime.LockOSThread() // the kernel watches the thread that starts the process
	defer runtime.UnlockOSThread()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = environ, bytes.NewReader(stdin), &out, e.stderr, endsWithParent()
	err := cmd.Run()
	if err == nil {
		return out.Bytes(), nil
	}
	var printed types.Error
	if json.Unmarshal(out.Bytes(), &printed) == nil && printed.Msg != "" {
		return nil, &printed
	}
	return nil, fmt.Errorf("%w: %q", err, out.String())
}
