// SPDX-License-Identifier: Apache-2.0

package adopt

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/datapath"
)

// observeSandboxes returns the numbers of the node's links, and the network namespaces in
// the directories with their links. It leaves out one that ends meanwhile.
func observeSandboxes(dirs []string) (map[string]int, []sandbox, error) {
	index := map[string]int{}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, nil, fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		index[l.Attrs().Name] = l.Attrs().Index
	}
	var all []sandbox
	for _, dir := range distinct(dirs) {
		files, err := os.ReadDir(dir)
		if err != nil {
			return nil, nil, err
		}
		for _, f := range files {
			s := sandbox{Path: filepath.Join(dir, f.Name())}
			if s.ID, err = datapath.SandboxID(s.Path); errors.Is(err, datapath.ErrNoSandbox) {
				continue
			}
			if err == nil {
				err = s.observe()
			}
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, nil, fmt.Errorf("sandbox %s: %w", s.Path, err)
			}
			all = append(all, s)
		}
	}
	return index, all, nil
}

// observe reads the links of s.
func (s *sandbox) observe() error {
	ns, err := netns.GetFromPath(s.Path)
	if err != nil {
		return err
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE) // the kernel may lack other families
	if err != nil {
		return err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		x := sandboxLink{Name: l.Attrs().Name, MAC: l.Attrs().HardwareAddr.String(), Peer: l.Attrs().ParentIndex}
		addrs, err := h.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP); ok {
				x.Addrs = append(x.Addrs, ip.Unmap())
			}
		}
		s.Links = append(s.Links, x)
	}
	return nil
}

// hasTable reports whether the nftables table of the other agent exists.
func hasTable() (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, err
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) {
		return false, nil // the kernel has no nftables
	}
	for _, t := range tables {
		if t.Name == amazonTable {
			return true, nil
		}
	}
	return false, err
}

// deleteTable deletes the nftables table of the other agent.
func deleteTable() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.DelTable(&nftables.Table{Name: amazonTable, Family: nftables.TableFamilyIPv4})
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%v: %w", deleteAmazonTable{}, err)
	}
	return nil
}
