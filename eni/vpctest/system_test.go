// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vpctest_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// worker is a node with the agent ipamd. The plugin vpc-cni connects its pods.
type worker struct {
	*vpctest.Node
	dir string
}

// startWorker starts ipamd on a new node, with the credentials that the metadata service has,
// and waits until it serves pods.
func startWorker(t *testing.T, vpc *vpctest.VPC, instanceType string) *worker {
	t.Helper()
	// The path of a socket must be short.
	dir, err := os.MkdirTemp("/run", "worker-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &worker{vpc.Node(t, instanceType), dir}
	cmd := exec.Command(filepath.Join(os.Getenv(programsEnv), "ipamd"),
		"-socket="+w.file("agent.sock"), "-status-socket="+w.file("status.sock"),
		"-state-dir="+dir, "-conflist="+w.file("10-vpcnet.conflist"), "-portmap=false")
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "AWS_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(append(cmd.Env, w.Env()...), "CLUSTER_NAME=test", "WARM_ENI_TARGET=0", "WARM_IP_TARGET=2")
	p := w.Start(t, cmd)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := cniplugin.Client{Socket: w.file("agent.sock")}
	for {
		err := client.Status(ctx)
		if err == nil {
			_, err = os.Stat(w.file("10-vpcnet.conflist"))
		}
		if err == nil {
			return w
		}
		select {
		case <-p.Done():
			t.Fatalf("ipamd on %s ended: %v", w.Name(), p.Err())
		case <-ctx.Done():
			t.Fatalf("ipamd on %s is not ready: %v", w.Name(), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (w *worker) file(name string) string { return filepath.Join(w.dir, name) }

// cni calls the plugin for a pod as a container runtime does.
func (w *worker) cni(t *testing.T, pod *vpctest.Pod, f func(*libcni.CNIConfig, *libcni.NetworkConfigList, *libcni.RuntimeConf) error) {
	t.Helper()
	list, err := libcni.ConfListFromFile(w.file("10-vpcnet.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	plugins := libcni.NewCNIConfigWithCacheDir([]string{os.Getenv(programsEnv)}, w.file("cache"), nil)
	w.Do(t, func() error {
		return f(plugins, list, &libcni.RuntimeConf{ContainerID: pod.Name(), NetNS: pod.Path(), IfName: "eth0"})
	})
}

// addPod adds a pod with an echo server and returns its address.
func (w *worker) addPod(t *testing.T) (*vpctest.Pod, netip.Addr) {
	t.Helper()
	pod := w.Pod(t)
	var addr netip.Addr
	w.cni(t, pod, func(c *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
		res, err := c.AddNetworkList(t.Context(), list, rt)
		if err != nil {
			return err
		}
		result, err := types100.NewResultFromResult(res)
		if err != nil {
			return err
		}
		if len(result.IPs) == 0 {
			return errors.New("the result has no address")
		}
		a, _ := netip.AddrFromSlice(result.IPs[0].Address.IP)
		addr = a.Unmap()
		return nil
	})
	pod.Echo(t, netip.AddrPortFrom(netip.IPv4Unspecified(), vpctest.EchoPort))
	return pod, addr
}

// TestWholeSystem runs the real agent and the real plugin on two nodes. The first one needs a
// second ENI for its pods. All pods reach each other with their own addresses, and the
// internet with the address of their node.
func TestWholeSystem(t *testing.T) {
	vpc := vpctest.New(t)
	workers := []*worker{startWorker(t, vpc, "t3.small"), startWorker(t, vpc, "t3.small")}
	type pod struct {
		*vpctest.Pod
		worker *worker
		addr   netip.Addr
	}
	var pods []pod
	for i, n := range []int{4, 2} { // a t3.small has 3 addresses for pods on each ENI
		for range n {
			p, addr := workers[i].addPod(t)
			pods = append(pods, pod{p, workers[i], addr})
		}
	}
	if enis := workers[0].ENIs(); len(enis) < 2 {
		t.Fatalf("%d ENIs, want a second one for the fourth pod", len(enis))
	}
	for _, from := range pods {
		for _, to := range pods {
			if from.Pod == to.Pod {
				continue
			}
			from.Ping(t, to.addr)
			for _, network := range []string{"tcp", "udp"} {
				if seen := from.Ask(t, network, netip.AddrPortFrom(to.addr, vpctest.EchoPort)); seen.Addr() != from.addr {
					t.Errorf("%s sees %v over %s, want %s with %v", to.Name(), seen.Addr(), network, from.Name(), from.addr)
				}
			}
		}
		from.Ping(t, vpctest.InternetAddr)
		if seen := from.Ask(t, "tcp", netip.AddrPortFrom(vpctest.InternetAddr, vpctest.EchoPort)); seen.Addr() != from.worker.Addr {
			t.Errorf("the internet sees %v for %s, want the node %v", seen.Addr(), from.Name(), from.worker.Addr)
		}
		if got := from.LookupAddr(t, "", vpc.Resolver(), from.addr); !strings.HasPrefix(got, "ip-"+strings.ReplaceAll(from.addr.String(), ".", "-")) {
			t.Errorf("%s asks for the name of its address: %q", from.Name(), got)
		}
	}
	for id, n := range vpc.Drops(t).Spoofed {
		if n > 0 {
			t.Errorf("%d packets with a foreign source left by %s", n, id)
		}
	}
	last := pods[len(pods)-1]
	last.worker.cni(t, last.Pod, func(c *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
		return c.DelNetworkList(t.Context(), list, rt)
	})
	last.Delete(t)
	pods[0].NoPing(t, last.addr)
	if calls := vpc.Cloud.Calls(); calls["CreateNetworkInterface"] == 0 {
		t.Error(fmt.Sprint("no ENI was created over the API: ", calls))
	}
}
