// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
)

// port is the router's end of an attached ENI.
type port struct {
	ENI
	link  string
	index int
}

// owned returns all addresses and prefixes of the ENI, as prefixes.
func (p *port) owned() []netip.Prefix {
	var all []netip.Prefix
	for _, a := range append([]netip.Addr{p.Addr}, p.Addrs...) {
		if a.IsValid() {
			all = append(all, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return append(all, p.Prefixes...)
}

// Attach attaches the ENI to its instance. A link with its MAC appears there, down
// and without addresses, and the router delivers packets for the ENI's addresses to
// it. For a branch ENI no link appears: the instance adds a VLAN to the link of
// the trunk ENI.
func (f *Fabric) Attach(e ENI) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.attach(e); err != nil {
		return fmt.Errorf("fabric: attach %s: %w", e.ID, err)
	}
	return nil
}

func (f *Fabric) attach(e ENI) error {
	trunk := f.ports[e.Trunk]
	if e.branch() && (trunk == nil || trunk.branch()) {
		return fmt.Errorf("trunk %q: %w", e.Trunk, os.ErrNotExist)
	}
	if e.branch() {
		e.Instance = trunk.Instance
	}
	instance, ok := f.instances[e.Instance]
	switch {
	case !ok:
		return fmt.Errorf("instance %q: %w", e.Instance, os.ErrNotExist)
	case f.ports[e.ID] != nil:
		return os.ErrExist
	}
	if _, ok := f.subnets[e.Subnet]; !ok {
		return fmt.Errorf("subnet %q: %w", e.Subnet, os.ErrNotExist)
	}
	e.Addrs, e.Prefixes, e.Groups = slices.Clone(e.Addrs), slices.Clone(e.Prefixes), slices.Clone(e.Groups)
	f.lastPort++
	p := &port{ENI: e, link: fmt.Sprintf("p%d", f.lastPort)}
	if err := f.net.addPort(p, trunk, instance); err != nil {
		return err
	}
	f.ports[e.ID] = p
	err := f.net.setOwned(p, nil, p.owned())
	if err == nil {
		err = f.applyRules()
	}
	if err != nil {
		return errors.Join(err, f.detach(e.ID))
	}
	return nil
}

// Detach detaches the ENI and removes its link. Detaching a trunk ENI also detaches
// its branch ENIs. If the ENI is not attached, Detach does nothing and returns nil.
func (f *Fabric) Detach(id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.detach(id)
}

func (f *Fabric) detach(id string) error {
	p, ok := f.ports[id]
	if !ok {
		return nil
	}
	for branch, b := range f.ports {
		if b.Trunk == id {
			if err := f.detach(branch); err != nil {
				return err
			}
		}
	}
	if f.log != nil {
		f.log.read() // the last flows of the ENI
	}
	delete(f.ports, id)
	if err := errors.Join(f.net.removePort(p), f.applyRules()); err != nil {
		return fmt.Errorf("fabric: detach %s: %w", id, err)
	}
	return nil
}

// Capture starts to record the packets between the ENI and the VPC, at the router's
// end, so that the instance may move its link to another namespace. The caller must
// close the Capture.
func (f *Fabric) Capture(id string) (*Capture, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, ok := f.ports[id]
	if !ok {
		return nil, fmt.Errorf("fabric: %s is not attached: %w", id, os.ErrNotExist)
	}
	return f.router.Capture(p.link)
}

// RouterLink returns the name of the router's link to the ENI. It returns false if the
// ENI is not attached.
func (f *Fabric) RouterLink(id string) (string, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p, ok := f.ports[id]; ok {
		return p.link, true
	}
	return "", false
}

// SetAddrs replaces the addresses of the ENI other than the primary one, and its
// delegated prefixes.
func (f *Fabric) SetAddrs(id string, addrs []netip.Addr, prefixes []netip.Prefix) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, ok := f.ports[id]
	if !ok {
		return fmt.Errorf("fabric: %s is not attached: %w", id, os.ErrNotExist)
	}
	before := p.owned()
	p.Addrs, p.Prefixes = slices.Clone(addrs), slices.Clone(prefixes)
	err := f.net.setOwned(p, before, p.owned())
	if err == nil && f.wanted().filters() {
		err = f.applyRules()
	}
	if err != nil {
		return fmt.Errorf("fabric: addresses of %s: %w", id, err)
	}
	return nil
}

// ENI returns the attached ENI with the given ID.
func (f *Fabric) ENI(id string) (ENI, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p, ok := f.ports[id]; ok {
		return p.clone(), true
	}
	return ENI{}, false
}

// ENIs returns the attached ENIs of the instance, sorted by network card index and
// device index. If instance is empty it returns those of all instances.
func (f *Fabric) ENIs(instance string) []ENI {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []ENI
	for _, p := range f.ports {
		if instance == "" || p.Instance == instance {
			all = append(all, p.clone())
		}
	}
	slices.SortFunc(all, func(a, b ENI) int {
		return cmp.Or(cmp.Compare(a.Instance, b.Instance), cmp.Compare(a.Card, b.Card), cmp.Compare(a.Device, b.Device))
	})
	return all
}

func (p *port) clone() ENI {
	e := p.ENI
	e.MAC, e.Addrs, e.Prefixes, e.Groups = slices.Clone(e.MAC), slices.Clone(e.Addrs), slices.Clone(e.Prefixes), slices.Clone(e.Groups)
	return e
}
