// SPDX-License-Identifier: Apache-2.0

package introspect_test

import (
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/ipam/ipamd/introspect"
	"github.com/vpcnet/vpcnet/ipam/ipamd/settings"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// fakeAgent is an agent with two network cards.
type fakeAgent struct {
	view ipam.View
	err  error
}

var at = time.Date(2026, 3, 25, 9, 23, 46, 634e6, time.UTC)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func (fakeAgent) Status() ipamd.Status {
	pod := func(addr, eni, name string) ipamd.PodStatus {
		return ipamd.PodStatus{Addr: netip.MustParseAddr(addr), ENI: eni, Namespace: "default", Pod: name, Link: "eni0123", At: at}
	}
	return ipamd.Status{
		Ready: true, Free: 18, Reason: ipam.ReasonSubnetFull, Evidence: "assign eni-1: subnet-full (InsufficientFreeAddressesInSubnet)",
		InFlight: []string{"assign eni-1 2 slots"}, Decisions: []string{"card 0: want 4 spare, have 2; assign eni-1 2 slots"},
		Network: ipamd.NetworkStatus{Layout: "flat", HostLinkPrefix: "eni", Placement: "us-west-2a"},
		Cards:   []ipamd.CardStatus{{Card: 0, MaxENIs: 3, SlotsPerENI: 5, AddressesPerSlot: 1}, {Card: 1, MaxENIs: 2, SlotsPerENI: 5, AddressesPerSlot: 16}},
		ENIs: []ipamd.ENIStatus{
			{ID: "eni-1", Kind: eni.KindInterface, Subnet: "subnet-1", Table: 254, Ready: true, Blocks: []ipamd.BlockStatus{
				{Prefix: prefix("10.0.0.5/32"), Used: 1}, {Prefix: prefix("10.0.0.6/32"), Free: 1}, {Prefix: prefix("2001:db8::/80"), Used: 1},
			}},
			{ID: "eni-2", Card: 1, Device: 1, Kind: eni.KindEFA, Subnet: "subnet-1", Table: 10101, Ready: true, Blocks: []ipamd.BlockStatus{{Prefix: prefix("10.0.0.16/28"), Used: 1, Free: 15}}},
			{ID: "eni-3", Device: 2, Kind: eni.KindTrunk, Subnet: "subnet-1", Table: 3, Blocks: []ipamd.BlockStatus{}},
		},
		Allocations: []ipamd.PodStatus{pod("10.0.0.5", "eni-1", "web-0"), pod("2001:db8::5", "eni-1", "web-0"), pod("10.0.0.17", "eni-2", "web-1")},
	}
}

func (a fakeAgent) View() ipam.View { return a.view }

func (a fakeAgent) Intents(context.Context) ([]eni.Intent, error) {
	return []eni.Intent{{ID: "assign-1", Op: eni.OpAssign, Start: at, ENI: "eni-1", Addrs: 2}}, a.err
}

func view(used int) ipam.View {
	block := func(p string, used, cooling int) ipam.BlockView {
		return ipam.BlockView{Block: ipam.Block{Prefix: prefix(p)}, Used: used, Cooling: cooling}
	}
	return ipam.View{
		ENIs: []ipam.ENIView{
			{ENI: ipam.ENI{ID: "eni-1"}, Blocks: []ipam.BlockView{block("10.0.0.5/32", used, 0), block("10.0.0.6/32", 0, 1), block("2001:db8::/80", 1, 0)}},
			{ENI: ipam.ENI{ID: "eni-2", Card: 1, Device: 1}, Blocks: []ipam.BlockView{block("10.0.0.16/28", 1, 2)}},
		},
		Waiting: []ipam.Waiting{{Request: ipam.Request{Attachment: ipam.Attachment{ContainerID: "secret"}, Pod: ipam.PodRef{Namespace: "default", Name: "web-2"}}, Since: at}},
	}
}

func newServer(t *testing.T) *introspect.Server {
	t.Helper()
	s, err := settings.Parse([]string{"-exclude-snat-cidrs=172.16.0.0/12", "-warm-ip-target=3", "-randomize-snat=hashrandom"}, func(string) string { return "" }, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return &introspect.Server{Agent: fakeAgent{view: view(1)}, Settings: func() settings.Settings { return s }}
}

func get(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
	return rec.Code, rec.Body.String()
}

// TestGolden compares the answers with golden files.
func TestGolden(t *testing.T) {
	s := newServer(t)
	s.Called(eni.Call{Action: "DescribeSubnets", Caller: "refill"})
	s.Called(eni.Call{Action: "AssignPrivateIpAddresses", Caller: "refill", Code: "UnauthorizedOperation", Took: 20 * time.Millisecond})
	var out strings.Builder
	for _, c := range []struct {
		handler http.Handler
		paths   []string
	}{
		{s.V1(), []string{"/v1/enis", "/v1/eni-configs", "/v1/networkutils-env-settings", "/v1/ipamd-env-settings", "/v1/pods", "/"}},
		{s.V2(), []string{"/v2/", "/v2/pool", "/v2/decisions", "/v2/intents", "/v2/ec2-errors", "/v2/ec2-calls", "/v2/settings"}},
	} {
		for _, path := range c.paths {
			code, body := get(t, c.handler, path)
			if code != http.StatusOK {
				t.Errorf("%s: %d %s", path, code, body)
			}
			out.WriteString("GET " + path + "\n" + body)
		}
	}
	got := out.String()
	if strings.Contains(got, "secret") {
		t.Error("an answer has the ID of a sandbox")
	}
	for line := range strings.Lines(got) { // the times of failed calls are those of the test
		if name, value, ok := strings.Cut(line, `"at": "`); ok && !strings.HasPrefix(value, "2026-03-25") {
			got = strings.Replace(got, line, name+`"at": "…",`+"\n", 1)
		}
	}
	const golden = "testdata/answers.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), rewrite with -update:\n%s", golden, diff)
	}
}

