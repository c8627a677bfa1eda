// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// nodeSysctls are the settings that a State shows besides those of links.
var nodeSysctls = []string{
	"net.ipv4.ip_early_demux",
	"net.ipv4.ip_forward",
	"net.ipv4.conf.all.rp_filter",
	"net.ipv6.conf.all.disable_ipv6",
	"net.ipv6.conf.all.forwarding",
}

// sysctlFile returns the file of a setting. It swaps dots and slashes as sysctl(8)
// does.
func sysctlFile(key string) string {
	return "/proc/sys/" + strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, key)
}

// ReadSysctls reads the settings of the node. Those of a family that the kernel lacks
// are left out.
func ReadSysctls(ns *os.File) ([]netstate.Sysctl, error) {
	var s []netstate.Sysctl
	err := InNetns(ns, func() error {
		for _, key := range nodeSysctls {
			b, err := os.ReadFile(sysctlFile(key))
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			s = append(s, netstate.Sysctl{Key: key, Value: strings.TrimSpace(string(b))})
		}
		return nil
	})
	return s, err
}

// WriteSysctls writes settings, and returns the errors of all that it cannot write. Containers
// often see /proc/sys read-only. WriteSysctls then sets the IPv4 settings of links by requests
// to the kernel, which need CAP_NET_ADMIN only, and succeeds for any other setting that has its
// value already.
func WriteSysctls(ns *os.File, set []netstate.Sysctl) error {
	if len(set) == 0 {
		return nil
	}
	return InNetns(ns, func() error {
		var errs []error
		for _, s := range set {
			err := writeFile(sysctlFile(s.Key), s.Value)
			if errors.Is(err, unix.EROFS) {
				err = errors.Join(err, requestSysctl(ns, s))
			}
			if err == nil {
				continue
			}
			have, reason := os.ReadFile(sysctlFile(s.Key))
			if value := strings.TrimSpace(string(have)); reason != nil || value != s.Value {
				errs = append(errs, &sysctlError{Sysctl: s, Have: value, Err: err})
			}
		}
		return errors.Join(errs...)
	})
}

// requestSysctl sets an IPv4 setting of a link by route netlink. It does nothing for other
// settings, which the kernel changes by their files only.
func requestSysctl(ns *os.File, s netstate.Sysctl) error {
	for _, known := range linkSettings {
		link, isLink := strings.CutPrefix(s.Key, known.prefix)
		link, isThis := strings.CutSuffix(link, known.name)
		if known.family != unix.AF_INET || !isLink || !isThis || link == "all" || link == "default" {
			continue
		}
		value, err := strconv.ParseUint(s.Value, 10, 32)
		if err != nil {
			return err
		}
		c, err := dial(ns)
		if err != nil {
			return err
		}
		var b Batch
		b.inetSetting(strings.ReplaceAll(link, "/", "."), known.place+1, uint32(value))
		answers, err := c.Do(&b)
		if err == nil {
			err = answers[0].Err
		}
		return errors.Join(err, c.close())
	}
	return nil
}

// sysctlError is the error of a setting that has another value than wanted and cannot be
// written.
type sysctlError struct {
	netstate.Sysctl        // with the wanted value
	Have            string // "" if the kernel does not have the setting
	Err             error
}

func (e *sysctlError) Error() string {
	var path *os.PathError
	err := e.Err
	if errors.As(err, &path) {
		err = path.Err
	}
	if e.Have == "" {
		return fmt.Sprintf("set %s to %s: %v", e.Key, e.Value, err)
	}
	remedy := "`sysctl -w " + e.Sysctl.String() + "`"
	if f := strings.Split(e.Key, "."); len(f) == 5 && f[2] == "conf" && f[3] != "all" && f[3] != "default" {
		f[3] = "default"
		remedy += " (for links to come: `sysctl -w " + strings.Join(f, ".") + "=" + e.Value + "`)"
	}
	return fmt.Sprintf("%s is %s, want %s, and cannot be written (%v): run %s on the node, or mount /proc/sys writable", e.Key, e.Have, e.Value, err, remedy)
}

func (e *sysctlError) Unwrap() error { return e.Err }

// writeFile writes to a file that exists. Files of package os would be in the runtime's
// poller, where a file of /proc/sys wakes a thread that has nothing to do.
func writeFile(path, value string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	if _, err = unix.Write(fd, []byte(value)); err != nil {
		err = &os.PathError{Op: "write", Path: path, Err: err}
	}
	return errors.Join(err, unix.Close(fd))
}
