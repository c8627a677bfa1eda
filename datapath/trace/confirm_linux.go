// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/datapath/policy"
	"github.com/vpcnet/vpcnet/internal/nft"
	"github.com/vpcnet/vpcnet/internal/rtnl"
	"golang.org/x/sys/unix"
)

// Confirm repeats the route lookups of p in the kernel, as `ip route get` does, and
// returns a fault for each difference in link, gateway or table. It does not report a
// lookup that the kernel refuses for a reason that p contains already. netns is the path
// of the node's network namespace; if it is empty, Confirm uses that of the calling
// thread. Trace must have returned p in this process.
func Confirm(ctx context.Context, netns string, p Path) ([]Fault, error) {
	ns, err := openNetns(netns)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	client := rtnl.NewClient(ns)
	defer func() { _ = client.CloseIdle() }()
	var faults []Fault
	err = client.Do(ctx, func(c *rtnl.Conn) error {
		for _, a := range p.lookups {
			got, err := kernelRoute(c, a.Query)
			if err != nil {
				return err
			}
			if text, differs := a.differs(got, p); differs {
				faults = append(faults, Fault{FaultDiffers, fmt.Sprintf("for packets from %s to %s %s", a.Src, a.Dst, text)})
			}
		}
		return nil
	})
	return faults, err
}

// openNetns opens the network namespace at path, or that of the calling thread if path is
// empty.
func openNetns(path string) (*os.File, error) {
	if path == "" {
		path = rtnl.OwnNetns
	}
	return rtnl.OpenNetns(path)
}

// kernelRoute asks the kernel for the route of a packet.
func kernelRoute(c *rtnl.Conn, q netstate.Query) (k kernelAnswer, err error) {
	index := 0
	if q.IIF != "" {
		in, err := c.LinkByName(q.IIF)
		if err != nil {
			return k, err
		}
		if in.Index == 0 {
			k.refusal = fmt.Errorf("link %s: %w", q.IIF, datapath.ErrNoLink)
			return k, nil
		}
		index = in.Index
	}
	k.route, k.refusal, err = c.RouteTo(q, index)
	return k, err
}

// kernelAnswer is the kernel's answer to a query: a route, or the reason why it has none.
type kernelAnswer struct {
	route   netstate.Route
	refusal error
}

func (k kernelAnswer) String() string {
	switch {
	case errors.Is(k.refusal, unix.EXDEV):
		return "the kernel drops them: reverse path filtering"
	case errors.Is(k.refusal, unix.EINVAL):
		return "the kernel refuses them (invalid argument): perhaps because of their source, or reverse path filtering"
	case errors.Is(k.refusal, unix.EHOSTUNREACH):
		return "the kernel refuses them (no route to host): no route, or a link that does not forward"
	case k.refusal != nil:
		return fmt.Sprintf("the kernel refuses them: %v", k.refusal)
	case k.route.Type == "local":
		return "the kernel delivers them to the node itself"
	}
	return fmt.Sprintf("the kernel uses %q", k.route)
}

// differs describes how the kernel's answer differs from a lookup of p.
func (a lookup) differs(got kernelAnswer, p Path) (string, bool) {
	expected := !a.Found || a.Refuses()
	if a.IIF != "" {
		expected = expected || p.Has(FaultNoForwarding) || p.Has(FaultStrictReverse) || p.Has(FaultNoReverse) || p.Has(FaultAddrOnNode) || p.Has(FaultIPv6Off)
	}
	want := a.Route
	switch {
	case got.refusal != nil && expected:
		return "", false
	case got.refusal != nil:
		return fmt.Sprintf("%s; expected %s", got, a.Verdict), true
	case a.Local:
		return fmt.Sprintf("%s; expected them for the node itself", got), got.route.Type != "local"
	case got.route.Type == "local", !a.Found, a.Refuses():
		return fmt.Sprintf("%s; expected %s", got, a.Verdict), true
	case want.Other != "" && want.Link == "":
		return "", false
	}
	same := got.route.Link == want.Link && got.route.Table == want.Table && (got.route.Via == want.Via || want.Other != "")
	return fmt.Sprintf("%s; expected %s", got, a.Verdict), !same
}

// Observe reads the View of a live node, without Desired, and without Translation and Egress,
// which package snat reads. netns is the path of the node's network namespace; if it is empty,
// Observe uses that of the calling thread. sandbox is the path of the pod's network
// namespace; if it is empty, the View has no sandbox.
func Observe(ctx context.Context, netns, sandbox string) (View, error) {
	var v View
	var err error
	if v.Node, err = observeAt(ctx, netns); err != nil {
		return v, err
	}
	if v.Policies, err = policiesAt(ctx, netns); err != nil {
		return v, err
	}
	if v.Filters, err = otherFilters(netns); err != nil || sandbox == "" {
		return v, err
	}
	s, err := observeAt(ctx, sandbox)
	if err != nil {
		return v, fmt.Errorf("sandbox: %w", err)
	}
	v.Sandbox = &s
	return v, nil
}

func observeAt(ctx context.Context, netns string) (netstate.State, error) {
	h, err := datapath.Open(netns)
	if err != nil {
		return netstate.State{}, err
	}
	defer h.Close()
	return h.Observe(ctx)
}

// policiesAt reads the network policies, nil if there are none.
func policiesAt(ctx context.Context, netns string) (*Policies, error) {
	h, err := policy.Open(netns)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	s, ours, err := h.Observe(ctx)
	if err != nil || !ours && len(s.Classes)+len(s.Pods) == 0 {
		return nil, err
	}
	return &Policies{State: s, Odd: !ours}, nil
}

// otherFilters lists the base chains of other programs that may drop packets.
func otherFilters(netns string) ([]OtherChain, error) {
	ns, err := openNetns(netns)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	list, err := nftFilters(ns)
	if err != nil {
		return nil, err
	}
	legacy, err := legacyFilters(ns)
	return append(list, legacy...), err
}

// nftFilters lists the base chains of type filter in nftables that belong to other programs.
func nftFilters(ns *os.File) (list []OtherChain, err error) {
	socket := nft.New(ns)
	defer func() { _ = socket.Close() }()
	err = socket.Do(func(c *nftables.Conn) error {
		chains, err := c.ListChains()
		if err != nil {
			return fmt.Errorf("list nft chains: %w", err)
		}
		for _, k := range chains {
			family, known := nftFamilies[k.Table.Family]
			ours := k.Table.Name == netstate.FilterTable || k.Table.Name == netstate.FlowsTable || k.Table.Name == policyTable || k.Table.Name == translationTable || strings.HasPrefix(k.Table.Name, egressTables)
			if !known || k.Hooknum == nil || k.Type != nftables.ChainTypeFilter || ours {
				continue
			}
			list = append(list, OtherChain{
				Family: family, Table: k.Table.Name, Chain: k.Name,
				Drops: k.Policy != nil && *k.Policy == nftables.ChainPolicyDrop,
			})
		}
		return nil
	})
	if errors.Is(err, nft.ErrMissing) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		return nil, nil // a kernel without nftables has no such chains
	}
	return list, err
}

// translationTable is the name of package snat's table.
const translationTable = "vpcnet-snat"

// nftFamilies are the families of chains that packets of the node pass through.
var nftFamilies = map[nftables.TableFamily]string{
	nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet", nftables.TableFamilyBridge: "bridge",
}
