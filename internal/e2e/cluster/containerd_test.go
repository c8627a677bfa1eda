// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// TestContainerd starts 1, 20 and 60 pods at once by CRI, each on a node on which no pod has
// run. A host of the VPC reaches each pod. Afterwards nothing of them is left.
func TestContainerd(t *testing.T) {
	vpc := newVPC(t)
	client := vpc.Node(t, "t3.small")
	for _, n := range []int{1, 20, 60} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			s := newSandboxes(t, vpc)
			m := s.measure(vpc)
			pods, errs := s.runMany(t.Context(), n)
			m.log(t, "start", n, len(errs))
			for _, err := range errs {
				t.Error(err)
			}
			s.reachable(t, client, pods)
			m = s.measure(vpc)
			s.removeAll(t)
			s.deletedTwice(t, pods)
			m.log(t, "stop and remove", n, 0)
			s.nothingLeft(t, pods)
		})
	}
}

// TestContainerdKilled ends containerd, the agent or the plugins by SIGKILL while 20 pods start.
// The pods that were started work, those that were not start at another attempt, and nothing is
// left of any.
func TestContainerdKilled(t *testing.T) {
	vpc := newVPC(t)
	client := vpc.Node(t, "t3.small")
	s := newSandboxes(t, vpc)
	for _, test := range []struct {
		name string
		kill func(t *testing.T, done <-chan struct{})
	}{
		{"containerd", func(t *testing.T, _ <-chan struct{}) {
			s.waitStarted(t, 3)
			s.kill(t, "containerd")
			s.startContainerd(t)
		}},
		{"agent", func(t *testing.T, _ <-chan struct{}) {
			s.waitStarted(t, 3)
			s.kill(t, "ipamd")
			s.startAgent(t)
		}},
		{"plugins", func(t *testing.T, done <-chan struct{}) {
			if killPlugins(t, done) == 0 {
				t.Error("no plugin was killed")
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			const n = 20
			m := s.measure(vpc)
			s.started.Store(0)
			done := make(chan struct{})
			var pods []sandbox
			var errs []error
			go func() {
				defer close(done)
				pods, errs = s.runMany(t.Context(), n)
			}()
			test.kill(t, done)
			<-done
			failed := len(errs)
			s.waitNetwork(t)
			eventually(t, func() error { // as kubelet tries again
				more, errs := s.runMany(t.Context(), n-len(pods))
				pods = append(pods, more...)
				return errors.Join(errs...)
			})
			m.log(t, test.name+" killed", n, failed)
			s.reachable(t, client, pods)
			s.removeAll(t)
			s.nothingLeft(t, pods)
		})
	}
}

// sandboxes are the pods of a node with containerd and the agent.
type sandboxes struct {
	*machine
	api cri.RuntimeServiceClient
	// number makes the names of pods differ, and started counts those that were started.
	number, started atomic.Int64
}

// newSandboxes starts a node with containerd and the agent.
func newSandboxes(t *testing.T, vpc *vpctest.VPC) *sandboxes {
	t.Helper()
	s := &sandboxes{machine: newMachine(t, vpc.Node(t, "m5.4xlarge"))}
	s.runtime(t)
	s.install(t)
	conn, err := grpc.NewClient("unix://"+s.inside("/run/containerd/containerd.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)), grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, MaxDelay: time.Second}}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	s.api = cri.NewRuntimeServiceClient(conn)
	s.waitNetwork(t)
	return s
}

// waitNetwork waits until containerd says that the network is ready.
func (s *sandboxes) waitNetwork(t *testing.T) {
	t.Helper()
	eventually(t, func() error {
		st, err := s.api.Status(t.Context(), &cri.StatusRequest{})
		if err != nil {
			return err
		}
		for _, k := range st.Status.Conditions {
			if k.Type == cri.NetworkReady && !k.Status {
				return errors.New(k.Message)
			}
		}
		return nil
	})
}

// waitStarted waits until n pods are started.
func (s *sandboxes) waitStarted(t *testing.T, n int64) {
	t.Helper()
	eventually(t, func() error {
		if got := s.started.Load(); got < n {
			return fmt.Errorf("%d pods are started", got)
		}
		return nil
	})
}

// start starts a pod.
func (s *sandboxes) startPod(ctx context.Context) (p sandbox, err error) {
	name := "pod-" + strconv.FormatInt(s.number.Add(1), 10)
	r, err := s.api.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "default"},
		Linux:    &cri.LinuxPodSandboxConfig{CgroupParent: "/" + s.cgroup},
	}})
	if err != nil {
		return sandbox{}, err
	}
	s.started.Add(1)
	st, err := s.api.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: r.PodSandboxId})
	if err != nil {
		return sandbox{}, err
	}
	addr, err := netip.ParseAddr(st.Status.Network.Ip)
	return sandbox{r.PodSandboxId, addr}, err
}

