// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/datapath"
)

// errOwnNetns means that a sandbox is the plugin's own network namespace, in
// which changing an interface by the runtime's name would cut off the node.
var errOwnNetns = errors.New("it is the network namespace of the node")

// checkSandbox reports whether path is a network namespace other than the
// process's own. After a reboot runtimes may hand out the plain file that a
// namespace was mounted on; that is no namespace.
func checkSandbox(path string) error {
	var there, own unix.Stat_t
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", datapath.ErrNoSandbox, err)
	}
	defer unix.Close(fd)
	if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return fmt.Errorf("%w: the file is something else", datapath.ErrNoSandbox)
	}
	if err := errors.Join(unix.Fstat(fd, &there), unix.Stat("/proc/thread-self/ns/net", &own)); err != nil {
		return err
	}
	if there.Dev == own.Dev && there.Ino == own.Ino {
		return errOwnNetns
	}
	return nil
}
