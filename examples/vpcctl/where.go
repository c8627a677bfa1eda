// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/snat"
)

// saved is a node's network with what the agent knows of it.
type saved struct {
	datapath.View
	Pods []podAddr `json:"pods,omitempty"`
}

// podAddr is a pod's address as the agent's introspection shows it.
type podAddr struct {
	Addr      netip.Addr `json:"addr"`
	ENI       string     `json:"eni"`
	Namespace string     `json:"namespace"`
	Pod       string     `json:"pod"`
}

// agentStatus is the part of ipamd's introspection that matters here.
type agentStatus struct {
	ENIs []struct {
		ID           string `json:"id"`
		Card, Device int
		Blocks       []struct {
			Prefix netip.Prefix `json:"prefix"`
		} `json:"blocks"`
	} `json:"enis"`
	Allocations []podAddr `json:"allocations"`
}

// where says which node to look at.
type where struct {
	netns, sandbox, agent, prefix string
	external                      bool
}

func (w *where) register(fs *flag.FlagSet) {
	fs.StringVar(&w.netns, "netns", "", "`path` of the node's network namespace; the present one if empty")
	fs.StringVar(&w.sandbox, "sandbox", "", "`path` of the pod's network namespace, to look inside as well")
	fs.StringVar(&w.agent, "agent", "", "introspection `address` of ipamd, host:port or unix:path, to know which ENI owns what")
	fs.StringVar(&w.prefix, "host-link-prefix", datapath.DefaultHostLinkPrefix, "`prefix` of the names of pods' host links")
	fs.BoolVar(&w.external, "external-snat", false, "something beyond the node translates sources")
}

// read loads a saved state, or observes this node if file is empty.
func (w *where) read(ctx context.Context, file string) (saved, error) {
	if file != "" {
		return load(file)
	}
	return w.observe(ctx)
}

// observe reads the kernel, the translation and the agent.
func (w *where) observe(ctx context.Context) (saved, error) {
	var s saved
	h, err := datapath.Open(w.netns)
	if err != nil {
		return s, err
	}
	defer h.Close()
	if s.View, err = h.View(ctx, w.sandbox); err != nil {
		return s, err
	}
	s.External = w.external
	if s.Translation, err = w.translation(ctx); err != nil {
		return s, err
	}
	if w.agent == "" {
		return s, nil
	}
	status, err := askAgent(ctx, w.agent)
	if err != nil {
		return s, fmt.Errorf("agent at %s: %w", w.agent, err)
	}
	s.Pods = status.Allocations
	s.Desired = &datapath.Desired{Node: nodeOf(status, s.Node, w.prefix)}
	return s, nil
}

// The parts of package snat's rules that decide about a packet's source.
var (
	translateTo     = regexp.MustCompile(`snat ip to (\S+)`)
	translateInside = regexp.MustCompile(`(?s)set inside \{.*?elements = \{(.*?)\}`)
)

// translation reads how the node translates sources; nil is not at all.
func (w *where) translation(ctx context.Context) (*datapath.Translation, error) {
	h, err := snat.Open(w.netns)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	rules, err := h.Observe(ctx)
	if err != nil {
		return nil, err
	}
	return parseTranslation(rules.String()), nil
}

func parseTranslation(text string) *datapath.Translation {
	to := translateTo.FindStringSubmatch(text)
	if to == nil {
		return nil
	}
	addr, err := netip.ParseAddr(to[1])
	if err != nil {
		return nil
	}
	t := &datapath.Translation{To: addr}
	if inside := translateInside.FindStringSubmatch(text); inside != nil {
		for _, f := range strings.FieldsFunc(inside[1], func(r rune) bool { return strings.ContainsRune(", \t\n", r) }) {
			if p, err := netip.ParsePrefix(f); err == nil {
				t.Inside = append(t.Inside, p)
			} else if a, err := netip.ParseAddr(f); err == nil {
				t.Inside = append(t.Inside, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	return t
}

// agentTime is how long the agent may take to answer.
const agentTime = 5 * time.Second

// askAgent reads the agent's introspection.
func askAgent(ctx context.Context, where string) (agentStatus, error) {
	var status agentStatus
	ctx, cancel := context.WithTimeout(ctx, agentTime)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			if path, unix := strings.CutPrefix(where, "unix:"); unix {
				return d.DialContext(ctx, "unix", path)
			}
			return d.DialContext(ctx, "tcp", where)
		},
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/v1/status", nil)
	if err != nil {
		return status, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return status, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return status, fmt.Errorf("status %s", resp.Status)
	}
	return status, json.NewDecoder(resp.Body).Decode(&status)
}

// nodeOf puts together which ENI owns what: the agent knows the addresses, the
// kernel the links.
func nodeOf(status agentStatus, s datapath.State, prefix string) datapath.Node {
	n := datapath.Node{Layout: datapath.PerPod, HostLinkPrefix: prefix}
	for _, r := range s.Rules {
		if r.Priority == datapath.PriorityToPod && r.Table == datapath.TablePods {
			n.Layout = datapath.Flat
		}
	}
	for _, e := range status.ENIs {
		x := datapath.ENI{ID: e.ID, Card: e.Card, Device: e.Device}
		for _, b := range e.Blocks {
			x.Sources = append(x.Sources, b.Prefix)
		}
		x.Link = linkOfTable(s, x.Table())
		for _, l := range s.Links {
			if l.Name == x.Link {
				x.MAC, _ = net.ParseMAC(l.MAC)
			}
		}
		for _, a := range s.Addresses {
			if a.Link == x.Link && a.Prefix.Addr().IsGlobalUnicast() {
				x.Addrs = append(x.Addrs, a.Prefix)
			}
		}
		n.ENIs = append(n.ENIs, x)
	}
	return n
}

// linkOfTable returns the link of a table's default route.
func linkOfTable(s datapath.State, table int) string {
	for _, r := range s.Routes {
		if r.Table == table && r.Dst.Bits() == 0 {
			return r.Link
		}
	}
	return ""
}
