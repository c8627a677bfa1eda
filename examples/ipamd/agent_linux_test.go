// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
	enijournal "github.com/vpcnet/vpcnet/eni/waljournal"
	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

func TestMain(m *testing.M) { isolatetest.Test(m) }

// host is an EC2 instance in the network namespace of the test. Its primary ENI is
// one end of a veth pair. EC2 and the metadata service listen on loopback.
type host struct {
	cloud    *enitest.Cloud
	ec2      string
	metadata string
	dir      string
}

func newHost(t *testing.T) *host {
	t.Helper()
	isolatetest.Require(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	h := &host{cloud: enitest.New(enitest.Config{}), dir: t.TempDir()}
	vpc, err := h.cloud.AddVPC(enitest.VPCInput{})
	if err != nil {
		t.Fatal(err)
	}
	subnet, err := h.cloud.AddSubnet(enitest.SubnetInput{VPC: vpc.ID, Prefix: netip.MustParsePrefix("10.0.0.0/24")})
	if err != nil {
		t.Fatal(err)
	}
	instance, err := h.cloud.RunInstance(enitest.InstanceInput{Subnet: subnet.ID, Type: "t3.small"})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := h.cloud.Listen(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	h.ec2 = srv.EC2URL
	if h.metadata, err = srv.IMDSURL(t.Context(), instance.ID); err != nil {
		t.Fatal(err)
	}
	h.plugIn(t)
	return h
}

// plugIn creates the link of the primary ENI.
func (h *host) plugIn(t *testing.T) {
	t.Helper()
	e := h.cloud.ENIs()[0]
	mac, err := net.ParseMAC(e.MAC)
	if err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = "ens5", mac
	link := &netlink.Veth{LinkAttrs: attrs, PeerName: "vpc"}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
	addr, err := netlink.ParseAddr(netip.PrefixFrom(e.Addr, e.SubnetPrefix.Bits()).String())
	if err == nil {
		peer := netlink.NewLinkAttrs()
		peer.Name = "vpc"
		err = errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link), netlink.LinkSetUp(&netlink.Device{LinkAttrs: peer}))
	}
	if err == nil {
		err = netlink.RouteAdd(&netlink.Route{LinkIndex: link.Index, Gw: e.SubnetPrefix.Addr().Next().AsSlice()})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

func (h *host) client() cniplugin.Client {
	return cniplugin.Client{Socket: h.path("agent.sock"), Wait: 5 * time.Second}
}

// process is an agent that runs in the test process.
type process struct {
	stop func()
	done chan int
	log  lockedBuffer
}

// environment returns the environment of an agent, with additional variables.
func (h *host) environment(vars map[string]string) func(string) string {
	all := map[string]string{
		"AWS_ENDPOINT_URL_EC2": h.ec2, "AWS_EC2_METADATA_SERVICE_ENDPOINT": h.metadata, "HTTP_TIMEOUT": "1",
		"VPCNET_SOCKET": h.path("agent.sock"), "VPCNET_STATE_DIR": h.path("state"),
		"VPCNET_CONFLIST": h.path("net.d/10-vpcnet.conflist"), "VPCNET_STATUS_SOCKET": h.path("status.sock"),
		"HOST_CNI_BIN_PATH": h.path("bin"),
	}
	for name, v := range vars {
		all[name] = v
	}
	return env(all)
}

// run starts the agent with additional environment variables.
func (h *host) run(t *testing.T, vars map[string]string) *process {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	p := &process{stop: stop, done: make(chan int, 1)}
	go func() { p.done <- run(ctx, nil, h.environment(vars), io.Discard, &p.log) }()
	t.Cleanup(func() {
		stop()
		select {
		case <-p.done:
		case <-time.After(20 * time.Second):
			t.Error("the agent did not end within 20 s")
		}
	})
	return p
}

// end stops the agent and waits until it has ended.
func (p *process) end(t *testing.T) {
	t.Helper()
	p.stop()
	if status := <-p.done; status != 0 {
		t.Errorf("the agent ended with status %d, want 0\n%s", status, p.log.String())
	}
	p.done <- 0 // for the clean-up
}

// eventually calls try until it returns nil.
func eventually(t *testing.T, p *process, try func() error) {
	t.Helper()
	eventuallyWithin(t, p, 30*time.Second, try)
}

func eventuallyWithin(t *testing.T, p *process, patience time.Duration, try func() error) {
	t.Helper()
	deadline := time.After(patience)
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-deadline:
			log := p.log.String()
			t.Fatalf("%v\n%s", err, log[max(0, len(log)-2000):])
		}
	}
}

