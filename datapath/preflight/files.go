// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"fmt"
	"path"
	"strings"

	"github.com/vpcnet/vpcnet/datapath/internal/claims"
)

// Config tells the links of the system from those of vpcnet. The zero value is
// useful: it has the default prefix of host links and does not identify pod ENIs.
type Config struct {
	// HostLinkPrefix is the prefix of the names of pods' host links. Empty means
	// "eni".
	HostLinkPrefix string
	// Keep names the links of the ENIs that the system configures: the primary
	// ENI, and others that pods do not use. Every other link with one of Drivers
	// is a pod ENI. If Keep is empty, no file excludes pod ENIs, because the
	// primary ENI would lose its address.
	Keep []string
	// Drivers names the kernel drivers of ENIs. Empty means those of EC2
	// instances.
	Drivers []string
	// Peers is the number of other addresses of its subnets, of pods and ENIs,
	// that the node communicates with at a time: at most the size of the subnets.
	// Zero means that Check ignores the limits on neighbour entries.
	Peers int
	// Iptables means that the agent translates sources with iptables, and not with
	// nftables.
	Iptables bool
	// Accelerate means that the agent is to accelerate flows of pods by a flowtable.
	Accelerate bool
}

func (c Config) prefix() string {
	if c.HostLinkPrefix == "" {
		return "eni"
	}
	return c.HostLinkPrefix
}

// hostLinks returns the patterns of the names of host links: those of package datapath, and
// those to pods with egress of the other family, see [github.com/vpcnet/vpcnet/snat.Egress].
func (c Config) hostLinks() []string {
	return []string{c.prefix() + "*", claims.EgressPrefix4 + "*", claims.EgressPrefix6 + "*"}
}

func (c Config) drivers() []string {
	if len(c.Drivers) == 0 {
		return []string{"ena", "ixgbevf", "vif"}
	}
	return c.Drivers
}

// File is a configuration file. Path is relative to the root, without a leading
// slash.
type File struct {
	Path, Text string
}

// These are the names of our files. systemd reads the files of all its directories in
// the order of their names and uses the first match, so our names sort early.
const (
	hostLinksNetwork = "etc/systemd/network/05-vpcnet-host-links.network"
	podENIsNetwork   = "etc/systemd/network/05-vpcnet-pod-enis.network"
	hostLinksLink    = "etc/systemd/network/05-vpcnet-host-links.link"
	networkdDropIn   = "etc/systemd/networkd.conf.d/90-vpcnet.conf"
	networkManager   = "etc/NetworkManager/conf.d/90-vpcnet.conf"
)

// Files returns the files that stop systemd-networkd, udev and NetworkManager from
// configuring pod ENIs and host links. A file for a program that the system does not
// have is harmless.
//
// The programs read the files when they start, so restart them, or reload them with
// `networkctl reload` and `systemctl reload NetworkManager`. See
// https://www.freedesktop.org/software/systemd/man/latest/systemd.network.html and
// https://networkmanager.dev/docs/api/latest/NetworkManager.conf.html.
func Files(c Config) []File {
	files := []File{
		{hostLinksNetwork, text("Pods' host links are configured by vpcnet.",
			"[Match]", "Name="+strings.Join(c.hostLinks(), " "), "", "[Link]", "Unmanaged=yes")},
		{hostLinksLink, text("A pod knows the MAC address with which its host link was created.",
			"[Match]", "OriginalName="+strings.Join(c.hostLinks(), " "), "", "[Link]", "MACAddressPolicy=none")},
		{networkdDropIn, text("systemd-networkd must not delete rules and routes of other programs.",
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

// devices lists the devices that NetworkManager must not manage, in its notation. An
// exception overrides all other entries.
func (c Config) devices() []string {
	var list []string
	for _, pattern := range c.hostLinks() {
		list = append(list, "interface-name:"+pattern)
	}
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

// Validate returns an error for names that are not valid in the files.
func (c Config) Validate() error {
	for _, name := range append(append([]string{c.prefix()}, c.Keep...), c.drivers()...) {
		if name == "" || len(name) > 32 || strings.ContainsAny(name, " \t\n;,*?[]!\\/\"'#=:") || path.Clean(name) != name {
			return fmt.Errorf("%q is not the name of a link or a driver", name)
		}
	}
	return nil
}
