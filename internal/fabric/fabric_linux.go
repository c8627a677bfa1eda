// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// Fabric is a VPC of namespaces. It is safe for concurrent use.
type Fabric struct {
	cfg                    Config
	router, internet, peer *Netns
	net                    *routing
	ndp                    *responder

	// mu is held while the kernel is changed, so that the router and the maps agree.
	mu        sync.Mutex
	subnets   map[string]Subnet
	instances map[string]*Netns
	ports     map[string]*port
	lastPort  int
	closers   []io.Closer
}

// port is the router's end of an attached ENI.
type port struct {
	ENI
	link  string
	index int
}

// owned lists everything the ENI owns, in prefixes.
func (p *port) owned() []netip.Prefix {
	var all []netip.Prefix
	for _, a := range append([]netip.Addr{p.Addr}, p.Addrs...) {
		if a.IsValid() {
			all = append(all, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return append(all, p.Prefixes...)
}

var errClosed = fmt.Errorf("fabric: %w", os.ErrClosed)

// New builds the router, the internet host and the peer host of a VPC. The
// caller closes it.
func New(ctx context.Context, cfg Config) (*Fabric, error) {
	if len(cfg.VPC) == 0 {
		return nil, errors.New("fabric: a VPC needs a prefix")
	}
	cfg.MTU = cmp.Or(cfg.MTU, 9001)
	cfg.Dir = cmp.Or(cfg.Dir, "/run/netns")
	f := &Fabric{
		cfg:       cfg,
		subnets:   map[string]Subnet{},
		instances: map[string]*Netns{},
		ports:     map[string]*port{},
	}
	if err := f.build(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("fabric: %w", err), f.Close())
	}
	return f, nil
}

func (f *Fabric) build(ctx context.Context) error {
	err := os.MkdirAll(f.cfg.Dir, 0o755)
	if err != nil {
		return err
	}
	for _, n := range []struct {
		name string
		ns   **Netns
	}{{"vpc", &f.router}, {"internet", &f.internet}, {"peer", &f.peer}} {
		if *n.ns, err = CreateNetns(filepath.Join(f.cfg.Dir, n.name)); err != nil {
			return err
		}
	}
	if f.net, err = openRouting(f.router, f.cfg); err != nil {
		return err
	}
	if err := f.net.addOutside("igw", f.internet, []netip.Addr{InternetAddr, InternetAddr6}); err != nil {
		return fmt.Errorf("internet host: %w", err)
	}
	if err := f.net.addOutside("tgw", f.peer, []netip.Addr{PeerAddr, PeerAddr6}); err != nil {
		return fmt.Errorf("peer host: %w", err)
	}
	if err := f.net.setFilter(nil); err != nil {
		return err
	}
	if f.ndp, err = startResponder(f.router, f.answersFor); err != nil {
		return err
	}
	for _, s := range f.cfg.Subnets {
		if err := f.AddSubnet(s); err != nil {
			return err
		}
	}
	return f.echoOutside(ctx)
}

func (f *Fabric) echoOutside(ctx context.Context) error {
	for _, e := range []struct {
		ns   *Netns
		addr netip.Addr
	}{{f.internet, InternetAddr}, {f.internet, InternetAddr6}, {f.peer, PeerAddr}, {f.peer, PeerAddr6}} {
		stop, err := e.ns.Echo(ctx, netip.AddrPortFrom(e.addr, EchoPort))
		if err != nil {
			return fmt.Errorf("echo server at %v: %w", e.addr, err)
		}
		f.closeLater(closer(func() error { stop(); return nil }))
	}
	return nil
}

type closer func() error

func (c closer) Close() error { return c() }

func (f *Fabric) closeLater(c io.Closer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closers = append(f.closers, c)
}

// Close removes everything the fabric made.
func (f *Fabric) Close() error {
	f.mu.Lock()
	closers := f.closers
	f.closers = nil
	f.mu.Unlock()
	var err error
	for _, c := range slices.Backward(closers) {
		err = errors.Join(err, c.Close())
	}
	if f.ndp != nil {
		err = errors.Join(err, f.ndp.Close())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range slices.Collect(maps.Keys(f.ports)) {
		err = errors.Join(err, f.detach(id))
	}
	if f.net != nil {
		f.net.Close()
	}
	for _, n := range append(slices.Collect(maps.Values(f.instances)), f.peer, f.internet, f.router) {
		if n != nil {
			err = errors.Join(err, n.Delete())
		}
	}
	f.instances, f.net, f.ndp, f.router, f.internet, f.peer = map[string]*Netns{}, nil, nil, nil, nil, nil
	return err
}

// Router returns the namespace of the VPC's router.
func (f *Fabric) Router() *Netns { return f.router }

// Internet returns the namespace of the host in the internet. It answers at [EchoPort].
func (f *Fabric) Internet() *Netns { return f.internet }

// Peer returns the namespace of the host in the peer network. It answers at [EchoPort].
func (f *Fabric) Peer() *Netns { return f.peer }

// Instance returns the namespace of an instance, nil if there is none of that name.
func (f *Fabric) Instance(name string) *Netns {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.instances[name]
}

// AddSubnet adds a subnet.
func (f *Fabric) AddSubnet(s Subnet) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.net == nil {
		return errClosed
	}
	if _, ok := f.subnets[s.ID]; ok {
		return fmt.Errorf("fabric: subnet %s: %w", s.ID, os.ErrExist)
	}
	for _, p := range s.Prefixes {
		if p.Addr().Is4() {
			if err := f.net.addGateway(s.Gateway(p.Addr())); err != nil {
				return fmt.Errorf("fabric: subnet %s: %w", s.ID, err)
			}
		}
	}
	f.subnets[s.ID] = s
	return nil
}

// AddInstance makes the namespace of an instance; its name is also that of the
// namespace. Its lo is up and it has no other link.
func (f *Fabric) AddInstance(name string) (*Netns, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.net == nil {
		return nil, errClosed
	}
	if _, ok := f.instances[name]; ok {
		return nil, fmt.Errorf("fabric: instance %s: %w", name, os.ErrExist)
	}
	n, err := CreateNetns(filepath.Join(f.cfg.Dir, name))
	if err != nil {
		return nil, fmt.Errorf("fabric: instance %s: %w", name, err)
	}
	// A new namespace inherits the machine's settings, or not, as the machine
	// is set. These are a fresh server's, the strictest in use. Nobody else is
	// on the links, so detection of duplicate addresses would only cost time.
	err = n.sysctls(
		"ipv4/ip_forward", "0",
		"ipv4/conf/all/rp_filter", "0",
		"ipv4/conf/default/rp_filter", "1",
		"ipv6/conf/all/disable_ipv6", "0",
		"ipv6/conf/default/disable_ipv6", "0",
		"ipv6/conf/all/forwarding", "0",
		"ipv6/conf/default/accept_dad", "0",
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fabric: instance %s: %w", name, err), n.Delete())
	}
	f.instances[name] = n
	return n, nil
}

// RemoveInstance detaches the ENIs of an instance and removes its namespace. An
// instance that is not there is no error.
func (f *Fabric) RemoveInstance(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, ok := f.instances[name]
	if !ok {
		return nil
	}
	var err error
	for id, p := range f.ports {
		if p.Instance == name {
			err = errors.Join(err, f.detach(id))
		}
	}
	delete(f.instances, name)
	return errors.Join(err, n.Delete())
}

// Attach gives the ENI to its instance: a link with its MAC appears there, down
// and without addresses, and the router delivers the ENI's addresses to it.
func (f *Fabric) Attach(e ENI) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.attach(e); err != nil {
		return fmt.Errorf("fabric: attach %s: %w", e.ID, err)
	}
	return nil
}

func (f *Fabric) attach(e ENI) error {
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
	e.Addrs, e.Prefixes = slices.Clone(e.Addrs), slices.Clone(e.Prefixes)
	f.lastPort++
	p := &port{ENI: e, link: fmt.Sprintf("p%d", f.lastPort)}
	if err := f.net.addPort(p, instance); err != nil {
		return err
	}
	f.ports[e.ID] = p
	err := f.net.setOwned(p, nil, p.owned())
	if err == nil {
		err = f.net.setFilter(f.ports)
	}
	if err != nil {
		return errors.Join(err, f.detach(e.ID))
	}
	return nil
}

// Detach takes the ENI away; its link disappears. An ENI that is not attached
// is no error.
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
	delete(f.ports, id)
	if err := errors.Join(f.net.removePort(p), f.net.setFilter(f.ports)); err != nil {
		return fmt.Errorf("fabric: detach %s: %w", id, err)
	}
	return nil
}

