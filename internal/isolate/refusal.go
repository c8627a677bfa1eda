// SPDX-License-Identifier: Apache-2.0

package isolate

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// obstacle is a setting of the machine that forbids new namespaces.
type obstacle struct {
	setting string // below /proc/sys, with dots
	bad     string // the value that forbids them
	good    string // a value that permits them
	errno   syscall.Errno
	why     string
}

// obstacles are the settings in the order in which the kernel checks them. The limits below
// user.max_ are per user and hold also for root.
var obstacles = []obstacle{
	{"user.max_user_namespaces", "0", "10000", syscall.ENOSPC, "this machine permits no user namespaces"},
	{"user.max_net_namespaces", "0", "10000", syscall.ENOSPC, "this machine permits no network namespaces"},
	{"user.max_mnt_namespaces", "0", "10000", syscall.ENOSPC, "this machine permits no mount namespaces"},
	{"user.max_pid_namespaces", "0", "10000", syscall.ENOSPC, "this machine permits no PID namespaces"},
	{"kernel.unprivileged_userns_clone", "0", "1", syscall.EPERM, "this machine permits user namespaces only to root"},
	{"kernel.apparmor_restrict_unprivileged_userns", "1", "0", syscall.EPERM, "AppArmor takes the capabilities from the user namespaces of ordinary users"},
}

// refusal returns an error that names the reason why the kernel refused new namespaces to
// a user, and a remedy. setting returns the value of a setting of the machine, "" if the
// machine does not have it.
func refusal(err error, uid int, setting func(name string) string) error {
	reason, remedy := "", "run it as root, or in a container with CAP_SYS_ADMIN and without a seccomp filter for unshare"
	for _, o := range obstacles {
		onlyUsers := o.errno == syscall.EPERM || o.setting == "user.max_user_namespaces"
		if strings.TrimSpace(setting(o.setting)) != o.bad || onlyUsers && uid == 0 || !o.explains(err) {
			continue
		}
		reason = fmt.Sprintf(": %s (%s is %s)", o.why, o.setting, o.bad)
		remedy = fmt.Sprintf("run `sysctl -w %s=%s` as root", o.setting, o.good)
		if onlyUsers {
			remedy += ", or run this program as root"
		}
		break
	}
	if reason == "" && errors.Is(err, syscall.ENOSPC) {
		reason, remedy = ": all namespaces that a user may have are in use", "end programs that hold namespaces, or raise user.max_user_namespaces and user.max_net_namespaces"
	}
	return fmt.Errorf("the kernel refuses new namespaces to uid %d%s: %w; %s", uid, reason, err, remedy)
}

// explains reports whether the setting can be the reason for err.
func (o obstacle) explains(err error) bool {
	// Access denied is the answer of AppArmor to the write of the user map.
	return errors.Is(err, o.errno) || o.errno == syscall.EPERM && errors.Is(err, syscall.EACCES)
}
