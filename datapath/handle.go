// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"net/netip"

	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// Handle manages the network of one namespace. It is safe for concurrent use.
//
// It needs CAP_NET_ADMIN over the namespace. It also needs CAP_SYS_ADMIN to enter
// namespaces other than that of the process: sandboxes, and the node's if the process
// is not in it. A process in the node's namespace that does not manage pods, and calls
// EnsureNode and Watch only, needs CAP_NET_ADMIN alone, if it can write to /proc/sys.
// A Handle runs no other program.
//
// The methods of the zero value, and of a Handle that is closed, return an error that
// wraps [os.ErrClosed].
type Handle struct{ system opened }

// Open opens the network namespace at path, or that of the calling thread if path is
// empty. The caller must close the handle.
func Open(path string) (*Handle, error) {
	s, err := openSystem(path)
	if err != nil {
		return nil, err
	}
	return &Handle{opened{s}}, nil
}

// Close releases the descriptors of the handle. No other call may be in progress.
func (h *Handle) Close() error { return h.system.Close() }

// Observe reads the whole network of the namespace, whichever program made it: links,
// addresses, permanent neighbours, routes, rules, the settings that matter here, and
// the nftables table of this package. It leaves out table local, IPv6 link-local
// addresses, and routes to link-local and multicast prefixes, which the kernel makes
// for each link. A kernel without IPv6 has none of its objects, and one without nftables
// has no table.
func (h *Handle) Observe(ctx context.Context) (netstate.State, error) { return h.system.Observe(ctx) }

// Apply carries out changes in order and stops at the first that fails. Adding an item
// that exists and deleting one that does not exist both succeed. Apply cannot create a
// veth pair, which needs a sandbox: see [Handle.AddPod].
func (h *Handle) Apply(ctx context.Context, changes []netstate.Change) error {
	return h.system.Apply(ctx, changes)
}

// EnsureNode changes the network of the namespace to what n describes, whatever it
// was before, and verifies the result. It does not change what belongs to pods: use
// [Handle.Ensure] to change the layout of a node that has pods. It changes nothing if
// nothing differs, and can be repeated after a failure at any point. It finds the
// links of ENIs by MAC; ErrNoLink means that one does not exist yet. A *DriftError
// means that another program reverts its changes.
func (h *Handle) EnsureNode(ctx context.Context, n Node) error { return h.system.EnsureNode(ctx, n) }

// Ensure changes the node and the host sides of its pods to what d describes, in one
// sequence of changes, and verifies the result. It can convert a node from one layout
// to the other while the pods communicate: everything new is in place before anything
// old is deleted. Pods that are not in d keep what they have, which may no longer work
// after a conversion. Concurrent calls of AddPod must use the new layout.
func (h *Handle) Ensure(ctx context.Context, d Desired) error { return h.system.Ensure(ctx, d) }

// RemoveENI takes the ENI with that ID out of service: it deletes the ENI's addresses,
// routes, rules and sources and sets its link down. n is the node with the ENI. It
// succeeds if the link no longer exists or n does not have the ENI.
func (h *Handle) RemoveENI(ctx context.Context, n Node, id string) error {
	return h.system.RemoveENI(ctx, n, id)
}

// AddPod wires p: its links, and addresses, routes, neighbours and rules on both sides,
// as its mode and layout want them. It removes what an earlier pod of the same address
// left behind when it ended. It takes nothing from a pod that still exists, nor from the
// node: then it returns ErrAddressTaken. Of several calls at once for one address one
// succeeds. Repeating AddPod gives the same answer and repairs what differs. If it fails,
// it leaves nothing behind that it has made. If it is killed, the next AddPod or DelPod
// finds what it has made. It returns ErrInvalid if p contradicts itself, ErrNoSandbox if
// p.Netns is not a network namespace, ErrInterfaceTaken if the sandbox has an interface
// of the name already, and ErrNoLink if no link has the MAC of an ENI of the mode.
func (h *Handle) AddPod(ctx context.Context, p Pod) (Wiring, error) { return h.system.AddPod(ctx, p) }

