// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/eni/vpctest"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// eachCard are the capabilities of a pod that asks for an interface on each network card.
var eachCard = map[string]any{"io.kubernetes.cri.pod-annotations": map[string]string{"k8s.amazonaws.com/nicConfig": "multi-nic-attachment"}}

// cardType is an instance type with four network cards.
const cardType = "p4d.24xlarge"

// TestEachCard checks pods with an interface on each network card: the result has them all,
// packets from each address leave by an ENI of its card, and DEL releases them together. A
// card with an EFA-only ENI is left alone, and pods that do not ask have one interface.
func TestEachCard(t *testing.T) {
	t.Parallel()
	for _, layout := range layouts {
		for _, families := range []string{"IPv4", "dual-stack"} {
			t.Run(layout+"/"+families, func(t *testing.T) {
				env := map[string]string{"ENABLE_MULTI_NIC": "true", "VPCNET_LAYOUT": layout, "WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "1"}
				if families == "dual-stack" {
					env["ENABLE_IPv6"] = "true"
				}
				vpc := vpctest.New(t)
				machine := vpc.Node(t, cardType)
				efa := vpc.EC2(t, "CreateNetworkInterface", "SubnetId", vpc.Subnets[0].ID, "InterfaceType", "efa-only")
				efaID := "eni-" + strings.SplitN(strings.SplitN(efa, "eni-", 2)[1], "<", 2)[0]
				vpc.EC2(t, "AttachNetworkInterface", "InstanceId", machine.ID(), "NetworkInterfaceId", efaID, "NetworkCardIndex", "3", "DeviceIndex", "1")
				node, other := Start(t, machine, Config{Env: env}), Start(t, vpc.Node(t, "t3.small"), Config{Env: env})
				target := other.AddPod(t)
				plain := node.AddPod(t)
				var pods []*Pod
				for range 3 {
					pods = append(pods, node.AddPodWith(t, PodConfig{Capabilities: eachCard}))
				}
				if got := sandboxLinks(plain); !slices.Equal(got, []string{"eth0"}) {
					t.Errorf("a pod that does not ask has %v, want eth0", got)
				}
				check := func() {
					t.Helper()
					for _, p := range pods {
						if got := sandboxLinks(p); !slices.Equal(got, []string{"eth0", "mNicIf1", "mNicIf2"}) {
							t.Fatalf("the result has %v, want eth0 and an interface on cards 1 and 2", got)
						}
						for _, a := range p.Addrs {
							to := target.At(0)
							if a.Is6() {
								to = target.At(1)
							}
							if got := askFrom(t, p, a, to); got != a {
								t.Errorf("%v sees %v, want %v", to, got, a)
							}
						}
						for i := range p.Addrs {
							if p.Addrs[i].Is4() || families == "dual-stack" && p.Addrs[i].Is6() {
								to := p.At(i)
								from := target.Addrs[0]
								if to.Addr().Is6() {
									from = target.Addrs[1]
								}
								if got := target.Ask(t, "udp", to).Addr(); got != from {
									t.Errorf("%v sees %v, want %v", to, got, from)
								}
							}
						}
						p.Check(t)
					}
				}
				check()
				for _, e := range node.ENIs() {
					if e.ID == efaID && len(e.Addrs)+len(e.Prefixes) > 0 || e.ID != efaID && e.Attachment.Card == 3 {
						t.Errorf("card 3 has %+v, want the EFA-only ENI alone and unchanged", e)
					}
				}
				node.Restart(t, syscall.SIGKILL)
				check()
				wantNoDrops(t, vpc)
				before := kernelOf(t, node)
				extra := node.AddPodWith(t, PodConfig{Capabilities: eachCard})
				for range 2 {
					extra.Delete(t)
				}
				node.Eventually(t, func() error { return differs(before, kernelOf(t, node)) })
				for _, p := range append(pods, plain) {
					p.Delete(t)
				}
				wantNoAllocations(t, node)
			})
		}
	}
}

// TestEachCardRefused checks that a pod that asks for what the agent does not give does not
// start, and that the error says what to do.
func TestEachCardRefused(t *testing.T) {
	t.Parallel()
	vpc := vpctest.New(t)
	node := Start(t, vpc.Node(t, "t3.small"), Config{})
	conflist := strings.Replace(read(t, node.File("10-vpcnet.conflist")), `"ips": true`, `"ips": true, "io.kubernetes.cri.pod-annotations": true`, 1)
	_, err := node.TryPod(t, PodConfig{Conflist: conflist, Capabilities: eachCard})
	if err == nil || !strings.Contains(err.Error(), "ENABLE_MULTI_NIC") {
		t.Errorf("ADD: %v, want an error that names ENABLE_MULTI_NIC", err)
	}
	wantNoAllocations(t, node)
}

// sandboxLinks returns the names of the interfaces in the sandbox, in the order of the
// result.
func sandboxLinks(p *Pod) (names []string) {
	for _, i := range p.Result.Interfaces {
		if i.Sandbox != "" {
			names = append(names, i.Name)
		}
	}
	return names
}

// askFrom asks an echo server from one of the addresses of a pod, and returns the source
// that the server saw.
func askFrom(t *testing.T, p *Pod, from netip.Addr, to netip.AddrPort) netip.Addr {
	t.Helper()
	seen, err := ask(t, p, netip.AddrPortFrom(from, 0), to, 5*time.Second)
	if err != nil {
		t.Errorf("from %v to %v: %v", from, to, err)
	}
	return seen.Addr().Unmap()
}

// ask asks an echo server once. It returns the source that the server saw, or an error if
// no answer comes in time.
func ask(t *testing.T, p *Pod, from, to netip.AddrPort, within time.Duration) (netip.AddrPort, error) {
	t.Helper()
	ns, err := fabric.OpenNetns(p.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	return ns.Ask(ctx, "udp", from, to)
}

// read returns the content of a file.
func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
