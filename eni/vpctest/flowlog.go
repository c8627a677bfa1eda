// SPDX-License-Identifier: Apache-2.0

package vpctest

import (
	"net/netip"
	"time"

	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/internal/fabric/vpcrules"
)

// The actions of flow log records.
const (
	Accept = string(vpcrules.Accept)
	// Reject means that a security group or a network ACL denied the packets.
	Reject = string(vpcrules.Reject)
)

// Record is a flow log record
// (https://docs.aws.amazon.com/vpc/latest/userguide/flow-log-records.html).
type Record struct {
	Account, ENI string
	// Src and Dst are the addresses of the flow. Of the ENI's own addresses AWS shows the
	// primary private IPv4 address in place of every IPv4 address; PktSrc and PktDst are
	// those in the packets.
	Src, Dst, PktSrc, PktDst netip.Addr
	SrcPort, DstPort         uint16 // 0 if the protocol has no ports
	Protocol                 uint8
	Packets, Bytes           uint64
	// Start and End are the times of the first and the last packet, in whole seconds.
	Start, End time.Time
	// Action is [Accept] or [Reject].
	Action string
	// Status is OK, NODATA if the ENI had no traffic, or SKIPDATA if some flows are not
	// recorded. Without OK the fields from Src to Bytes and Action mean nothing.
	Status string

	text string
}

// String returns the record in version 2 of AWS's format:
//
//	version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action log-status
func (r Record) String() string { return r.text }

// FlowLog records what security groups and network ACLs accept and reject at all ENIs. It is
// safe for concurrent use.
type FlowLog struct{ log *fabric.FlowLog }

// FlowLog begins to record flows, until the test ends. A VPC has one flow log at a time.
// Traffic with the EC2 API, the metadata service and the resolver is not recorded. The
// packets of a flow through a network load balancer are recorded with the address of the
// target.
func (v *VPC) FlowLog(t TB) *FlowLog {
	t.Helper()
	l, err := v.fabric.FlowLog(fabric.FlowLogInput{Account: v.cfg.Cloud.Account})
	fatal(t, err, "flow log")
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("%v", err)
		}
	})
	return &FlowLog{l}
}

// Records ends the current aggregation interval, and returns the records of all intervals that
// ended since the last call, without those of ENIs that had no traffic.
func (l *FlowLog) Records(t TB) []Record {
	t.Helper()
	records, err := l.log.Records()
	fatal(t, err, "flow log")
	var all []Record
	for _, r := range records {
		if r.Status == vpcrules.NoData {
			continue
		}
		all = append(all, Record{
			Account: r.Account, ENI: r.ENI, Src: r.Src, Dst: r.Dst, PktSrc: r.PktSrc, PktDst: r.PktDst,
			SrcPort: r.SrcPort, DstPort: r.DstPort, Protocol: r.Protocol, Packets: r.Packets, Bytes: r.Bytes,
			Start: r.Start, End: r.End, Action: string(r.Action), Status: string(r.Status), text: r.String(),
		})
	}
	return all
}
