// SPDX-License-Identifier: Apache-2.0

//go:build linux

package fabric_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/snat"
)

// fewEnv is the variable that tells the process with few capabilities its layout.
const fewEnv = "VPCNET_FEW_CAPABILITIES"

// TestFewCapabilities does the work of an agent and of a plugin in a process that
// has only the capabilities that the packages document. With CAP_NET_ADMIN alone
// the work on the node must succeed, and the work on a pod must fail with an error
// that names CAP_SYS_ADMIN.
func TestFewCapabilities(t *testing.T) {
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skipf("needs the program setpriv: %v", err)
	}
	for _, layout := range []datapath.Layout{datapath.Flat, datapath.PerPod} {
		for _, capabilities := range []string{"+net_admin", "+net_admin,+sys_admin"} {
			t.Run(string(layout)+" "+capabilities, func(t *testing.T) {
				s := newSuite(t, setting{layout: layout})
				h := s.hosts[0]
				for _, k := range slices.Backward(s.kinds) {
					if err := h.path.DelPod(t.Context(), h.pods[k.name].pod); err != nil {
						t.Fatal(err)
					}
				}
				nft(t, h.ns, "flush ruleset")
				if err := h.ns.Sysctl("ipv4/conf/ens6/rp_filter", "1"); err != nil {
					t.Fatal(err)
				}
				createNetns(t, "few")
				exe, err := os.Executable()
				if err != nil {
					t.Fatal(err)
				}
				var out strings.Builder
				cmd := exec.CommandContext(t.Context(), "setpriv", "--bounding-set=-all,"+capabilities, "--inh-caps=-all", "--no-new-privs", exe)
				cmd.Env = append(os.Environ(), fewEnv+"="+string(layout))
				cmd.Stdout, cmd.Stderr = &out, &out
				if err = h.ns.Start(cmd); err == nil {
					err = cmd.Wait()
				}
				refused := strings.Contains(out.String(), "CAP_SYS_ADMIN")
				if alone := capabilities == "+net_admin"; alone != refused || alone == (err == nil) {
					t.Errorf("with %s: error %v and output %q", capabilities, err, &out)
				}
				if got := out.String(); !strings.HasPrefix(got, "node done\n") {
					t.Errorf("the work on the node needs more than CAP_NET_ADMIN: %s", got)
				}
			})
		}
	}
}

// runWithFewCapabilities runs in the process of TestFewCapabilities, in the namespace of the first
// node, and returns the exit status.
func runWithFewCapabilities() int {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	h := &host{number: 1, end: end{addrs: [2]netip.Addr{in4(1, 10), in6(1, 10)}}, node: datapath.Node{Layout: datapath.Layout(os.Getenv(fewEnv))}}
	for _, i := range []int{primary, second, underIPVLAN, secondCard} {
		h.node.ENIs = append(h.node.ENIs, h.describe(i))
	}
	path, err := datapath.Open("")
	if err == nil {
		defer path.Close()
		err = errors.Join(path.EnsureNode(ctx, h.node), fewTranslate(ctx, h), fewRepair(ctx, path, datapath.Desired{Node: h.node}))
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("node done")
	pod := datapath.Pod{
		ContainerID: "few", IfName: "eth0", Netns: "/run/netns/few", Layout: h.node.Layout, MTU: 9001,
		Addrs: []datapath.PodAddr{{Addr: in4(1, 21), Table: datapath.Table(0, 1)}, {Addr: in6(1, 21), Table: datapath.Table(0, 1)}},
	}
	if _, err = path.AddPod(ctx, pod); err == nil {
		err = errors.Join(path.CheckPod(ctx, pod), fewRepair(ctx, path, datapath.Desired{Node: h.node, Pods: []datapath.Pod{pod}}), path.DelPod(ctx, pod))
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func fewTranslate(ctx context.Context, h *host) error {
	rules, err := snat.Config{NodeAddrs: h.addrs[:], PrimaryLink: "ens5", VPC: vpcConfig.VPC, NodePort: true}.Ruleset()
	if err != nil {
		return err
	}
	n, err := snat.Open("")
	if err != nil {
		return err
	}
	defer n.Close()
	_, err = n.Apply(ctx, rules)
	return err
}

// fewRepair changes a sysctl and waits until Watch has repaired it.
func fewRepair(ctx context.Context, path *datapath.Handle, want datapath.Desired) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	repaired, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		ended <- path.Watch(ctx, datapath.WatchConfig{
			Desired: func() datapath.Desired { return want },
			Repaired: func(datapath.Repair) {
				select {
				case repaired <- struct{}{}:
				default:
				}
			},
		})
	}()
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/ens6/rp_filter", []byte("1"), 0); err != nil {
		return err
	}
	select {
	case <-repaired:
	case err := <-ended:
		return err
	case <-ctx.Done():
		return errors.New("Watch did not repair rp_filter of ens6")
	}
	stop()
	<-ended
	return nil
}
