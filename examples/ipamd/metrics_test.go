// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
)

func TestMetrics(t *testing.T) {
	pool, err := ipam.Open(ipam.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"eni-1", "eni-2"} {
		block := ipam.Block{ENI: id, Prefix: netip.MustParsePrefix("10.0." + id[4:] + ".0/28")}
		if err := errors.Join(pool.SetENI(ipam.ENI{ID: id, Device: int(id[4] - '1')}), pool.AddBlocks(block)); err != nil {
			t.Fatal(err)
		}
	}
	if err := pool.SetReady("eni-1", true); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"c1", "c2"} {
		if _, err := pool.Allocate(t.Context(), ipam.Request{Attachment: ipam.Attachment{Network: "n", ContainerID: id, IfName: "eth0"}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pool.Release(ipam.Attachment{Network: "n", ContainerID: "c1", IfName: "eth0"}); err != nil {
		t.Fatal(err)
	}
	m := newMetrics()
	m.watch(pool.View)
	m.called(eni.Call{Action: "AssignPrivateIpAddresses"})
	m.called(eni.Call{Action: "AssignPrivateIpAddresses", Code: "RequestLimitExceeded"})
	m.repaired(datapath.Repair{Took: time.Millisecond})
	m.repaired(datapath.Repair{Took: time.Millisecond, Fighting: true})
	m.repaired(datapath.Repair{Took: time.Millisecond, Err: errors.New("no")})

	rec := httptest.NewRecorder()
	m.handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	var got []string
	for line := range strings.Lines(rec.Body.String()) {
		if !strings.HasPrefix(line, "#") && !strings.Contains(line, "_bucket") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	want := []string{
		`vpcnet_addresses{eni="eni-1",state="cooling"} 1`,
		`vpcnet_addresses{eni="eni-1",state="free"} 14`,
		`vpcnet_addresses{eni="eni-1",state="held"} 0`,
		`vpcnet_addresses{eni="eni-1",state="quarantined"} 0`,
		`vpcnet_addresses{eni="eni-1",state="used"} 1`,
		`vpcnet_addresses{eni="eni-2",state="cooling"} 0`,
		`vpcnet_addresses{eni="eni-2",state="free"} 0`,
		`vpcnet_addresses{eni="eni-2",state="held"} 16`,
		`vpcnet_addresses{eni="eni-2",state="quarantined"} 0`,
		`vpcnet_addresses{eni="eni-2",state="used"} 0`,
		`vpcnet_datapath_repair_seconds_sum 0.003`,
		`vpcnet_datapath_repair_seconds_count 3`,
		`vpcnet_datapath_repairs_total{result="failed"} 1`,
		`vpcnet_datapath_repairs_total{result="fighting"} 1`,
		`vpcnet_datapath_repairs_total{result="repaired"} 1`,
		`vpcnet_ec2_calls_total{action="AssignPrivateIpAddresses",code=""} 1`,
		`vpcnet_ec2_calls_total{action="AssignPrivateIpAddresses",code="RequestLimitExceeded"} 1`,
		`vpcnet_waiting_requests 0`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}
