// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"errors"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/policy"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/snat"
)

// fakeAgent is an agent with a pool.
type fakeAgent struct {
	pool *ipam.Pool
	// looks counts the calls of Status. Optional.
	looks *int
}

func (a fakeAgent) View() ipam.View { return a.pool.View() }

func (a fakeAgent) Status() ipamd.Status {
	if a.looks != nil {
		*a.looks++
	}
	return ipamd.Status{
		InFlight: []string{"assign eni-1 2 slots"},
		Denied:   []policy.Denied{{Class: "web", Direction: policy.Egress, Packets: 7}},
		Cards:    []ipamd.CardStatus{{MaxENIs: 4, SlotsPerENI: 9, AddressesPerSlot: 16}},
		Network:  ipamd.NetworkStatus{SNATBackend: "iptables-nft"},
	}
}

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
	m := New("v1")
	looks := 0
	m.Watch(fakeAgent{pool: pool, looks: &looks})
	hooks := m.Hooks(func(eni.Call) {})
	hooks.Requested(ipamd.Request{Call: "add", Took: time.Millisecond})
	hooks.Requested(ipamd.Request{Call: "add", Took: time.Second, Failed: true, Reason: "subnet-full", Exhausted: true})
	hooks.Requested(ipamd.Request{Call: "add", Failed: true})
	hooks.Requested(ipamd.Request{Call: "del"})
	hooks.Called(eni.Call{Action: "AssignPrivateIpAddresses", Took: 20 * time.Millisecond})
	hooks.Called(eni.Call{Action: "AssignPrivateIpAddresses", Code: "RequestLimitExceeded"})
	hooks.Called(eni.Call{Action: "AssociateTrunkInterface", Code: "UnauthorizedOperation"})
	hooks.Translated(snat.Repair{})
	hooks.Translated(snat.Repair{Err: errors.New("no")})
	ready := make(chan struct{})
	close(ready)
	m.Started(t.Context(), time.Now(), ready)
	ended, end := context.WithCancel(t.Context())
	end()
	m.Started(ended, time.Now(), nil)
	m.repaired(datapath.Repair{Took: time.Millisecond})
	m.repaired(datapath.Repair{Took: time.Millisecond, Fighting: true})
	m.repaired(datapath.Repair{Took: time.Millisecond, Err: errors.New("no")})

	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	if looks != 1 {
		t.Errorf("a scrape reads the status %d times, want once", looks)
	}
	var got, goRuntime []string
	for line := range strings.Lines(rec.Body.String()) {
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "#"), strings.Contains(line, "_bucket"), strings.Contains(line, "_duration_seconds_sum"):
		case strings.HasPrefix(line, "go_"), strings.HasPrefix(line, "process_"):
			goRuntime = append(goRuntime, line)
		case strings.HasPrefix(line, "awscni_build_info"):
			got = append(got, "awscni_build_info "+line[len(line)-1:])
		default:
			got = append(got, line)
		}
	}
	if len(goRuntime) == 0 {
		t.Error("no metrics of the Go runtime")
	}
	want := []string{
		`awscni_add_ip_req_count 3`,
		`awscni_assigned_ip_addresses 1`,
		`awscni_assigned_ip_per_cidr{cidr="10.0.1.0/28"} 1`,
		`awscni_assigned_ip_per_cidr{cidr="10.0.2.0/28"} 0`,
		`awscni_assigned_ip_per_eni{eni="eni-1"} 1`,
		`awscni_assigned_ip_per_eni{eni="eni-2"} 0`,
		`awscni_aws_api_error_count{api="AssignPrivateIpAddresses",error="RequestLimitExceeded"} 1`,
		`awscni_aws_api_error_count{api="AssociateTrunkInterface",error="UnauthorizedOperation"} 1`,
		`awscni_aws_api_latency_ms{api="AssignPrivateIpAddresses",error="",status="200",quantile="0.5"} 20`,
		`awscni_aws_api_latency_ms{api="AssignPrivateIpAddresses",error="",status="200",quantile="0.99"} 20`,
		`awscni_aws_api_latency_ms_sum{api="AssignPrivateIpAddresses",error="",status="200"} 20`,
		`awscni_aws_api_latency_ms_count{api="AssignPrivateIpAddresses",error="",status="200"} 1`,
		`awscni_aws_api_latency_ms{api="AssignPrivateIpAddresses",error="RequestLimitExceeded",status="error",quantile="0.5"} 0`,
		`awscni_aws_api_latency_ms{api="AssignPrivateIpAddresses",error="RequestLimitExceeded",status="error",quantile="0.99"} 0`,
		`awscni_aws_api_latency_ms_sum{api="AssignPrivateIpAddresses",error="RequestLimitExceeded",status="error"} 0`,
		`awscni_aws_api_latency_ms_count{api="AssignPrivateIpAddresses",error="RequestLimitExceeded",status="error"} 1`,
		`awscni_aws_api_latency_ms{api="AssociateTrunkInterface",error="UnauthorizedOperation",status="error",quantile="0.5"} 0`,
		`awscni_aws_api_latency_ms{api="AssociateTrunkInterface",error="UnauthorizedOperation",status="error",quantile="0.99"} 0`,
		`awscni_aws_api_latency_ms_sum{api="AssociateTrunkInterface",error="UnauthorizedOperation",status="error"} 0`,
		`awscni_aws_api_latency_ms_count{api="AssociateTrunkInterface",error="UnauthorizedOperation",status="error"} 1`,
		`awscni_aws_utils_error_count{error="RequestLimitExceeded",fn="AssignPrivateIpAddresses"} 1`,
		`awscni_aws_utils_error_count{error="UnauthorizedOperation",fn="AssociateTrunkInterface"} 1`,
		`awscni_build_info 1`,
		`awscni_connmark_backend{backend="iptables"} 1`,
		`awscni_connmark_reconcile_total{result="error"} 1`,
		`awscni_connmark_reconcile_total{result="success"} 1`,
		`awscni_del_ip_req_count{reason="PodDeleted"} 1`,
		`awscni_ec2api_error_count{fn="AssignPrivateIpAddresses"} 1`,
		`awscni_ec2api_error_count{fn="AssociateTrunkInterface"} 1`,
		`awscni_ec2api_req_count{fn="AssignPrivateIpAddresses"} 2`,
		`awscni_ec2api_req_count{fn="AssociateTrunkInterface"} 1`,
		`awscni_eni_allocated 2`,
		`awscni_eni_max 4`,
		`awscni_ip_max 576`,
		`awscni_ipamd_action_inprogress{fn="decreaseDatastorePool"} 0`,
		`awscni_ipamd_action_inprogress{fn="increaseDatastorePool"} 1`,
		`awscni_ipamd_action_inprogress{fn="nodeIPPoolReconcile"} 0`,
		`awscni_ipamd_action_inprogress{fn="nodeInit"} 0`,
		`awscni_ipamd_error_count{fn="increaseIPPoolAllocIPAddressesFailed"} 1`,
		`awscni_ipamd_node_initialization_duration_seconds_count{success="false"} 1`,
		`awscni_ipamd_node_initialization_duration_seconds_count{success="true"} 1`,
		`awscni_ipamd_startup_duration_seconds_count{failure_reason="",success="true",with_api_server="false"} 1`,
		`awscni_ipamd_startup_duration_seconds_count{failure_reason="node_initialization",success="false",with_api_server="false"} 1`,
		`awscni_no_available_ip_addresses 1`,
		`awscni_pod_eni_error_count{fn="AssociateTrunkInterface"} 1`,
		`awscni_total_ip_addresses 32`,
		`awscni_total_ipv4_prefixes 2`,
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
		`vpcnet_ec2_calls_total{action="AssociateTrunkInterface",code="UnauthorizedOperation"} 1`,
		`vpcnet_policy_denied_packets_total{class="web",direction="egress"} 7`,
		`vpcnet_request_seconds_sum{call="add"} 1.001`,
		`vpcnet_request_seconds_count{call="add"} 3`,
		`vpcnet_request_seconds_sum{call="del"} 0`,
		`vpcnet_request_seconds_count{call="del"} 1`,
		`vpcnet_requests_total{call="add",result="error"} 1`,
		`vpcnet_requests_total{call="add",result="ok"} 1`,
		`vpcnet_requests_total{call="add",result="subnet-full"} 1`,
		`vpcnet_requests_total{call="del",result="ok"} 1`,
		`vpcnet_snat_repairs_total{result="failed"} 1`,
		`vpcnet_snat_repairs_total{result="repaired"} 1`,
		`vpcnet_waiting_requests 0`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}
