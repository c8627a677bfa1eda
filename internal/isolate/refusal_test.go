// SPDX-License-Identifier: Apache-2.0

package isolate

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// TestRefusal checks the text for each setting that forbids namespaces, and for other errors.
func TestRefusal(t *testing.T) {
	for _, tt := range []struct {
		settings map[string]string
		errno    syscall.Errno
		uid      int
		want     []string
		not      string
	}{
		{map[string]string{"user.max_user_namespaces": "0\n"}, syscall.ENOSPC, 1000, []string{"no user namespaces", "`sysctl -w user.max_user_namespaces=10000` as root, or run this program as root"}, "CAP_SYS_ADMIN"},
		{map[string]string{"user.max_user_namespaces": "0", "user.max_net_namespaces": "0"}, syscall.ENOSPC, 0, []string{"no network namespaces", "`sysctl -w user.max_net_namespaces=10000` as root"}, "or run this program as root"},
		{map[string]string{"user.max_mnt_namespaces": "0"}, syscall.ENOSPC, 1000, []string{"no mount namespaces"}, ""},
		{map[string]string{"user.max_pid_namespaces": "0"}, syscall.ENOSPC, 1000, []string{"no PID namespaces"}, ""},
		{map[string]string{"user.max_user_namespaces": "63000"}, syscall.ENOSPC, 1000, []string{"all namespaces that a user may have are in use"}, "sysctl -w"},
		{map[string]string{"kernel.unprivileged_userns_clone": "0"}, syscall.EPERM, 1000, []string{"only to root", "`sysctl -w kernel.unprivileged_userns_clone=1`"}, ""},
		{map[string]string{"kernel.apparmor_restrict_unprivileged_userns": "1\n"}, syscall.EPERM, 1000, []string{"AppArmor", "`sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"}, ""},
		{map[string]string{"kernel.apparmor_restrict_unprivileged_userns": "1"}, syscall.EACCES, 1000, []string{"AppArmor"}, ""},
		// The settings that permit namespaces, and those for other users, are no reason.
		{map[string]string{"kernel.apparmor_restrict_unprivileged_userns": "0", "kernel.unprivileged_userns_clone": "1"}, syscall.EPERM, 1000, []string{"CAP_SYS_ADMIN"}, "sysctl"},
		{map[string]string{"kernel.apparmor_restrict_unprivileged_userns": "1"}, syscall.EPERM, 0, []string{"uid 0", "CAP_SYS_ADMIN"}, "AppArmor"},
		{map[string]string{"user.max_user_namespaces": "0"}, syscall.EPERM, 1000, []string{"CAP_SYS_ADMIN"}, "max_user"},
		{nil, syscall.EINVAL, 1000, []string{"uid 1000", "invalid argument", "CAP_SYS_ADMIN"}, "sysctl"},
	} {
		err := refusal(fmt.Errorf("fork/exec: %w", tt.errno), tt.uid, func(name string) string { return tt.settings[name] })
		if !errors.Is(err, tt.errno) {
			t.Errorf("%v, uid %d: %v does not wrap the error", tt.settings, tt.uid, err)
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v, %v, uid %d: %q, want %q in it", tt.settings, tt.errno, tt.uid, err, want)
			}
		}
		if tt.not != "" && strings.Contains(err.Error(), tt.not) {
			t.Errorf("%v, %v, uid %d: %q, want no %q in it", tt.settings, tt.errno, tt.uid, err, tt.not)
		}
	}
}
