// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/datapath"
)

// errOwnNetns means that a sandbox is the plugin's own network namespace. To
// change an interface there under the name that the runtime gives would cut off
// the node.
var errOwnNetns = errors.New("it is the network namespace of the node")

// checkSandbox returns an error unless path is a network namespace other than the
// process's own. After a reboot, a runtime may pass the path of a plain file on
// which the namespace was mounted before.
func checkSandbox(path string) error {
	var there, own unix.Stat_t
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", datapath.ErrNoSandbox, err)
	}
	defer unix.Close(fd)
	if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return fmt.Errorf("%w: the file is not a network namespace", datapath.ErrNoSandbox)
	}
	if err := errors.Join(unix.Fstat(fd, &there), unix.Stat("/proc/thread-self/ns/net", &own)); err != nil {
		return err
	}
	if there.Dev == own.Dev && there.Ino == own.Ino {
		return errOwnNetns
	}
	return nil
}
