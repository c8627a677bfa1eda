// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/vishvananda/netlink"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/internal/fabric"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/snat"
)

// wiredPod is a pod that is wired as by the plugin, and its sandbox.
type wiredPod struct {
	ns   *fabric.Netns
	pod  datapath.Pod
	path string
}

// wire allocates an address for a pod and wires the pod.
func (h *host) wire(t *testing.T, p *process, id string) wiredPod {
	t.Helper()
	w := wiredPod{path: filepath.Join("/run/netns", id)}
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.ns, err = fabric.CreateNetns(w.path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.ns.Delete() })
	req := request(id)
	req.Netns = w.path
	eventually(t, p, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		res, err := h.client().Add(ctx, req)
		if err == nil {
			w.pod = datapath.Pod{ContainerID: id, IfName: "eth0", Netns: w.path, Layout: datapath.Flat,
				Addrs: []datapath.PodAddr{{Addr: res.Addresses[0].Addr, Table: res.Addresses[0].Table}}}
		}
		return err
	})
	node := onHost(t)
	if _, err := node.AddPod(t.Context(), w.pod); err != nil {
		t.Fatal(err)
	}
	// The clean-up is necessary because the next test uses the same host and addresses.
	t.Cleanup(func() { _ = node.DelPod(context.Background(), w.pod) })
	return w
}

func (w wiredPod) addr() netip.Addr { return w.pod.Addrs[0].Addr }

// reached returns an error unless the address of the pod leads to its link.
func (w wiredPod) reached(t *testing.T) error {
	t.Helper()
	uses, err := onHost(t).LookupAddrs(t.Context(), []netip.Addr{w.addr()})
	if err == nil && (len(uses) != 1 || uses[0].Link != w.pod.HostLink()) {
		err = fmt.Errorf("%v leads to %v, want %s", w.addr(), uses, w.pod.HostLink())
	}
	return err
}

