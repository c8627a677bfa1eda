// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"text/tabwriter"

	"github.com/vpcnet/vpcnet/datapath/policy"
)

const policyAbout = `policy shows what a pod may receive and send: its class, the peers and ports that
the class allows, and with -agent how many packets the class has denied.

  vpcctl policy 10.0.1.23
  vpcctl policy -agent unix:/run/vpcnet/status.sock default/web-0
  vpcctl policy -state saved.json default/web-0

The pod is an address or, with -agent, NAMESPACE/NAME. The node reaches its own pods,
and they reach it, whatever the class says.`

// podPolicy is what a pod may receive and send.
type podPolicy struct {
	Pod   string       `json:"pod"`
	Addrs []netip.Addr `json:"addrs"`
	// Class is empty if nothing limits the pod.
	Class   string    `json:"class,omitempty"`
	Ingress podLimits `json:"ingress"`
	Egress  podLimits `json:"egress"`
}

// podLimits are the limits in one direction.
type podLimits struct {
	Isolated bool      `json:"isolated"`
	Allow    []allowed `json:"allow,omitempty"`
	Denied   *uint64   `json:"deniedPackets,omitempty"` // by the class; nil if it is not known
}

// allowed is a part of what a class allows.
type allowed struct {
	Peers string `json:"peers"`
	Ports string `json:"ports"`
}

// runPolicy runs "vpcctl policy".
func runPolicy(ctx context.Context, std stdio, args []string) error {
	fs := flag.NewFlagSet("policy", flag.ContinueOnError)
	var w where
	w.register(fs)
	state := fs.String("state", "", "use the state in `file`, written by \"vpcctl state save\", instead of this node's")
	out := outputFlag(fs, formatText, formatJSON, formatYAML)
	pos, err := parseMixed(fs, std, args, policyAbout, "POD")
	if err != nil {
		return err
	}
	if len(pos) != 1 {
		return wrong(fs, std, fmt.Sprintf("%d arguments, want a pod", len(pos)))
	}
	s, err := w.read(ctx, *state)
	if err != nil {
		return err
	}
	p, err := s.policyOf(pos[0])
	if err != nil {
		return err
	}
	return out.print(std.out, p, func() { p.print(std.out) })
}

// policyOf returns the policy of a pod by its name or address.
func (s saved) policyOf(name string) (p podPolicy, err error) {
	if s.Policies == nil {
		return p, errors.New("this node has no table of network policies: nothing limits its pods")
	}
	if s.Policies.Odd {
		return p, errors.New("another program has changed the table inet vpcnet-policy of network policies")
	}
	p.Pod = name
	if a, err := netip.ParseAddr(name); err == nil {
		p.Addrs = []netip.Addr{a}
	}
	for _, known := range s.Pods {
		if known.Namespace+"/"+known.Pod == name {
			p.Addrs = append(p.Addrs, known.Addr)
		}
	}
	if len(p.Addrs) == 0 {
		return p, fmt.Errorf("no pod %q; pods are addresses or, with -agent, NAMESPACE/NAME", name)
	}
	p.Class = s.Policies.Pods[p.Addrs[0]]
	class := s.Policies.Classes[p.Class]
	p.Ingress, p.Egress = s.limits(p.Class, class, policy.Ingress), s.limits(p.Class, class, policy.Egress)
	return p, nil
}

// limits returns the limits of a class in one direction.
func (s saved) limits(name string, c policy.Compiled, d policy.Direction) podLimits {
	l := podLimits{Isolated: c.Isolated(d)}
	for _, b := range c.Boxes(d) {
		l.Allow = append(l.Allow, allowed{b.Peers(), b.Protocols()})
	}
	if i := slices.IndexFunc(s.Denied, func(x policy.Denied) bool { return x.Class == name && x.Direction == d }); i >= 0 {
		l.Denied = &s.Denied[i].Packets
	}
	return l
}

// print prints the policy as a table.
func (p podPolicy) print(out io.Writer) {
	class := p.Class
	if class == "" {
		class = "none"
	}
	fmt.Fprintf(out, "pod %s, class %s\n", p.Pod, class)
	p.Ingress.print(out, "from")
	p.Egress.print(out, "to")
}

func (l podLimits) print(out io.Writer, word string) {
	fmt.Fprintln(out)
	if !l.Isolated {
		fmt.Fprintf(out, "%s: everything\n", word)
		return
	}
	denied := ""
	if l.Denied != nil {
		denied = fmt.Sprintf(" (%d packets denied by the class)", *l.Denied)
	}
	if len(l.Allow) == 0 {
		fmt.Fprintf(out, "%s: nothing%s\n", word, denied)
		return
	}
	fmt.Fprintf(out, "%s: only%s\n", word, denied)
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "  PEERS\tPORTS")
	for _, a := range l.Allow {
		fmt.Fprintf(t, "  %s\t%s\n", a.Peers, a.Ports)
	}
	t.Flush()
}
