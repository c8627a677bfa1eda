// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/ipam"
)

// witnessTime bounds one lookup of addresses in the kernel.
const witnessTime = 5 * time.Second

// Witness is the pool's [ipam.Witness]. It returns the uses that the kernel shows
// of addresses that are about to be given to a pod or unassigned.
func (l *Links) Witness(within []netip.Prefix) ([]ipam.Use, error) {
	ctx, cancel := context.WithTimeout(context.Background(), witnessTime)
	defer cancel()
	var addrs []netip.Addr
	for _, p := range within {
		if p.IsSingleIP() {
			addrs = append(addrs, p.Addr())
		}
	}
	var uses []datapath.Use
	var err error
	if len(addrs) == len(within) {
		uses, err = l.path.LookupAddrs(ctx, addrs)
	} else {
		uses, err = l.path.InUse(ctx, within)
	}
	return convertUses(uses), err
}

// allAddresses contains every address.
var allAddresses = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

// Uses returns every address that is in use on the node, for an audit. The node
// answers packets to addresses without a pod with "unreachable". Uses removes that
// answer for addresses that are in use although the pool does not know it.
func (l *Links) Uses(ctx context.Context) ([]ipam.Use, error) {
	began := time.Now()
	uses, err := l.path.InUse(ctx, allAddresses)
	if err != nil {
		return nil, err
	}
	err = l.inTurn(ctx, func() error {
		if !l.converted {
			l.audited, l.auditedAt = uses, began
			return nil
		}
		n := l.snapshot(nil)
		unknown := unknown(n, l.pods(), uses)
		if slices.Equal(n.InUse, unknown) {
			return nil
		}
		l.setInUse(unknown)
		return l.ensure(ctx, "")
	})
	return convertUses(uses), err
}

// unknown returns the addresses of a node's ENIs that lead to a link although no
// of the pods holds them.
func unknown(n datapath.Node, pods []datapath.Pod, uses []datapath.Use) []netip.Addr {
	held, covered := map[netip.Addr]bool{}, coverage(n)
	for _, p := range pods {
		for _, a := range p.Addrs {
			held[a.Addr] = true
		}
	}
	var out []netip.Addr
	for _, u := range uses {
		if !u.Local && !held[u.Addr] && covered(u.Addr) && !slices.Contains(out, u.Addr) {
			out = append(out, u.Addr)
		}
	}
	return out
}

// coverage returns a function that reports whether an address is one for pods of one of the
// node's ENIs.
func coverage(n datapath.Node) func(netip.Addr) bool {
	single, prefixes := map[netip.Addr]bool{}, []netip.Prefix(nil)
	for _, e := range n.ENIs {
		for _, p := range e.Sources {
			if p.IsSingleIP() {
				single[p.Addr()] = true
			} else {
				prefixes = append(prefixes, p)
			}
		}
	}
	return func(a netip.Addr) bool {
		return single[a] || slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
	}
}

// errUnconfirmed means that the node's network is left unchanged, because EC2 has
// not confirmed the ENIs.
var errUnconfirmed = errors.New("the ENIs are unconfirmed while EC2 does not answer")

// witnessPods returns an error if the address of a pod belongs to no ENI of the
// node and EC2 has not confirmed the ENIs: applying such a node would remove the
// pod's network.
func (l *Links) witnessPods(n datapath.Node, pods []datapath.Pod, uses []datapath.Use) error {
	own, covered := map[netip.Addr]bool{}, coverage(n)
	for _, p := range pods {
		for _, a := range p.Addrs {
			own[a.Addr] = own[a.Addr] || p.Mode != (datapath.Mode{})
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, u := range uses {
		if !l.confirmed && !u.Local && !own[u.Addr] && strings.HasPrefix(u.Link, l.node.HostLinkPrefix) && !covered(u.Addr) {
			return fmt.Errorf("%v leads to the pod at %s, and no known ENI has that address: %w", u.Addr, u.Link, errUnconfirmed)
		}
	}
	return nil
}

func (l *Links) setInUse(addrs []netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inUse = addrs
}

func convertUses(uses []datapath.Use) []ipam.Use {
	var out []ipam.Use
	for _, u := range uses {
		by := "link " + u.Link
		if u.Local {
			by = "this node, on its link " + u.Link
		}
		out = append(out, ipam.Use{Addr: u.Addr, By: by})
	}
	return out
}

// Dead returns the allocations of sandboxes that have ended without a DEL. A sandbox
// has ended if its path is gone or leads to another namespace, and the pod's host
// link is gone.
func (l *Links) Dead(ctx context.Context, held []ipam.Allocation) ([]ipam.Allocation, error) {
	hostLinks, err := l.path.HostLinks(ctx)
	if err != nil {
		return nil, err
	}
	var dead []ipam.Allocation
	for _, a := range held {
		link := datapath.HostLinkName(l.node.HostLinkPrefix, a.ContainerID, a.IfName)
		if !hostLinks[link] && sandboxEnded(a) {
			dead = append(dead, a)
		}
	}
	return dead, nil
}

// hostLinks returns a function that returns the host link of a pod. Pods that another program
// has wired have other names than ours, which their links record; if the kernel does not
// answer within witnessTime, the function returns the name that a link of ours has.
func (l *Links) hostLinks() func(datapath.Pod) string {
	ctx, cancel := context.WithTimeout(context.Background(), witnessTime)
	defer cancel()
	links, _ := l.path.Links(ctx)
	links = slices.DeleteFunc(links, func(k netstate.Link) bool { return k.Alias == "" })
	return func(p datapath.Pod) string {
		r, _ := p.Resolve(links) // which has no links of ENIs
		return r.HostLink()
	}
}

// sandboxEnded reports whether the sandbox of an allocation has ended. It is false
// in case of doubt.
func sandboxEnded(a ipam.Allocation) bool {
	if a.Netns == "" {
		return false
	}
	id, err := datapath.SandboxID(a.Netns)
	if err != nil {
		return errors.Is(err, datapath.ErrNoSandbox)
	}
	return id != 0 && a.Sandbox != 0 && id != a.Sandbox
}

// InUse returns the function by which the ENI manager checks addresses before it
// unassigns them. They are free only if both the pool and the kernel show no use.
func InUse(pool *ipam.Pool, witness ipam.Witness) func(context.Context, string, netip.Prefix) (bool, error) {
	return func(_ context.Context, id string, block netip.Prefix) (bool, error) {
		for a := range pool.Allocations() {
			if a.ENI == id && block.Contains(a.Addr) {
				return true, nil
			}
		}
		uses, err := witness([]netip.Prefix{block})
		return len(uses) > 0, err
	}
}