// onHost returns a handle on the namespace of the test, which is that of the host.
func onHost(t *testing.T) *datapath.Handle {
	t.Helper()
	h, err := datapath.Open("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// assigned returns the secondary addresses of the instance in EC2.
func (h *host) assigned() (out []netip.Addr) {
	for _, e := range h.cloud.ENIs() {
		out = append(out, e.Addrs...)
	}
	return out
}

// quarantine waits until the status shows exactly these addresses as quarantined.
func (h *host) quarantine(t *testing.T, p *process, want ...netip.Addr) {
	t.Helper()
	slices.SortFunc(want, netip.Addr.Compare)
	eventually(t, p, func() error {
		s, err := askStatus(h)
		if err != nil {
			return err
		}
		var got []netip.Addr
		for _, q := range s.Quarantined {
			got = append(got, q.Addr)
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("quarantined %v, want %v", got, want)
		}
		return nil
	})
}

// TestJournalAndKernel starts the agent with a journal that is lost, damaged or old
// while pods run. The agent must neither unassign the addresses of these pods nor
// give them to another pod, and must report them as in use.
func TestJournalAndKernel(t *testing.T) {
	for name, ruin := range map[string]func(t *testing.T, dir string, old map[string][]byte){
		"lost": func(t *testing.T, dir string, _ map[string][]byte) {
			for file := range stateFiles(t, dir) {
				must(t, os.Remove(filepath.Join(dir, file)))
			}
		},
		"damaged": func(t *testing.T, dir string, _ map[string][]byte) {
			for file, text := range stateFiles(t, dir) {
				for i := range text {
					text[i] ^= byte(i)
				}
				must(t, os.WriteFile(filepath.Join(dir, file), text, 0o600))
			}
		},
		"old": func(t *testing.T, dir string, old map[string][]byte) {
			for file, text := range old {
				must(t, os.WriteFile(filepath.Join(dir, file), text, 0o600))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			vars := map[string]string{"WARM_IP_TARGET": "1", "AWS_VPC_K8S_CNI_LOGLEVEL": "debug"}
			p := h.run(t, vars)
			first := h.wire(t, p, "first")
			old := stateFiles(t, h.path("state"))
			pods := []wiredPod{first, h.wire(t, p, "second")} // the ENI has an address for one more
			p.end(t)
			ruin(t, h.path("state"), old)
			p = h.run(t, vars)
			unknown := []netip.Addr{pods[1].addr()}
			if name != "old" {
				unknown = append(unknown, first.addr())
			}
			h.quarantine(t, p, unknown...)
			fresh := h.wire(t, p, "fresh")
			for _, w := range pods {
				if w.addr() == fresh.addr() {
					t.Errorf("two pods have %v", w.addr())
				}
				if err := w.reached(t); err != nil {
					t.Error(err)
				}
				if !slices.Contains(h.assigned(), w.addr()) {
					t.Errorf("%v was unassigned", w.addr())
				}
			}
			seen := readStatus(t, h)
			if len(seen.Events) < len(unknown) || !strings.Contains(p.log.String(), "address quarantined") {
				t.Errorf("events %v, want one for each of %v; log\n%s", seen.Events, unknown, p.log.String())
			}
			if lost := slices.ContainsFunc(seen.Events, func(e agent.Event) bool { return e.Kind == ipamd.EventJournalLost }); lost != (name == "damaged") {
				t.Errorf("events %v report a lost journal: %v, want %v", seen.Events, lost, name == "damaged")
			}
			if name != "lost" {
				return
			}
			// After the pods end, their addresses are free again.
			for _, w := range pods {
				must(t, onHost(t).DelPod(t.Context(), w.pod))
			}
			eventuallyWithin(t, p, time.Minute, func() error {
				if q := readStatus(t, h).Quarantined; len(q) > 0 {
					return fmt.Errorf("still quarantined: %v", q)
				}
				return nil
			})
		})
	}
}

// stateFiles returns the regular files of a state directory, by name.
func stateFiles(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	files := map[string][]byte{}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // the agent has just renamed it
		}
		must(t, err)
		files[e.Name()] = b
	}
	return files
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestAddressOfTheHost checks that a secondary address that the host itself uses is
// not given to a pod and stays on its link.
func TestAddressOfTheHost(t *testing.T) {
	h := newHost(t)
	own := netip.MustParseAddr("10.0.0.77")
	_, err := h.otherClient().AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{
		NetworkInterfaceId: aws.String(h.cloud.ENIs()[0].ID), PrivateIpAddresses: []string{own.String()},
	})
	must(t, err)
	link, err := netlink.LinkByName("ens5")
	must(t, err)
	addr, err := netlink.ParseAddr(own.String() + "/24")
	must(t, err)
	must(t, netlink.AddrAdd(link, addr))
	p := h.run(t, map[string]string{"WARM_IP_TARGET": "0", "MINIMUM_IP_TARGET": "0"})
	for _, id := range []string{"a", "b"} {
		if w := h.wire(t, p, id); w.addr() == own {
			t.Errorf("pod %s got %v", id, own)
		}
	}
	h.quarantine(t, p, own)
	if by := readStatus(t, h).Quarantined[0].By; !strings.Contains(by, "ens5") {
		t.Errorf("used by %q, want ens5", by)
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
	must(t, err)
	if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.String() == own.String() }) {
		t.Errorf("the host lost its address: %v", addrs)
	}
	if !slices.Contains(h.assigned(), own) {
		t.Errorf("%v was unassigned", own)
	}
}

// otherClient returns an EC2 client of another program.
func (h *host) otherClient() *ec2.Client {
	return ec2.NewFromConfig(aws.Config{
		Region: h.cloud.Region(), Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "secret", ""), BaseEndpoint: aws.String(h.ec2),
	})
}

// TestRestartWhileEC2Hangs restarts the agent while EC2 and the metadata service do
// not answer. The agent must serve pods within a second, keep the node ready and
// answer an ADD that came before the restart.
func TestRestartWhileEC2Hangs(t *testing.T) {
	for name, metadataHangs := range map[string]bool{"EC2": false, "EC2 and metadata": true} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			p := h.run(t, map[string]string{"WARM_IP_TARGET": "2"})
			h.wire(t, p, "before")
			eventually(t, p, func() error {
				if free := readStatus(t, h).Free; free < 2 {
					return fmt.Errorf("%d free addresses", free)
				}
				return nil
			})
			p.end(t)
			silent := map[string]string{"WARM_IP_TARGET": "2", "AWS_ENDPOINT_URL_EC2": hanging(t)}
			if metadataHangs {
				silent["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = hanging(t)
			}
			answered := make(chan error, 1)
			go func() {
				_, err := h.client().Add(t.Context(), request("while away"))
				answered <- err
			}()
			start := time.Now()
			p = h.run(t, silent)
			if err := h.client().Status(t.Context()); err != nil {
				t.Errorf("STATUS: %v", err)
			}
			h.wire(t, p, "after")
			if err := <-answered; err != nil {
				t.Errorf("ADD during the restart: %v", err)
			}
			// This takes a second on an idle machine. The bound is higher because tests run
			// on busy machines too.
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("served after %v, want at most 5 s", took)
			}
			t.Logf("two pods served %v after the start", time.Since(start))
		})
	}
}