// DelPod removes everything of p that AddPod made. It needs ContainerID and IfName and
// finds the rest by the host link's name: the sandbox may be gone and the addresses
// unknown. It also finds a host link of another name, by the sandbox or by an address. It succeeds if nothing is left, and never touches what belongs to another pod
// that has got one of the addresses since.
func (h *Handle) DelPod(ctx context.Context, p Pod) error { return h.system.DelPod(ctx, p) }

// RetirePod takes everything from p like DelPod, but leaves its veth pair to the next
// [Handle.Sweep]: down, without address, route, neighbour or rule, and on both sides with
// a reserved name that no other link has. When it returns, an ADD of any plugin can use
// the sandbox, the interface name and the addresses. The kernel needs tens of
// milliseconds to delete a link, but not much more to delete many links at once. A caller
// on which a runtime waits avoids that time. A pod cannot send through a retired link.
// RetirePod deletes the links itself if p has more than a veth pair, or if another link has
// the reserved name.
func (h *Handle) RetirePod(ctx context.Context, p Pod) error { return h.system.RetirePod(ctx, p) }

// CheckPod returns a *DriftError if p is not wired as AddPod would wire it, on either
// side. It returns ErrInvalid if p contradicts itself, ErrNoSandbox if its sandbox is gone,
// and ErrNoLink if no link has the MAC of an ENI of its mode.
func (h *Handle) CheckPod(ctx context.Context, p Pod) error { return h.system.CheckPod(ctx, p) }

// AdoptPod records that p, which another program has wired by a veth pair, has the host
// link of that name. From then on the link is p's under its own name and MAC: Ensure and
// Watch give it the routes, rules and neighbours of p, and DelPod finds it. A pod with a
// [Branch] is found after the first Ensure, which also marks the VLAN link. AdoptPod changes
// nothing but the link's alias and one alternative name, which end with the link. It can be
// repeated. It returns ErrNoLink if there is no link of that name, and ErrInterfaceTaken if
// it is not a veth link or that of another pod.
func (h *Handle) AdoptPod(ctx context.Context, p Pod, link string) error {
	return h.system.AdoptPod(ctx, p, link)
}

// DisownPod undoes AdoptPod, and removes the marks of a pod with a [Branch] that AddPod has
// wired, if p.Adopted names its host link. It succeeds if nothing is recorded.
func (h *Handle) DisownPod(ctx context.Context, p Pod) error { return h.system.DisownPod(ctx, p) }

// RenameLink gives a link of the node another name. It succeeds if no link has the name
// from. On kernels before 6.2 the link is down for a moment.
func (h *Handle) RenameLink(ctx context.Context, from, to string) error {
	return h.system.RenameLink(ctx, from, to)
}

// Sweep deletes the links that RetirePod left, all in one request, and the rules of the
// per-pod layout of pods that lost their link with the sandbox before any DEL. It also
// deletes the links of DelPod and RetirePod of processes that were killed, if an earlier
// Sweep of the same handle has seen them a minute ago or earlier. It may run beside
// anything else, also in other processes: a new pod with an address of one that is swept
// loses nothing.
func (h *Handle) Sweep(ctx context.Context) error { return h.system.Sweep(ctx) }

// Watch keeps the network of the namespace as cfg.Desired describes it, until ctx ends,
// and returns the error of ctx. The kernel reports each change of links, addresses,
// routes, rules, neighbours and nftables. Watch looks at the network when a report is
// about an object of this package, and repairs what differs, usually within a few
// milliseconds. It never touches what other programs have on the node, nor the inside
// of sandboxes. Run one Watch for each namespace; AddPod, DelPod and EnsureNode may run
// at the same time.
func (h *Handle) Watch(ctx context.Context, cfg WatchConfig) error { return h.system.Watch(ctx, cfg) }

// Accelerates returns an error that wraps [errors.ErrUnsupported] and names the modules if
// the kernel has no flowtables, so that it cannot do what [Node.Accelerate] asks for. It
// changes nothing.
func (h *Handle) Accelerates(ctx context.Context) error { return h.system.Accelerates(ctx) }

