// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"fmt"
	"strconv"
	"syscall"

	"github.com/vpcnet/vpcnet/datapath/netstate"
	"golang.org/x/sys/unix"
)

// Event is the kernel's report of one change.
type Event struct {
	// Port is the netlink port of the socket that requested the change: by default the
	// ID of the process that opened the socket. It is 0 if the kernel made the change,
	// and in reports about nftables.
	Port uint32
	// Deleted means that the subject does not exist any more.
	Deleted bool
	// Subject is the object that changed; nil for a report about another kind of object,
	// or if Err is set.
	Subject Subject
	// Err means that the report could not be decoded.
	Err error
}

// Subject is the object of a report: a [Link] (without its settings), [Address],
// [Neighbor], [Route], [Rule], [LinkSettings], [Table] or [Transaction].
type Subject interface{ subject() }

// Address is an address as the subject of a report.
type Address struct{ netstate.Address }

// Rule is a rule as the subject of a report.
type Rule struct{ netstate.Rule }

// LinkSettings are the changed settings of a link. The kernel reports the settings of
// each new link as well.
type LinkSettings struct {
	// All means that the settings of all links have changed.
	All bool
	// Settings are those of the settings that a State shows, if the link is known.
	Settings []netstate.Sysctl
}

// Table is an nftables table: it, or one of its chains, rules, sets or elements, has
// changed.
type Table struct{ Name string }

// Transaction ends the reports of one nftables transaction.
type Transaction struct {
	// Program is the name of the program that made the transaction, PID its process.
	Program string
	PID     int
}

func (Link) subject()         {}
func (Address) subject()      {}
func (Neighbor) subject()     {}
func (Route) subject()        {}
func (Rule) subject()         {}
func (LinkSettings) subject() {}
func (Table) subject()        {}
func (Transaction) subject()  {}

// message is one netlink message.
type message syscall.NetlinkMessage

// routeEvent decodes a message of a route netlink socket. Reports of family bridge are
// about the addresses that a bridge has learned; the kernel reports a port that comes or
// goes also without that family.
func routeEvent(m message, links LinkNames) Event {
	e := Event{Port: m.Header.Pid}
	if len(m.Data) > 0 && m.Data[0] == unix.AF_BRIDGE {
		return e
	}
	switch m.Header.Type {
	case unix.RTM_DELLINK, unix.RTM_DELADDR, unix.RTM_DELNEIGH, unix.RTM_DELROUTE, unix.RTM_DELRULE:
		e.Deleted = true
	}
	var subject Subject
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		var l Link
		l, _, e.Err = decodeLinkOnly(m.Data)
		subject = l
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		var a netstate.Address
		a, e.Err = decodeAddress(m.Data, links)
		subject = Address{a}
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		subject, e.Err = decodeNeighbor(m.Data, links)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		subject, e.Err = decodeRoute(m.Data, links)
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		var r netstate.Rule
		r, e.Err = decodeRule(m.Data)
		subject = Rule{r}
	case unix.RTM_NEWNETCONF:
		subject, e.Err = decodeSettings(m.Data, links)
	}
	if e.Err == nil {
		e.Subject = subject
	}
	return e
}

// From linux/netconf.h: the size of struct netconfmsg with its padding, attributes,
// and the number that stands for all links. Package nl has no netconf messages.
const (
	netconfHeader     = 4
	netconfIndex      = 1
	netconfForwarding = 2
	netconfRPFilter   = 3
	netconfAll        = -1
)

// decodeSettings decodes a netconf message.
func decodeSettings(body []byte, links LinkNames) (LinkSettings, error) {
	if len(body) < netconfHeader {
		return LinkSettings{}, fmt.Errorf("netconf message has %d bytes, want at least %d", len(body), netconfHeader)
	}
	values := map[uint16]int{}
	for kind, v := range attributes(body[netconfHeader:]) {
		values[kind] = int(int32(number(v)))
	}
	if values[netconfIndex] == netconfAll {
		return LinkSettings{All: true}, nil
	}
	link, known := links[values[netconfIndex]]
	if !known {
		return LinkSettings{}, nil
	}
	family := "ipv4"
	if body[0] == unix.AF_INET6 {
		family = "ipv6"
	}
	var s LinkSettings
	for _, setting := range []struct {
		kind uint16
		key  string
	}{{netconfForwarding, "forwarding"}, {netconfRPFilter, "rp_filter"}} {
		if value, ok := values[setting.kind]; ok {
			s.Settings = append(s.Settings, netstate.LinkSysctl(family, link, setting.key, strconv.Itoa(value)))
		}
	}
	return s, nil
}
