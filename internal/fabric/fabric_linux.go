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

	"github.com/vpcnet/vpcnet/internal/fabric/vpcrules"
)

// Fabric is a VPC of namespaces. It is safe for concurrent use.
type Fabric struct {
	cfg                    Config
	router, internet, peer *Netns
	net                    *routing
	ndp                    *responder

	// mu protects the following fields and the configuration of the router in the
	// kernel, so that both stay consistent.
	mu        sync.Mutex
	subnets   map[string]Subnet
	instances map[string]*Netns
	ports     map[string]*port
	lastPort  int
	rules     vpcrules.Rules
	log       *FlowLog // nil if there is none
	closers   []io.Closer
	resolver  netip.Addr // valid once ServeDNS has been called
}

var errClosed = fmt.Errorf("fabric: %w", os.ErrClosed)

// New builds the router, the internet host and the peer host of a VPC. The
// caller must close the Fabric.
func New(ctx context.Context, cfg Config) (*Fabric, error) {
	if len(cfg.VPC) == 0 {
		return nil, errors.New("fabric: Config.VPC is empty, want at least one prefix")
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
	if err := f.net.addOutside(internetLink, f.internet, []netip.Addr{InternetAddr, InternetAddr6}); err != nil {
		return fmt.Errorf("internet host: %w", err)
	}
	if err := f.net.addOutside(peerLink, f.peer, f.PeerAddrs()); err != nil {
		return fmt.Errorf("peer host: %w", err)
	}
	if err := f.net.setFilter(wanted{}); err != nil {
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

// PeerAddrs returns the addresses of the host in the peer network.
func (f *Fabric) PeerAddrs() []netip.Addr {
	return append([]netip.Addr{PeerAddr, PeerAddr6}, f.cfg.PeerAddrs...)
}

func (f *Fabric) echoOutside(ctx context.Context) error {
	for ns, addrs := range map[*Netns][]netip.Addr{f.internet: {InternetAddr, InternetAddr6}, f.peer: f.PeerAddrs()} {
		for _, a := range usable(addrs...) {
			stop, err := ns.Echo(ctx, netip.AddrPortFrom(a, EchoPort))
			if err != nil {
				return fmt.Errorf("echo server at %v: %w", a, err)
			}
			f.closeLater(closer(func() error { stop(); return nil }))
		}
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

// Close removes everything that the Fabric has created. A second call does nothing.
func (f *Fabric) Close() error {
	f.mu.Lock()
	closers, log := f.closers, f.log
	f.closers = nil
	f.mu.Unlock()
	var err error
	if log != nil {
		err = log.Close()
	}
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

// Internet returns the namespace of the host in the internet, which has an echo
// server at [EchoPort].
func (f *Fabric) Internet() *Netns { return f.internet }

// Peer returns the namespace of the host in the peer network, which has an echo
// server at [EchoPort].
func (f *Fabric) Peer() *Netns { return f.peer }

// Instance returns the namespace of an instance, or nil if there is no instance
// with that name.
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
			if err := f.net.addGateway(s.gateway(p.Addr())); err != nil {
				return fmt.Errorf("fabric: subnet %s: %w", s.ID, err)
			}
		}
	}
	f.subnets[s.ID] = s
	return nil
}

// AddInstance creates the namespace of an instance, with the name of the instance.
// Its lo is up and it has no other link.
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
	// Whether a new namespace inherits the settings of the machine is itself a
	// setting of the machine. These are the settings of a new server, the strictest
	// in use. Detection of duplicate addresses would only cost time, because no
	// other host is on the links.
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

// RemoveInstance detaches the ENIs of an instance and removes its namespace. If
// there is no such instance it does nothing and returns nil.
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

// Drops returns the numbers of packets that the VPC has dropped so far. It omits
// ENIs that are no longer attached.
func (f *Fabric) Drops() (Drops, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.net == nil {
		return Drops{}, errClosed
	}
	return f.net.drops(f.ports)
}

// owner returns the port of the ENI that owns the address, nil if there is none.
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

// answersFor reports whether the router answers neighbour solicitations for the
// address on one of its links: it does if the ENI of another link owns the address.
func (f *Fabric) answersFor(a netip.Addr, index int) bool {
	p := f.owner(a)
	return p != nil && p.index != index
}
