// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// walk explains and checks the lab, from the empty VPC to the end of the last pod.
type walk struct {
	*world
	p      *printer
	report report
	// patience is how long the pool of a node may take to become idle.
	patience time.Duration
}

// newWalk returns a walk through w that prints to p.
func newWalk(w *world, p *printer) *walk {
	return &walk{world: w, p: p, patience: 20 * time.Second}
}

// run runs all steps. It records a check that fails and goes on. An error means that
// the walk cannot go on.
func (k *walk) run(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		k.showVPC, k.startAgents, k.addPods, k.checkWarmPool, k.showNodes, k.showPod,
		k.checkSameNode, k.checkAcrossNodes, k.checkSecondENI, k.checkInternet,
		k.checkHostToPod, k.checkSpoofed, k.checkRestart, k.checkDelete,
	} {
		if err := step(ctx); err != nil {
			return err
		}
		if err := errors.Join(ctx.Err(), k.vpc.Err()); err != nil {
			return err
		}
	}
	return nil
}

// check records and prints the outcome of a check, which has succeeded if err is nil.
func (k *walk) check(name, detail string, err error) {
	c := check{Name: name, OK: err == nil, Detail: detail}
	if err != nil {
		c.Detail = err.Error()
	}
	k.report.Checks = append(k.report.Checks, c)
	k.p.check(c)
}

func (k *walk) showVPC(context.Context) error {
	k.p.section("The VPC")
	k.p.text(`The lab is a VPC with two availability zones, a subnet in each, and %d instances of type %s. Each
		instance is a network namespace, and each of its ENIs is a link whose other end is in the VPC's
		router. The router handles packets as a VPC does: it delivers them to the ENI that owns the
		destination address, and drops packets whose source address the sending ENI does not own. Beyond
		the router is a host on the internet. The EC2 API and the instance metadata service use their real
		protocols, so that the agents run as on AWS.`, len(k.nodes), k.o.InstanceType)
	rows := [][]string{{"INSTANCE", "ID", "ZONE", "SUBNET", "PRIMARY ADDRESS"}}
	for _, n := range k.nodes {
		e := n.enis()[0]
		rows = append(rows, []string{n.name, n.instance, n.zone, e.SubnetPrefix.String(), e.Addr.String()})
	}
	rows = append(rows, []string{"(internet)", "", "", "", fabric.InternetAddr.String()})
	k.p.block(append([]string{""}, columns(rows)...))
	per := k.limits.SlotsPerENI()
	enis := k.limits.MaxENIs(k.limits.DefaultCard)
	k.p.text(`A %s can have %d ENIs with %d IPv4 addresses each. The first address of an ENI is the ENI's own.
		The other %d, its secondary private IPs, are for pods. So the node can have %d x %d = %d pods with
		addresses of the VPC.`, k.o.InstanceType, enis, per+1, per, enis, per, enis*per)
	return nil
}

// startAgents shows a node without an agent, starts the agents, and shows the
// changes.
func (k *walk) startAgents(ctx context.Context) error {
	n := k.nodes[0]
	k.p.section("A node before its first pod")
	k.p.text(`The instance has booted: DHCP gave its primary ENI, ens5, the primary address and a default
		route to the VPC's router, which is the subnet's first address.`)
	before, err := n.observe(ctx)
	if err != nil {
		return err
	}
	k.p.command(n.name, "ip -br addr", interfaces(before))
	k.p.command(n.name, "ip route", routes(before, netstate.TableMain))
	k.p.command(n.name, "ip rule", rules(before))

	done := k.p.progress("starting ipamd on %d nodes", len(k.nodes))
	for _, n := range k.nodes {
		if err := n.startAgent(ctx); err != nil {
			done("failed")
			return err
		}
	}
	done("ready")
	k.p.text(`Now the node agent, ipamd, runs on each node. It asked the metadata service which instance this is
		and EC2 which ENIs it has, assigned secondary addresses to the primary ENI, and set up the
		node's rules. When the first address was ready, it wrote the CNI configuration, after which the
		kubelet reports the node as ready.`)
	after, err := n.observe(ctx)
	if err != nil {
		return err
	}
	k.p.command(n.name, "ip rule", rules(after))
	k.explainRules()
	if err := k.showENIs(ctx, n); err != nil {
		return err
	}
	conflist, err := os.ReadFile(n.conflist())
	if err != nil {
		return err
	}
	k.p.command(n.name, "cat /etc/cni/net.d/10-vpcnet.conflist", strings.Split(strings.TrimSpace(string(conflist)), "\n"))
	return nil
}

// explainRules explains the node's rules.
func (k *walk) explainRules() {
	k.p.text(`The kernel looks up rules in the order of their numbers, until one leads to a route:`)
	marked := ""
	if k.o.Layout != layoutFlat {
		marked = "; packets with the number of an ENI as mark leave by that ENI: replies to node ports at its address"
	}
	lines := [][]string{
		{"512", "packets to pods of this node, from any source, go to the pod's link"},
		{"1024", "packets with mark 0x80 leave by the primary ENI: traffic to outside of the VPC, and replies to node ports" + marked},
		{"1536", "packets from a pod whose address is on a secondary ENI leave by that ENI"},
		{"32765", "packets from a secondary ENI's own address leave by that ENI"},
	}
	k.p.block(columns(lines))
	if k.o.Layout == layoutFlat {
		k.p.text(`This is the flat layout. A single rule 512 looks up table %d, in which each pod of the node has a
			route. The mark of a pod's packet selects the ENI by which it leaves: an nftables map from source address to
			ENI sets the mark when the packet leaves the pod's link, and one rule 1536 for each ENI matches it.
			The number of rules does not grow with pods.`, datapath.TablePods)
		return
	}
	k.p.text(`This is the per-pod layout, that of amazon-vpc-cni-k8s: each pod adds a rule 512 and, if its address is
		on a secondary ENI, a rule 1536. The kernel checks them one after the other for each packet.`)
}