// TestSandboxWithoutDEL checks that an address is free again without a DEL if its
// sandbox has ended, or if its path leads to another namespace.
func TestSandboxWithoutDEL(t *testing.T) {
	h := newHost(t)
	p := h.run(t, map[string]string{"WARM_IP_TARGET": "1", "VPCNET_MAX_PODS": "2"})
	ended, replaced := h.wire(t, p, "ended"), h.wire(t, p, "replaced")
	must(t, ended.ns.Delete())
	must(t, replaced.ns.Delete())
	other, err := fabric.CreateNetns(replaced.path)
	must(t, err)
	t.Cleanup(func() { _ = other.Delete() })
	// The node is full, so the ADD succeeds only after the addresses of the ended
	// sandboxes are released.
	eventuallyWithin(t, p, time.Minute, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
		defer cancel()
		_, err := h.client().Add(ctx, request("next"))
		return err
	})
	eventuallyWithin(t, p, time.Minute, func() error {
		for _, id := range []string{"ended", "replaced"} {
			if _, err := h.client().Check(t.Context(), cniplugin.CheckRequest{Attachment: request(id).Attachment}); err == nil {
				return fmt.Errorf("%s still holds an address", id)
			}
		}
		return nil
	})
}

// TestLivingSandboxIsKept checks that a pod keeps its address if its link is gone
// but its sandbox still exists.
func TestLivingSandboxIsKept(t *testing.T) {
	h := newHost(t)
	p := h.run(t, map[string]string{"WARM_IP_TARGET": "1", "VPCNET_MAX_PODS": "1"})
	w := h.wire(t, p, "alive")
	link, err := netlink.LinkByName(w.pod.HostLink())
	must(t, err)
	must(t, netlink.LinkDel(link))
	time.Sleep(11 * time.Second) // until the allocation is old enough to be collected
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var got *cniplugin.AgentError
	if _, err := h.client().Add(ctx, request("next")); !errors.As(err, &got) || got.Reason != "pool-limit" {
		t.Errorf("ADD: %v, want reason pool-limit because the other pod keeps its address", err)
	}
}

// TestTranslationIsRepaired checks that the agent repairs changes that another
// program makes to the translation, and logs the repair.
func TestTranslationIsRepaired(t *testing.T) {
	h := newHost(t)
	p := h.run(t, map[string]string{"WARM_IP_TARGET": "1"})
	h.wire(t, p, "a")
	s, err := snat.Open("")
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	want, err := s.Observe(t.Context())
	must(t, err)
	if want.Equal(snat.Ruleset{}) {
		t.Fatal("nothing is translated")
	}
	eventually(t, p, func() error {
		must(t, s.Remove(t.Context()))
		if log := p.log.String(); !strings.Contains(log, "translation repaired") {
			return errors.New("the log has no repair")
		}
		return nil
	})
	eventually(t, p, func() error {
		have, err := s.Observe(t.Context())
		if err == nil && !have.Equal(want) {
			err = fmt.Errorf("translation is\n%s, want\n%s", have, want)
		}
		return err
	})
}

// TestPrefixAddedToTheVPC checks that a prefix that is added to the VPC is in the
// translation within a minute, without a call to EC2 but the search for lost ENIs that
// follows every start.
func TestPrefixAddedToTheVPC(t *testing.T) {
	h := newHost(t)
	p := h.run(t, map[string]string{"WARM_IP_TARGET": "1"})
	h.wire(t, p, "a")
	s, err := snat.Open("")
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	eventually(t, p, func() error {
		if s := readStatus(t, h); s.Free < 1 || len(s.InFlight) > 0 {
			return fmt.Errorf("the pool is being filled: %+v", s)
		}
		return nil
	})
	must(t, h.addPrefix(netip.MustParsePrefix("100.64.0.0/16")))
	before := h.calls()
	eventuallyWithin(t, p, time.Minute, func() error {
		have, err := s.Observe(t.Context())
		if err == nil && !strings.Contains(have.String(), "100.64.0.0/16") {
			err = fmt.Errorf("translation is\n%s, want 100.64.0.0/16 in it", have)
		}
		return err
	})
	if after := h.calls(); after > before+1 {
		t.Errorf("%d calls to EC2, want at most one", after-before)
	}
}

func (h *host) calls() (n int) {
	for _, c := range h.cloud.Calls() {
		n += c
	}
	return n
}

func (h *host) addPrefix(p netip.Prefix) error {
	return h.cloud.AddVPCPrefix(h.cloud.VPCs()[0].ID, p)
}