func request(id string) cniplugin.AddRequest {
	return cniplugin.AddRequest{
		Attachment: cniplugin.Attachment{Network: "vpcnet", ContainerID: id, IfName: "eth0"},
		Netns:      "/proc/self/ns/net",
		Pod:        cniplugin.Pod{Namespace: "default", Name: "pod-" + id},
	}
}

// TestStartProblems starts the agent without EC2 or the metadata service. The error
// of ADD must have code 11, the reason and advice for the operator, and the agent
// must not write the CNI configuration.
func TestStartProblems(t *testing.T) {
	const refused = "http://127.0.0.1:1"
	adviceMetadata := "check that the instance metadata service is enabled"
	adviceReach := "check that the node can reach "
	for _, c := range []struct {
		name    string
		vars    func(hang string) map[string]string
		reasons string // the valid reasons; which one appears depends on timing
		advice  string
	}{
		{"no metadata service", func(string) map[string]string {
			return map[string]string{"AWS_EC2_METADATA_SERVICE_ENDPOINT": refused}
		}, "no-metadata", adviceMetadata},
		{"metadata service hangs", func(hang string) map[string]string {
			return map[string]string{"AWS_EC2_METADATA_SERVICE_ENDPOINT": hang}
		}, "no-metadata", adviceMetadata},
		{"EC2 refuses", func(string) map[string]string {
			return map[string]string{"AWS_ENDPOINT_URL_EC2": refused}
		}, "ec2-unreachable refilling", adviceReach + refused},
		{"EC2 hangs", func(hang string) map[string]string {
			return map[string]string{"AWS_ENDPOINT_URL_EC2": hang}
		}, "ec2-unreachable refilling", adviceReach + "http://127.0.0.1:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			p := h.run(t, c.vars(hanging(t)))
			var got *cniplugin.AgentError
			eventually(t, p, func() error {
				ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
				defer cancel()
				_, err := h.client().Add(ctx, request("a"))
				switch {
				case !errors.As(err, &got):
					return errors.Join(errors.New("ADD returns no AgentError"), err)
				case !strings.Contains(c.reasons, got.Reason) || !strings.Contains(got.Details, c.advice):
					return fmt.Errorf("ADD: reason %q, details %q, want one of %q and %q", got.Reason, got.Details, c.reasons, c.advice)
				}
				return nil
			})
			if got.Code != cniplugin.CodeTryAgainLater {
				t.Errorf("ADD: %+v, want code 11", got)
			}
			if _, err := h.client().Del(t.Context(), cniplugin.DelRequest{Attachment: request("a").Attachment}); err != nil {
				t.Errorf("DEL: %v, want success", err)
			}
			if err := h.client().Status(t.Context()); !errors.As(err, &got) || got.Code != cniplugin.CodeNotAvailable {
				t.Errorf("STATUS: %v, want code 50", err)
			}
			if _, err := os.Stat(h.path("net.d/10-vpcnet.conflist")); err == nil {
				t.Error("the CNI configuration was written")
			}
		})
	}
}

// hanging returns the URL of a server that never answers.
func hanging(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return "http://" + l.Addr().String()
}

