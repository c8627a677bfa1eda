// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/datapath"
)

// The names of the contenders.
const (
	emptyName   = "empty"
	floorName   = "floor"
	flatName    = "flat"
	beforeName  = "before"
	ipamdName   = "ipamd"
	slowName    = "ipamd-slow"
	perPodName  = "per-pod"
	noSweepName = "flat-nosweep"
	ptpName     = "ptp"
)

// scenario is one table of the report: contenders that are measured in turn.
type scenario struct {
	name     string
	prefixes []netip.Prefix // of the pods' addresses, one of each family
	pods     int            // that each node has already
	bursts   bool           // whether pods are also added at once
	names    []string       // of the contenders
}

// The addresses of pods.
var (
	prefix4 = netip.MustParsePrefix("10.0.0.0/16")
	prefix6 = netip.MustParsePrefix("2001:db8:0:1::/80")
)

// scenarios returns what is measured: all contenders with IPv4, and with the other
// families and with more pods those that can do it.
func scenarios(o options) []scenario {
	var all []scenario
	for _, n := range o.pods {
		s := scenario{name: fmt.Sprintf("IPv4, %d pods", n), prefixes: []netip.Prefix{prefix4}, pods: n, names: []string{floorName, flatName, perPodName}}
		if n == 0 {
			s = scenario{name: "IPv4", prefixes: s.prefixes, bursts: true, names: []string{emptyName, floorName, flatName, perPodName, noSweepName, ptpName}}
		}
		all = append(all, s)
	}
	ours := []string{floorName, flatName, perPodName}
	all = append(all,
		scenario{name: "IPv6", prefixes: []netip.Prefix{prefix6}, bursts: true, names: ours},
		scenario{name: "dual stack", prefixes: []netip.Prefix{prefix4, prefix6}, bursts: true, names: ours})
	agent := scenario{name: "real agent", prefixes: []netip.Prefix{prefix4}, bursts: true, names: []string{floorName, flatName, ipamdName}}
	if o.slowDisk > 0 {
		agent.name += fmt.Sprintf(", fsync takes %s longer on %s", o.slowDisk, slowName)
		agent.names = append(agent.names, slowName)
	}
	all = append(all, agent)
	all = slices.DeleteFunc(all, func(s scenario) bool { return !strings.Contains(s.name, o.scenario) })
	if o.before != "" {
		for i := range all {
			all[i].names = append(slices.Clone(all[i].names), beforeName)
		}
	}
	return all
}

// contenders returns the contenders of s, with their nodes and agents. If it returns an
// error, the caller must still stop those that it returns.
func (s scenario) contenders(ctx context.Context, o options) (all []*contender, err error) {
	for _, name := range s.names {
		var c *contender
		switch name {
		case ipamdName:
			c, err = newIPAMD(ctx, name, o.bin, o.burst, 0)
		case slowName:
			c, err = newIPAMD(ctx, name, o.bin, o.burst, o.slowDisk)
		default:
			c, err = newContender(name, programs[name], o.bin)
		}
		if c != nil {
			all = append(all, c)
		}
		if err != nil {
			return all, err
		}
		c.prefixes = s.prefixes
		switch name {
		case flatName, beforeName:
			err = c.serve(ctx, datapath.Flat, true)
		case perPodName:
			err = c.serve(ctx, datapath.PerPod, true)
		case noSweepName:
			err = c.serve(ctx, datapath.Flat, false)
		case ptpName:
			c.conf = ptpConf
		}
		if err == nil {
			err = c.fill(ctx, s.pods)
		}
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

var programs = map[string]string{
	emptyName: "empty", floorName: "floor", ptpName: "ptp",
	flatName: "vpc-cni", perPodName: "vpc-cni", noSweepName: "vpc-cni", beforeName: "before",
	ipamdName: "vpc-cni", slowName: "vpc-cni",
}

var ptpConf = map[string]any{
	"cniVersion": "1.0.0", "name": "peer", "type": "ptp", "mtu": 9001,
	"ipam": map[string]any{
		"type": "host-local", "dataDir": "/run/host-local",
		"ranges": [][]map[string]string{{{"subnet": prefix4.String()}}},
		"routes": []map[string]string{{"dst": "0.0.0.0/0"}},
	},
}

// measure measures the contenders of s in turn.
func (s scenario) measure(ctx context.Context, o options) (t *table, err error) {
	all, err := s.contenders(ctx, o)
	defer func() {
		for _, c := range all {
			err = errors.Join(err, c.stop(), c.close())
		}
	}()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	t = &table{Scenario: s.name}
	for _, c := range all {
		r := &row{Name: c.name}
		t.Rows = append(t.Rows, r)
		if c.syncLog != "" { // a first burst has the agent get the addresses that it keeps free
			if err := new(row).measureBurst(ctx, c, o.burst); err != nil {
				return nil, err
			}
		}
		before := c.syncs()
		defer func() { r.Syncs = c.syncs() - before }()
	}
	for i := range o.rounds {
		for k := range all {
			k = (k + i) % len(all) // the first contender changes with each round
			if err := t.Rows[k].measurePod(ctx, all[k]); err != nil {
				return nil, err
			}
		}
	}
	for i := range o.bursts {
		for k := range all {
			if k = (k + i) % len(all); !s.bursts {
				continue
			}
			if err := t.Rows[k].measureBurst(ctx, all[k], o.burst); err != nil {
				return nil, err
			}
		}
	}
	t.finish()
	return t, nil
}
