// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// interfaces lists links and addresses as `ip -br addr` does, with the MAC
// instead of link-local addresses.
func interfaces(s netstate.State) []string {
	var rows [][]string
	for _, l := range s.Links {
		state := "DOWN"
		if l.Up {
			state = "UP"
		}
		row := []string{l.Name, state, l.MAC}
		for _, a := range s.Addresses {
			if a.Link == l.Name && !a.Prefix.Addr().IsLinkLocalUnicast() {
				row = append(row, a.Prefix.String())
			}
		}
		rows = append(rows, row)
	}
	return columns(rows)
}

// routes lists a route table as `ip -4 route show table` does.
func routes(s netstate.State, table int) []string {
	var lines []string
	for _, r := range s.Routes {
		if r.Table != table || !r.Dst.Addr().Is4() {
			continue
		}
		r.Table = netstate.TableMain // omits the table, which the printed command already names
		if r.Dst.Bits() == 0 {
			lines = slices.Insert(lines, 0, r.String())
		} else {
			lines = append(lines, r.String())
		}
	}
	return lines
}

// rules lists the rules as `ip -4 rule` does.
func rules(s netstate.State) []string {
	list := slices.Clone(s.Rules)
	slices.SortStableFunc(list, func(a, b netstate.Rule) int { return a.Priority - b.Priority })
	var lines []string
	for _, r := range list {
		if r.IPv6 {
			continue
		}
		priority := strconv.Itoa(r.Priority)
		text := strings.TrimPrefix(r.String(), "pref "+priority+" ")
		lines = append(lines, fmt.Sprintf("%-7s%s", priority+":", strings.TrimSuffix(text, " protocol kernel")))
	}
	return lines
}

// neighbors lists the permanent neighbours as `ip -4 neigh` does.
func neighbors(s netstate.State) []string {
	var lines []string
	for _, n := range s.Neighbors {
		if n.Addr.Is4() {
			lines = append(lines, fmt.Sprintf("%s dev %s lladdr %s PERMANENT", n.Addr, n.Link, n.MAC))
		}
	}
	return lines
}

// filter lists the source map and the chains of vpcnet's nftables table.
func filter(s netstate.State) []string {
	return strings.Split(strings.TrimRight(s.Filter.String(), "\n"), "\n")
}

// eniTable lists a node's ENIs in EC2.
func eniTable(n *node, used map[string]int) []string {
	rows := [][]string{{"ENI", "DEVICE", "LINK", "MAC", "PRIMARY ADDRESS", "SECONDARY", "PODS", "TABLE"}}
	for _, e := range n.enis() {
		rows = append(rows, []string{
			e.ID, strconv.Itoa(e.Attachment.Device), link(e), e.MAC, e.Addr.String(),
			slots(len(e.Addrs), len(e.Prefixes)), strconv.Itoa(used[e.ID]),
			tableName(datapath.Table(e.Attachment.Card, e.Attachment.Device)),
		})
	}
	return columns(rows)
}

func slots(addrs, prefixes int) string {
	switch {
	case prefixes == 0:
		return fmt.Sprintf("%d", addrs)
	case addrs == 0:
		return fmt.Sprintf("%d x /28", prefixes)
	}
	return fmt.Sprintf("%d + %d x /28", addrs, prefixes)
}

func tableName(t int) string {
	if t == netstate.TableMain {
		return "main"
	}
	return strconv.Itoa(t)
}

// podTable lists pods as `kubectl get pod -o wide` does, with the ENI of each
// address.
func podTable(pods []*pod) []string {
	rows := [][]string{{"NAME", "IP", "NODE", "ENI", "LINK ON NODE", "ADD TOOK"}}
	for _, p := range pods {
		rows = append(rows, []string{
			p.name, p.addr.String(), p.node.name, fmt.Sprintf("%s (device %d)", p.eni, p.device), p.hostLink,
			fmt.Sprintf("%d ms", p.took.Milliseconds()),
		})
	}
	return columns(rows)
}

// callTable lists the EC2 calls so far.
func callTable(calls map[string]int) []string {
	var rows [][]string
	for _, action := range slices.Sorted(maps.Keys(calls)) {
		rows = append(rows, []string{action, strconv.Itoa(calls[action])})
	}
	return columns(rows)
}
