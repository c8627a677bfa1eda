// SPDX-License-Identifier: Apache-2.0

package vpcrules

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Action is the action of a flow log record.
type Action string

// The actions of flow log records.
const (
	Accept Action = "ACCEPT"
	// Reject means that a security group or a network ACL denied the packets.
	Reject Action = "REJECT"
)

// LogStatus is the status of a flow log record.
type LogStatus string

// The statuses of flow log records.
const (
	StatusOK LogStatus = "OK"
	// NoData means that the ENI had no traffic in the aggregation interval.
	NoData LogStatus = "NODATA"
	// SkipData means that some flows of the aggregation interval were not recorded.
	SkipData LogStatus = "SKIPDATA"
)

// Record is a flow log record
// (https://docs.aws.amazon.com/vpc/latest/userguide/flow-log-records.html). Its text,
// in version 2 of the format, does not contain PktSrc and PktDst.
type Record struct {
	Account, ENI string
	// Src and Dst are the addresses of the flow. Of the ENI's own addresses, AWS shows
	// the primary private IPv4 address in place of every IPv4 address.
	Src, Dst netip.Addr
	// PktSrc and PktDst are the addresses in the packets.
	PktSrc, PktDst   netip.Addr
	SrcPort, DstPort uint16 // 0 if the protocol has no ports
	Protocol         uint8
	Packets, Bytes   uint64
	// Start and End are the times of the first and the last packet, in whole seconds.
	Start, End time.Time
	Action     Action
	Status     LogStatus
}

// recordFields is the number of fields of a record of version 2.
const recordFields = 14

// String returns the record in version 2 of AWS's format:
//
//	version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action log-status
func (r Record) String() string {
	flow := "- - - - - - -"
	if r.Status == StatusOK {
		flow = fmt.Sprintf("%v %v %d %d %d %d %d", r.Src, r.Dst, r.SrcPort, r.DstPort, r.Protocol, r.Packets, r.Bytes)
	}
	action := Action("-")
	if r.Status == StatusOK {
		action = r.Action
	}
	return fmt.Sprintf("2 %s %s %s %d %d %s %s", cmp.Or(r.Account, "-"), r.ENI, flow, r.Start.Unix(), r.End.Unix(), action, r.Status)
}

// ParseRecord parses a record in version 2 of AWS's format. PktSrc and PktDst of the
// result are equal to Src and Dst.
func ParseRecord(s string) (Record, error) {
	f := strings.Fields(s)
	if len(f) != recordFields {
		return Record{}, fmt.Errorf("flow log record %q has %d fields, want %d", s, len(f), recordFields)
	}
	if f[0] != "2" {
		return Record{}, fmt.Errorf("flow log record has version %q, want 2", f[0])
	}
	p := recordParser{fields: f}
	r := Record{ENI: f[2], Status: LogStatus(f[13])}
	if f[1] != "-" {
		r.Account = f[1]
	}
	r.Start, r.End = time.Unix(int64(p.number(10, 62)), 0), time.Unix(int64(p.number(11, 62)), 0)
	switch r.Status {
	case StatusOK:
		r.Src, r.Dst = p.addr(3), p.addr(4)
		r.PktSrc, r.PktDst = r.Src, r.Dst
		r.SrcPort, r.DstPort = uint16(p.number(5, 16)), uint16(p.number(6, 16))
		r.Protocol = uint8(p.number(7, 8))
		r.Packets, r.Bytes = p.number(8, 64), p.number(9, 64)
		r.Action = Action(f[12])
		if r.Action != Accept && r.Action != Reject {
			p.fail(12, fmt.Errorf("want %s or %s", Accept, Reject))
		}
		if r.Src.Is4() != r.Dst.Is4() {
			p.fail(4, fmt.Errorf("want an address of the family of %s", f[3]))
		}
	case NoData, SkipData:
		for i := range f {
			if (i >= 3 && i <= 9 || i == 12) && f[i] != "-" {
				p.fail(i, fmt.Errorf("want - in a record with status %s", r.Status))
			}
		}
	default:
		p.fail(13, fmt.Errorf("want %s, %s or %s", StatusOK, NoData, SkipData))
	}
	if p.err != nil {
		return Record{}, p.err
	}
	return r, nil
}

// recordParser parses the fields of a record and keeps the first error.
type recordParser struct {
	fields []string
	err    error
}

func (p *recordParser) fail(field int, err error) {
	if p.err == nil {
		p.err = fmt.Errorf("flow log record: field %d is %q: %w", field+1, p.fields[field], err)
	}
}

// number parses a decimal number of at most the given bits.
func (p *recordParser) number(field, bits int) uint64 {
	n, err := strconv.ParseUint(p.fields[field], 10, bits)
	if err != nil || p.fields[field][0] == '+' {
		p.fail(field, fmt.Errorf("want a decimal number of %d bits", bits))
	}
	return n
}

func (p *recordParser) addr(field int) netip.Addr {
	a, err := netip.ParseAddr(p.fields[field])
	if err != nil || a.Zone() != "" {
		p.fail(field, fmt.Errorf("want an IP address"))
	}
	return a
}