// runMany starts n pods at once, and returns those that run and the errors of the others.
func (s *sandboxes) runMany(ctx context.Context, n int) (pods []sandbox, errs []error) {
	var mu sync.Mutex
	var group sync.WaitGroup
	for range n {
		group.Go(func() {
			p, err := s.startPod(ctx)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			pods = append(pods, p)
		})
	}
	group.Wait()
	return pods, errs
}

// reachable checks that each pod has an address of its own, which an ENI of the node has, and
// answers a host of the VPC.
func (s *sandboxes) reachable(t *testing.T, client *vpctest.Node, pods []sandbox) {
	t.Helper()
	owned := map[netip.Addr]bool{}
	for _, e := range s.ENIs() {
		for _, a := range e.Addrs {
			owned[a] = true
		}
	}
	for _, p := range pods {
		if !owned[p.addr] {
			t.Errorf("no ENI has the address %v, or two pods have it", p.addr)
		}
		delete(owned, p.addr)
		client.Ping(t, p.addr)
	}
}

// removeAll stops all pods at once, twice each, and removes them. The plugin gets DEL each time.
func (s *sandboxes) removeAll(t *testing.T) {
	t.Helper()
	list, err := s.api.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for _, p := range list.Items {
		group.Go(func() {
			for range 2 {
				if _, err := s.api.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: p.Id}); err != nil {
					t.Errorf("stop %s: %v", p.Metadata.Name, err)
				}
			}
			if _, err := s.api.RemovePodSandbox(t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: p.Id}); err != nil {
				t.Errorf("remove %s: %v", p.Metadata.Name, err)
			}
		})
	}
	group.Wait()
}

// deletedTwice checks that containerd had the plugin delete each pod more than once.
func (s *sandboxes) deletedTwice(t *testing.T, pods []sandbox) {
	t.Helper()
	log, err := os.ReadFile(s.logFile("containerd"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		n := 0
		for line := range strings.Lines(string(log)) {
			if strings.Contains(line, p.id) && strings.Contains(line, "TearDown network for sandbox") && strings.Contains(line, "successfully") {
				n++
			}
		}
		if n < 2 {
			t.Errorf("pod %s was deleted %d times", p.id, n)
		}
	}
}

// killPlugins ends plugins by SIGKILL, 20 of them or as many as there are until done is
// closed, and returns how many.
func killPlugins(t *testing.T, done <-chan struct{}) (n int) {
	t.Helper()
	for n < 20 {
		select {
		case <-done:
			return n
		case <-time.After(5 * time.Millisecond):
		}
		comms, err := filepath.Glob("/proc/[0-9]*/comm")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range comms {
			name, _ := os.ReadFile(file) // "" once the process has ended
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err == nil && strings.TrimSpace(string(name)) == "vpc-cni" && syscall.Kill(pid, syscall.SIGKILL) == nil {
				n++
			}
		}
	}
	return n
}

// measurement is the begin of what is measured on a node.
type measurement struct {
	s     *sandboxes
	vpc   *vpctest.VPC
	began time.Time
	calls int
}

// measure begins a measurement.
func (s *sandboxes) measure(vpc *vpctest.VPC) measurement {
	return measurement{s, vpc, time.Now(), calls(vpc)}
}

// log logs the figures of a scenario.
func (m measurement) log(t *testing.T, scenario string, pods, failed int) {
	t.Helper()
	t.Logf("%s: %d pods, %d failed sandboxes, %.1f s, %d EC2 calls, ipamd %d MB, containerd %d MB", scenario, pods, failed,
		time.Since(m.began).Seconds(), calls(m.vpc)-m.calls, m.s.resident(t, "ipamd"), m.s.resident(t, "containerd"))
}

// calls returns how many calls EC2 has answered.
func calls(vpc *vpctest.VPC) (n int) {
	for _, c := range vpc.Cloud.Calls() {
		n += c
	}
	return n
}