// TestRead reads all answers from an agent that serves them.
func TestRead(t *testing.T) {
	s := newServer(t)
	s.Called(eni.Call{Action: "DescribeSubnets", Code: "RequestExpired", ClockSkew: time.Minute})
	web := httptest.NewServer(s.V2())
	defer web.Close()
	got, err := introspect.Read(t.Context(), web.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Status.ENIs) != 3 || len(got.Waiting) != 1 || got.Waiting[0].Pod != "web-2" || len(got.Intents) != 1 || len(got.Failed) != 1 || len(got.Calls) != 1 ||
		got.Failed[0].ClockSkew != "1m0s" || got.Settings["WARM_IP_TARGET"] != "3" {
		t.Errorf("%+v", got)
	}
	web.Close()
	if _, err := introspect.Read(t.Context(), web.Listener.Addr().String()); err == nil {
		t.Error("no error without an agent")
	}
}

// TestRefused checks what is not served: other methods, other paths, and intents of a
// journal that cannot be read.
func TestRefused(t *testing.T) {
	s := newServer(t)
	s.Agent = fakeAgent{err: errors.New("the journal cannot be read")}
	if code, body := get(t, s.V2(), "/v2/intents"); code != http.StatusServiceUnavailable || !strings.Contains(body, "cannot be read") {
		t.Errorf("/v2/intents: %d %s", code, body)
	}
	if code, _ := get(t, s.V2(), "/v1/enis"); code != http.StatusNotFound {
		t.Errorf("/v1/enis on the status socket: %d", code)
	}
	rec := httptest.NewRecorder()
	s.V1().ServeHTTP(rec, httptest.NewRequest("PUT", "/v1/enis", nil))
	if rec.Code != http.StatusMethodNotAllowed {
		t.Errorf("PUT /v1/enis: %d", rec.Code)
	}
}

// TestFailures checks that the last failed calls are kept.
func TestFailures(t *testing.T) {
	s := newServer(t)
	for range 60 {
		s.Called(eni.Call{Action: "AssignPrivateIpAddresses", Code: "RequestLimitExceeded"})
	}
	if _, body := get(t, s.V2(), "/v2/ec2-errors"); strings.Count(body, "RequestLimitExceeded") != 50 {
		t.Errorf("%d failed calls, want the last 50", strings.Count(body, "RequestLimitExceeded"))
	}
	s.Called(eni.Call{Action: "DescribeSubnets"})
	if _, body := get(t, s.V2(), "/v2/ec2-calls"); strings.Count(body, "RequestLimitExceeded") != 60 || strings.Count(body, "DescribeSubnets") != 1 {
		t.Errorf("calls: %s", body)
	}
}

// TestLogPool checks the line of each card, which is logged when it changes.
func TestLogPool(t *testing.T) {
	s := newServer(t)
	var out strings.Builder
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	changed := make(chan struct{}) // without capacity: a send means that the line is logged
	ctx, end := context.WithCancel(t.Context())
	done := make(chan error, 1)
	agent := &turning{}
	s.Agent = agent
	go func() { done <- s.LogPool(ctx, changed, log) }()
	changed <- struct{}{} // the same again
	changed <- struct{}{} // another pool from here on
	end()
	if err := <-done; err != nil {
		t.Error(err)
	}
	const first = "IP pool stats for network card 0: Total IPs/Prefixes = 2/0, AssignedIPs/CooldownIPs: 1/1, c.maxIPsPerENI = 5"
	for line, times := range map[string]int{
		first: 1, strings.Replace(first, ": 1/1", ": 0/1", 1): 1,
		"IP pool stats for network card 1: Total IPs/Prefixes = 16/1, AssignedIPs/CooldownIPs: 1/2, c.maxIPsPerENI = 80": 1,
	} {
		if n := strings.Count(out.String(), line); n != times {
			t.Errorf("%q is there %d times, want %d:\n%s", line, n, times, out.String())
		}
	}
}

// turning is an agent with a pod that ends after two views of the pool.
type turning struct {
	fakeAgent
	views int
}

func (a *turning) View() ipam.View {
	a.views++
	if a.views > 2 {
		return view(0)
	}
	return view(1)
}
