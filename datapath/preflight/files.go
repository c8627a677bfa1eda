// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"fmt"
	"path"
	"strings"
)

// Config says which links are whose. The zero value is useful: pods' host links
// are known by the default prefix, and pod ENIs are not distinguished.
type Config struct {
	// HostLinkPrefix begins the names of pods' host links; "eni" if empty.
	HostLinkPrefix string
	// Keep names the links of the ENIs that the system configures: the primary
	// one, and others that pods do not use. Every other link with one of Drivers is
	// a pod ENI. Without names no file claims pod ENIs, because the primary one
	// would lose its address.
	Keep []string
	// Drivers are the kernel drivers of ENIs; those of EC2 instances if empty.
	Drivers []string
	// Peers is how many other addresses of its subnets the node talks to at a
	// time, pods and ENIs alike: at most as many as the subnets have. 0 leaves the
	// limits on neighbours out of the report.
	Peers int
}

func (c Config) prefix() string {
	if c.HostLinkPrefix == "" {
		return "eni"
	}
	return c.HostLinkPrefix
}

func (c Config) drivers() []string {
	if len(c.Drivers) == 0 {
		return []string{"ena", "ixgbevf", "vif"}
	}
	return c.Drivers
}

// File is a configuration file, with its path from the root and without a slash
// at the beginning.
type File struct {
	Path, Text string
}

// Names of our files. systemd reads the files of all its directories in the order
// of their names and takes the first that matches, so ours come early.
const (
	hostLinksNetwork = "etc/systemd/network/05-vpcnet-host-links.network"
	podENIsNetwork   = "etc/systemd/network/05-vpcnet-pod-enis.network"
	hostLinksLink    = "etc/systemd/network/05-vpcnet-host-links.link"
	networkdDropIn   = "etc/systemd/networkd.conf.d/90-vpcnet.conf"
	networkManager   = "etc/NetworkManager/conf.d/90-vpcnet.conf"
)

// Files returns what keeps systemd-networkd, udev and NetworkManager away from what
// belongs to datapath. A file for a program that a system does not have is harmless.
//
// The programs read them when they start, so restart them, or reload them with
// `networkctl reload` and `systemctl reload NetworkManager`. See
// https://www.freedesktop.org/software/systemd/man/latest/systemd.network.html and
// https://networkmanager.dev/docs/api/latest/NetworkManager.conf.html.
func Files(c Config) []File {
	files := []File{
		{hostLinksNetwork, text("Pods' host links are configured by vpcnet.",
			"[Match]", "Name="+c.prefix()+"*", "", "[Link]", "Unmanaged=yes")},
		{hostLinksLink, text("A pod knows its host link by the MAC address that it was made with.",
			"[Match]", "OriginalName="+c.prefix()+"*", "", "[Link]", "MACAddressPolicy=none")},
		{networkdDropIn, text("Rules and routes that systemd-networkd did not make are not its own to delete.",
			"[Network]", "ManageForeignRoutingPolicyRules=no", "ManageForeignRoutes=no")},
		{networkManager, text("Pods' host links and pod ENIs are configured by vpcnet.",
			"[device-vpcnet]", "match-device="+strings.Join(c.devices(), ";"), "managed=0")},
	}
	if len(c.Keep) > 0 {
		files = append(files, File{podENIsNetwork, text("Pod ENIs are configured by vpcnet.",
			"[Match]", "Driver="+strings.Join(c.drivers(), " "), "Name=!"+strings.Join(c.Keep, " "), "", "[Link]", "Unmanaged=yes")})
	}
	return files
}

// devices lists what NetworkManager shall leave alone, in its notation: an
// exception counts whatever stands before it.
func (c Config) devices() []string {
	list := []string{"interface-name:" + c.prefix() + "*"}
	if len(c.Keep) == 0 {
		return list
	}
	for _, d := range c.drivers() {
		list = append(list, "driver:"+d)
	}
	for _, k := range c.Keep {
		list = append(list, "except:interface-name:="+k)
	}
	return list
}

func text(why string, lines ...string) string {
	return "# " + why + "\n" + strings.Join(lines, "\n") + "\n"
}

// Validate reports names that a file cannot hold as what they are.
func (c Config) Validate() error {
	for _, name := range append(append([]string{c.prefix()}, c.Keep...), c.drivers()...) {
		if name == "" || len(name) > 32 || strings.ContainsAny(name, " \t\n;,*?[]!\\/\"'#=:") || path.Clean(name) != name {
			return fmt.Errorf("%q is no name of a link or a driver", name)
		}
	}
	return nil
}