// SetAddrs replaces the further addresses and the delegated prefixes of the ENI.
func (f *Fabric) SetAddrs(id string, addrs []netip.Addr, prefixes []netip.Prefix) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, ok := f.ports[id]
	if !ok {
		return fmt.Errorf("fabric: %s is not attached: %w", id, os.ErrNotExist)
	}
	before := p.owned()
	p.Addrs, p.Prefixes = slices.Clone(addrs), slices.Clone(prefixes)
	if err := f.net.setOwned(p, before, p.owned()); err != nil {
		return fmt.Errorf("fabric: addresses of %s: %w", id, err)
	}
	return nil
}

// ENI returns the attached ENI of that ID.
func (f *Fabric) ENI(id string) (ENI, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p, ok := f.ports[id]; ok {
		return p.clone(), true
	}
	return ENI{}, false
}

// ENIs returns the attached ENIs of the instance by card and device, of all
// instances if the name is empty.
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
	e.MAC, e.Addrs, e.Prefixes = slices.Clone(e.MAC), slices.Clone(e.Addrs), slices.Clone(e.Prefixes)
	return e
}

// Drops returns what the VPC refused to carry so far. ENIs that left are not in it.
func (f *Fabric) Drops() (Drops, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.net == nil {
		return Drops{}, errClosed
	}
	return f.net.drops(f.ports)
}

// owner returns the port whose ENI owns the address.
func (f *Fabric) owner(a netip.Addr) *port {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.ports {
		if slices.ContainsFunc(p.owned(), func(o netip.Prefix) bool { return o.Contains(a) }) {
			return p
		}
	}
	return nil
}

// answersFor reports whether the router answers for the address on one of its
// links: it does when another ENI owns it.
func (f *Fabric) answersFor(a netip.Addr, index int) bool {
	p := f.owner(a)
	return p != nil && p.index != index
}