// TestAgent runs an agent from its start to its end, and then starts another one.
func TestAgent(t *testing.T) {
	h := newHost(t)
	p := h.run(t, map[string]string{"WARM_IP_TARGET": "2"})
	var first cniplugin.AddResponse
	eventually(t, p, func() (err error) {
		first, err = h.client().Add(t.Context(), request("a"))
		return err
	})
	eventually(t, p, func() error {
		_, err := os.Stat(h.path("net.d/10-vpcnet.conflist"))
		return err
	})
	again, err := h.client().Add(t.Context(), request("a"))
	if err != nil || again.Addresses[0] != first.Addresses[0] {
		t.Errorf("the same ADD again: %v, %v, want %v", again, err, first)
	}
	if got := first.Addresses[0]; got.ENI != h.cloud.ENIs()[0].ID || got.Table != 254 || !netip.MustParsePrefix("10.0.0.0/24").Contains(got.Addr) {
		t.Errorf("ADD: %+v, want an address of the primary ENI", got)
	}
	seen := readStatus(t, h)
	if !seen.Ready || len(seen.Allocations) != 1 || seen.Allocations[0].Pod != "pod-a" {
		t.Errorf("status: %+v, want it ready with the pod's address", seen)
	}
	wantStatus(t, seen, h.cloud.ENIs()[0])
	if status := run(t.Context(), []string{"-socket=" + h.path("agent.sock"), "-state-dir=" + h.path("other")}, env(nil), io.Discard, &lockedBuffer{}); status != 1 {
		t.Errorf("a second agent on the same socket ended with status %d, want 1", status)
	}

	p.end(t)
	for line := range strings.Lines(p.log.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("log line is not JSON: %s", line)
		}
	}
	p = h.run(t, map[string]string{"WARM_IP_TARGET": "2"})
	eventually(t, p, func() error {
		second, err := h.client().Add(t.Context(), request("b"))
		if err == nil && second.Addresses[0].Addr == first.Addresses[0].Addr {
			t.Fatalf("two pods have %v", second.Addresses[0].Addr)
		}
		return err
	})
	res, err := h.client().GC(t.Context(), cniplugin.GCRequest{Network: "vpcnet", Valid: []cniplugin.Attachment{request("b").Attachment}})
	if err != nil || len(res.Stale) != 1 || res.Stale[0] != request("a").Attachment {
		t.Errorf("GC: %v, %v, want attachment a as stale", res, err)
	}
}

// TestResumeFails starts the agent with an operation in the journal that EC2
// refuses to finish. The agent must serve pods nevertheless and keep the operation in
// the journal, and a later agent must finish it.
func TestResumeFails(t *testing.T) {
	h := newHost(t)
	if err := os.Mkdir(h.path("state"), 0o700); err != nil {
		t.Fatal(err)
	}
	intents, done := h.intents(t)
	if err := intents.Put(t.Context(), halfMade(h.cloud.Subnets()[0].ID)); err != nil {
		t.Fatal(err)
	}
	done()
	h.cloud.Deny("", "CreateNetworkInterface")
	p := h.run(t, map[string]string{"WARM_IP_TARGET": "2"})
	eventually(t, p, func() error {
		_, err := h.client().Add(t.Context(), request("a"))
		return err
	})
	eventually(t, p, func() error { return h.client().Status(t.Context()) })
	const unfinished = "operations of an earlier process are not finished yet"
	eventually(t, p, func() error {
		if log := p.log.String(); !strings.Contains(log, unfinished) || !strings.Contains(log, "UnauthorizedOperation") {
			return errors.New("the log lacks the unfinished operation, or the error of EC2")
		}
		return nil
	})
	p.end(t)
	if left := h.open(t); len(left) != 1 || left[0].Token != "token-1" {
		t.Errorf("the journal has %+v, want the unfinished operation", left)
	}
	h.cloud.Allow("", "CreateNetworkInterface")
	p = h.run(t, map[string]string{"WARM_IP_TARGET": "2"})
	eventually(t, p, func() error {
		if n := h.cloud.Calls()["AttachNetworkInterface"]; n == 0 || !strings.Contains(p.log.String(), "unfinished operations ended") {
			return fmt.Errorf("the operation is not finished after %d calls to attach", n)
		}
		return nil
	})
	p.end(t)
	if left := h.open(t); len(left) != 0 || h.cloud.Calls()["AttachNetworkInterface"] != 1 || strings.Contains(p.log.String(), unfinished) {
		t.Errorf("the journal has %+v after %v calls to attach, want the operation finished", left, h.cloud.Calls()["AttachNetworkInterface"])
	}
}