// Limit returns after the last packet of an accelerated flow of a pod with an address in
// Desired.Limited: from then on all packets of these pods pass the forward hook, also those of
// open flows. It calls desired while Watch changes nothing, and uses neither the ENIs of the
// node nor its other settings. It takes a few microseconds, and does not ask the kernel, if no
// such pod is accelerated. A caller that adds an address to Limited must call Limit before it
// relies on the forward hook.
func (h *Handle) Limit(ctx context.Context, desired func() Desired) error {
	return h.system.Limit(ctx, desired)
}

// InUse returns every address within the prefixes that is in use according to the
// kernel, sorted and without duplicates. It counts the following, whichever program
// made them:
//   - a unicast route to the single address in any table, directly on a link: to a
//     pod in either layout, or to a pod of another CNI plugin;
//   - a permanent neighbour entry on a virtual link, such as a pod's host link or a
//     bridge;
//   - an address on a link of this namespace (Use.Local).
//
// InUse does not count what is on a link that DelPod or RetirePod has marked, nor the
// addresses of a pod with a [WholeENI], of which this namespace has no trace. It reads
// all routes, which takes a few milliseconds on a full node; [Handle.LookupAddrs] is
// the fast form.
func (h *Handle) InUse(ctx context.Context, within []netip.Prefix) ([]Use, error) {
	return h.system.InUse(ctx, within)
}

// LookupAddrs returns which of the addresses lead to a link by a route to the single
// address, or are on a link of this namespace, sorted. The agent calls it before it
// gives an address to a pod. It takes a few microseconds for each address, however many
// pods there are, because the kernel looks each address up as for a packet that leaves
// by the primary ENI. So it sees table main and, in the flat layout, the table of pods.
// It sees neither neighbour entries nor tables that the kernel consults for the packets
// of one link only, such as those of pods with a [Branch] under [Strict];
// [Handle.InUse] does. As there, links that DelPod or RetirePod has marked do not count.
func (h *Handle) LookupAddrs(ctx context.Context, addrs []netip.Addr) ([]Use, error) {
	return h.system.LookupAddrs(ctx, addrs)
}

// HostLinks returns the names of all links of the namespace except those that DelPod or
// RetirePod has marked. A pod has no network any more if its [Pod.HostLink] is not among
// them. For a link that AdoptPod has marked there is also the name that it would have if
// AddPod had made it.
func (h *Handle) HostLinks(ctx context.Context) (map[string]bool, error) {
	return h.system.HostLinks(ctx)
}

// Links returns the links of the namespace, without the names of their parents and bridges.
// It reads far less than Observe.
func (h *Handle) Links(ctx context.Context) ([]netstate.Link, error) {
	return h.system.Links(ctx)
}

// system is what a Handle needs of the operating system. Linux has one; openSystem fails
// with ErrNotSupported on other systems. The methods are those of Handle.
type system interface {
	Close() error
	Observe(ctx context.Context) (netstate.State, error)
	Apply(ctx context.Context, changes []netstate.Change) error
	EnsureNode(ctx context.Context, n Node) error
	Ensure(ctx context.Context, d Desired) error
	RemoveENI(ctx context.Context, n Node, id string) error
	AddPod(ctx context.Context, p Pod) (Wiring, error)
	DelPod(ctx context.Context, p Pod) error
	RetirePod(ctx context.Context, p Pod) error
	CheckPod(ctx context.Context, p Pod) error
	Sweep(ctx context.Context) error
	Watch(ctx context.Context, cfg WatchConfig) error
	InUse(ctx context.Context, within []netip.Prefix) ([]Use, error)
	LookupAddrs(ctx context.Context, addrs []netip.Addr) ([]Use, error)
	HostLinks(ctx context.Context) (map[string]bool, error)
	Accelerates(ctx context.Context) error
	Limit(ctx context.Context, desired func() Desired) error
	AdoptPod(ctx context.Context, p Pod, link string) error
	DisownPod(ctx context.Context, p Pod) error
	RenameLink(ctx context.Context, from, to string) error
	Links(ctx context.Context) ([]netstate.Link, error)
}