// showENIs prints a node's ENIs with the pods on each.
func (k *walk) showENIs(ctx context.Context, n *node) error {
	s, err := n.pool(ctx)
	if err != nil {
		return err
	}
	used := map[string]int{}
	for _, e := range s.ENIs {
		for _, b := range e.Blocks {
			used[e.ID] += b.Used
		}
	}
	k.p.command(n.name, "aws ec2 describe-network-interfaces", eniTable(n, used))
	return nil
}

// addPods adds the pods of each node. The first node gets as many as need a second
// ENI.
func (k *walk) addPods(ctx context.Context) error {
	k.p.section("Pods get addresses")
	k.p.text(`For each pod the container runtime creates a network namespace and calls libcni, which executes vpc-cni with
		the command ADD. vpc-cni asks ipamd over a unix socket for an address, creates a veth pair between pod and node,
		and adds the pod's route. %s gets pods until one has an address of its second ENI.`, k.nodes[0].name)
	done := k.p.progress("adding pods")
	for _, n := range k.nodes {
		if err := k.addPodsOf(ctx, n, n == k.nodes[0]); err != nil {
			done("failed")
			return err
		}
	}
	done(fmt.Sprintf("%d pods", len(k.pods())))
	k.p.command("lab", "kubectl get pod -o wide", podTable(k.pods()))
	k.p.text(`The result of the first ADD, which the runtime got:`)
	first, err := k.nodes[0].pods[0].resultJSON()
	if err != nil {
		return err
	}
	k.p.block(strings.Split(string(first), "\n"))
	return nil
}

func (k *walk) addPodsOf(ctx context.Context, n *node, second bool) error {
	// The primary ENI has addresses for SlotsPerENI pods, so that one more pod needs
	// another ENI.
	most := max(k.o.Pods, k.limits.SlotsPerENI()+1)
	for len(n.pods) < k.o.Pods || second && n.onSecondENI() == nil && len(n.pods) < most {
		if _, err := n.addPod(ctx); err != nil {
			return fmt.Errorf("%w\n%s", err, tail(n.logFile()))
		}
	}
	return nil
}

// onSecondENI returns a pod of the node with an address of a secondary ENI, or nil if
// there is none.
func (n *node) onSecondENI() *pod {
	for _, p := range n.pods {
		if p.device > 0 {
			return p
		}
	}
	return nil
}

// showNodes prints the state of each node with its pods.
func (k *walk) showNodes(ctx context.Context) error {
	k.p.section("The nodes with pods")
	k.p.text(`On each node, ens5 is the primary ENI, ens6 and so on are the secondary ENIs, and each link eni... is the node's
		end of a pod's veth pair.`)
	for _, n := range k.nodes {
		s, err := n.observe(ctx)
		if err != nil {
			return err
		}
		k.p.command(n.name, "ip -br addr", interfaces(s))
		if err := k.showENIs(ctx, n); err != nil {
			return err
		}
		k.p.command(n.name, "ip rule", rules(s))
		k.p.command(n.name, "ip route", routes(s, netstate.TableMain))
		if k.o.Layout == layoutFlat {
			k.p.command(n.name, fmt.Sprintf("ip route show table %d", datapath.TablePods), routes(s, datapath.TablePods))
		}
		for _, e := range n.enis()[1:] {
			table := datapath.Table(e.Attachment.Card, e.Attachment.Device)
			k.p.command(n.name, fmt.Sprintf("ip route show table %d", table), routes(s, table))
		}
	}
	k.p.text(`A pod's address is within its node's subnet, but the route to the pod, which is for a single address, is more
		specific than the subnet's route and leads to the pod's link.`)
	if k.o.Layout == layoutFlat {
		s, err := k.nodes[0].observe(ctx)
		if err != nil {
			return err
		}
		k.p.text(`The flat layout's map from source address to ENI depends on the ENIs and not on the pods: an address is in
			it as soon as it is on the ENI.`)
		k.p.command(k.nodes[0].name, "nft list table inet "+netstate.FilterTable, filter(s))
	}
	return nil
}

// showPod prints the interfaces, routes and neighbours inside a pod.
func (k *walk) showPod(ctx context.Context) error {
	p := k.nodes[0].pods[0]
	k.p.section("Inside a pod")
	k.p.text(`The pod has its address with length /32, so that no other address is on its link. Its gateway
		169.254.1.1 does not exist anywhere. A permanent neighbour entry gives it the MAC of the node's end of the veth
		pair, so that each packet arrives at the node, which routes it.`)
	s, err := observe(ctx, p.ns)
	if err != nil {
		return err
	}
	k.p.command(p.name, "ip -br addr", interfaces(s))
	k.p.command(p.name, "ip route", routes(s, netstate.TableMain))
	k.p.command(p.name, "ip neigh", neighbors(s))
	return nil
}