// intents opens the journal of operations while no agent runs.
func (h *host) intents(t *testing.T) (journal *enijournal.Journal, done func()) {
	t.Helper()
	journal, _, err := enijournal.Open(t.Context(), h.path("state"), enijournal.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return journal, func() {
		if err := journal.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// open returns the unfinished operations in the journal that create an ENI.
func (h *host) open(t *testing.T) []eni.Intent {
	t.Helper()
	journal, done := h.intents(t)
	defer done()
	all, err := journal.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(in eni.Intent) bool { return in.Done || in.Op != eni.OpProvision })
}

// TestStartsWhenMetadataComes checks that an agent that cannot start without the
// metadata service starts as soon as that answers, and no longer reports the problem.
func TestStartsWhenMetadataComes(t *testing.T) {
	h := newHost(t)
	back := h.cloud.AddFault(enitest.Fault{Action: "meta-data/instance-id", Err: &enitest.APIError{Status: 404}})
	p := h.run(t, map[string]string{"WARM_IP_TARGET": "2"})
	eventually(t, p, func() error {
		var got *cniplugin.AgentError
		if err := h.client().Status(t.Context()); !errors.As(err, &got) || got.Reason != "no-metadata" {
			return fmt.Errorf("STATUS: %w, want reason no-metadata", err)
		}
		return nil
	})
	back()
	eventually(t, p, func() error { return h.client().Status(t.Context()) })
	if _, err := h.client().Add(t.Context(), request("a")); err != nil {
		t.Errorf("ADD: %v", err)
	}
}

// wantStatus checks the parts of the status that the trace of a packet needs: the
// MAC, addresses and table of the ENI, and the pod's host link.
func wantStatus(t *testing.T, s ipamd.Status, e enitest.ENI) {
	t.Helper()
	want := ipamd.ENIStatus{
		ID: e.ID, MAC: e.MAC, Addrs: []netip.Prefix{netip.PrefixFrom(e.Addr, e.SubnetPrefix.Bits())}, Table: netstate.TableMain, Ready: true,
		Kind: eni.KindInterface, Subnet: e.Subnet,
	}
	if len(s.ENIs) == 0 || len(s.ENIs[0].Blocks) == 0 {
		t.Fatalf("status: %+v, want an ENI with blocks", s)
	}
	got := s.ENIs[0]
	got.Blocks = nil
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("ENI (-want +got):\n%s", diff)
	}
	link := datapath.HostLinkName("eni", "a", "eth0")
	if len(s.Allocations) == 0 || s.Allocations[0].Link != link || s.Network.Layout != "flat" || s.Network.HostLinkPrefix != "eni" || s.Network.ExternalSNAT {
		t.Errorf("status: %+v, want host link %s of a flat node", s, link)
	}
}

func readStatus(t *testing.T, h *host) ipamd.Status {
	t.Helper()
	s, err := askStatus(h)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func askStatus(h *host) (s ipamd.Status, err error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", h.path("status.sock"))
	}}}
	res, err := client.Get("http://ipamd/v2/status")
	if err != nil {
		return s, err
	}
	defer res.Body.Close()
	return s, json.NewDecoder(res.Body).Decode(&s)
}

// halfMade returns the intent of an ENI after a create call that got no answer.
func halfMade(subnet string) eni.Intent {
	at := time.Now().UTC()
	return eni.Intent{
		ID: "provision-1", Op: eni.OpProvision, Kind: eni.KindInterface, Device: 1,
		Start: at, Changed: at, Created: at.Truncate(time.Second), Token: "token-1", Subnet: subnet, Addrs: 2,
	}
}
