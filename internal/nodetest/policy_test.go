// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/datapath/policy"
	"github.com/vpcnet/vpcnet/eni/vpctest"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

// The policies of the tests: pods whose names begin with closed may not send, locked ones may
// neither send nor receive, and the others are free. The %d makes another class each time.
const policyText = `{
	"classes": {
		"closed-%[1]d": {"egress": {"isolated": true, "allow": [{"name": "round", "peers": [{"prefix": "192.0.2.%[1]d/32"}], "ports": [{}]}]}},
		"locked": {"ingress": {"isolated": true}, "egress": {"isolated": true}}
	},
	"pods": [{"pod": "default/closed-*", "class": "closed-%[1]d"}, {"pod": "default/locked-*", "class": "locked"}]
}`

func writePolicies(t *testing.T, file string, round int) {
	t.Helper()
	writeFile(t, file, fmt.Sprintf(policyText, round%250))
}

// writeFile replaces a file as a whole.
func writeFile(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// named returns the configuration of a pod with a name.
func named(name string) PodConfig { return PodConfig{Args: map[string]string{"K8S_POD_NAME": name}} }

// sink counts the datagrams that come to a pod, by the number that they begin with.
type sink struct {
	at  netip.AddrPort
	mu  sync.Mutex
	got map[uint32]int
}

func newSink(t *testing.T, p *Pod) *sink {
	t.Helper()
	s := &sink{at: netip.AddrPortFrom(p.Addrs[0], 4000), got: map[uint32]int{}}
	c := p.ListenPacket(t, s.at)
	go func() {
		buf := make([]byte, 100)
		for {
			n, _, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if n >= 4 {
				s.mu.Lock()
				s.got[binary.BigEndian.Uint32(buf)]++
				s.mu.Unlock()
			}
		}
	}()
	return s
}

func (s *sink) count(number uint32) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got[number]
}

// flood sends datagrams with a number from a sandbox to the sink, from before its ADD on and
// until stop is called. stop returns how many were sent without an error.
func flood(t *testing.T, p *vpctest.Pod, s *sink, number uint32) (stop func() int64) {
	t.Helper()
	var ended atomic.Bool
	var sent atomic.Int64
	var c *net.UDPConn
	p.Do(t, func() (err error) {
		c, err = net.ListenUDP("udp4", nil)
		return err
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer c.Close()
		for !ended.Load() {
			if _, err := c.WriteToUDPAddrPort(binary.BigEndian.AppendUint32(nil, number), s.at); err == nil {
				sent.Add(1)
			}
			time.Sleep(200 * time.Microsecond)
		}
	}()
	return func() int64 {
		ended.Store(true)
		<-done
		return sent.Load()
	}
}

// policyRounds is the number of pods that TestPolicyFirstPacket adds: 1,000 if
// VPCNET_POLICY_ROUNDS says so.
func policyRounds(t *testing.T) (n int) {
	t.Helper()
	if text := os.Getenv("VPCNET_POLICY_ROUNDS"); text != "" {
		if _, err := fmt.Sscan(text, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	return 20
}

// TestPolicyFirstPacket adds pods that send from the first moment on, while the policies of
// all pods change again and again. No packet of a pod that may not send arrives, and packets
// of a pod that may send do.
func TestPolicyFirstPacket(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"standard", "strict"} {
		t.Run(mode, func(t *testing.T) {
			vpc := vpctest.New(t)
			node := vpc.Node(t, "m5.large")
			file := t.TempDir() + "/policies.json"
			writePolicies(t, file, 0)
			n := Start(t, node, Config{Env: map[string]string{"VPCNET_NETWORK_POLICIES": file, "NETWORK_POLICY_ENFORCING_MODE": mode, "IP_COOLDOWN_PERIOD": "1"}})
			s := newSink(t, n.AddPodWith(t, named("free-sink")))
			var changes atomic.Int64
			end := make(chan struct{})
			var changing sync.WaitGroup
			changing.Go(func() {
				for i := 1; ; i++ {
					select {
					case <-end:
						return
					case <-time.After(5 * time.Millisecond):
					}
					if err := os.WriteFile(file+".new", fmt.Appendf(nil, policyText, i%250), 0o600); err != nil {
						t.Error(err)
						return
					}
					if err := errors.Join(os.Rename(file+".new", file), syscall.Kill(n.Agent.PID(), syscall.SIGHUP)); err != nil {
						t.Error(err)
						return
					}
					changes.Add(1)
				}
			})
			for i := range policyRounds(t) {
				number := uint32(i + 1)
				name := fmt.Sprint("closed-", i)
				free := i%10 == 9
				if free {
					name = fmt.Sprint("free-", i)
				}
				p, stop := n.floodFrom(t, name, s, number)
				deadline := time.Now().Add(patience)
				for free && s.count(number) == 0 && time.Now().Before(deadline) {
					time.Sleep(time.Millisecond)
				}
				time.Sleep(10 * time.Millisecond)
				sent := stop()
				switch got := s.count(number); {
				case sent == 0:
					t.Errorf("%s has sent nothing", name)
				case free && got == 0:
					t.Errorf("none of %d packets of %s have arrived", sent, name)
				case !free && got > 0:
					t.Errorf("%d of %d packets of %s have arrived", got, sent, name)
				}
				p.Delete(t)
			}
			close(end)
			changing.Wait()
			t.Logf("%d changes of the policies", changes.Load())
		})
	}
}

// floodFrom adds a pod that sends from before its ADD on.
func (n *Node) floodFrom(t *testing.T, name string, s *sink, number uint32) (*Pod, func() int64) {
	t.Helper()
	var stop func() int64
	cfg := named(name)
	cfg.Silent, cfg.before = true, func(p *vpctest.Pod) { stop = flood(t, p, s, number) }
	return n.AddPodWith(t, cfg), stop
}

// TestPolicyKill kills the agent while it changes policies, and starts it again: no packet of
// a closed pod arrives meanwhile, and an open connection of a free pod is not cut. A pod that
// is added before the policies can be read is closed in the mode strict and open in the mode
// standard, and keeps its class when they cannot be read any more.
func TestPolicyKill(t *testing.T) {
	t.Parallel()
	vpc := vpctest.New(t)
	file := t.TempDir() + "/policies.json"
	writePolicies(t, file, 0)
	env := map[string]string{"VPCNET_NETWORK_POLICIES": file, "NETWORK_POLICY_ENFORCING_MODE": "strict", "VPCNET_NETWORK_POLICY_LOG_LIMIT": "1"}
	n := Start(t, vpc.Node(t, "m5.large"), Config{Env: env})
	free := n.AddPodWith(t, named("free-1"))
	s := newSink(t, free)
	closed, stop := n.floodFrom(t, "closed-1", s, 1)
	locked := n.AddPodWith(t, named("locked-1"))
	far := n.AddPodWith(t, named("free-2"))
	conn := far.Dial(t, "tcp", free.At(0))
	say := func() {
		t.Helper()
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("still here\n")); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 200)); err != nil {
			t.Fatalf("the open connection: %v", err)
		}
	}
	say()
	for i := range 5 {
		writePolicies(t, file, i+1)
		n.Agent.Signal(t, syscall.SIGHUP)
		time.Sleep(time.Duration(i) * time.Millisecond) // to kill it at different places
		n.Restart(t, syscall.SIGKILL)
		say()
		far.NoAnswer(t, "udp", locked.At(0))
	}
	n.Eventually(t, func() error { return logged(n, "network policy denied a packet") })
	n.Eventually(t, func() error { return denied(n.Status(t), "locked", policy.Ingress) })
	n.Restart(t, syscall.SIGTERM)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	n.Restart(t, syscall.SIGKILL)
	n.Eventually(t, func() error { return logged(n, "network policies stay as they are") })
	far.NoAnswer(t, "udp", locked.At(0)) // the class of the agent before
	far.Ask(t, "udp", free.At(0))
	late := n.AddPodWith(t, named("free-3"))
	far.NoAnswer(t, "udp", late.At(0)) // strict
	writePolicies(t, file, 9)
	n.Agent.Signal(t, syscall.SIGHUP)
	far.Ask(t, "udp", late.At(0))
	n.Ping(t, locked.Addrs[0])
	if sent, got := stop(), s.count(1); sent == 0 || got > 0 {
		t.Errorf("%d of %d packets of a closed pod have arrived", got, sent)
	}

	// DEL takes the class away, and an agent without policies removes the table.
	closed.Delete(t)
	locked.Delete(t)
	h := n.policies(t)
	n.Eventually(t, func() error {
		have, ours, err := h.Observe(t.Context())
		for _, p := range []*Pod{closed, locked} {
			if class, ok := have.Pods[p.Addrs[0]]; err == nil && (!ours || ok) {
				err = fmt.Errorf("after DEL: ours %t, %v has the class %q", ours, p.Addrs[0], class)
			}
		}
		return err
	})
	n.Configure(Config{})
	n.Restart(t, syscall.SIGTERM)
	if _, ours, err := h.Observe(t.Context()); ours || err != nil {
		t.Errorf("the table of an agent without policies: ours %t, %v", ours, err)
	}
}

// denied checks that an agent counts packets that a class has denied, and shows the class of a
// pod.
func denied(s ipamd.Status, class string, d policy.Direction) error {
	counted := slices.ContainsFunc(s.Denied, func(x policy.Denied) bool { return x.Class == class && x.Direction == d && x.Packets > 0 })
	shown := slices.ContainsFunc(s.Allocations, func(p ipamd.PodStatus) bool { return p.Class == class })
	if !counted || !shown {
		return fmt.Errorf("denied %+v, pods %+v: want packets denied by class %s and a pod with it", s.Denied, s.Allocations, class)
	}
	return nil
}

// policies opens the table of the node.
func (n *Node) policies(t *testing.T) *policy.Handle {
	t.Helper()
	h, err := policy.Open(n.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// TestPolicyModes asks for a pod on an ENI of its own that a policy isolates: ADD refuses it
// by name. A free pod of the same mode is added.
func TestPolicyModes(t *testing.T) {
	t.Parallel()
	vpc := vpctest.New(t)
	file := t.TempDir() + "/policies.json"
	writePolicies(t, file, 0)
	n := Start(t, vpc.Node(t, "m5.large"), Config{Env: map[string]string{"VPCNET_NETWORK_POLICIES": file, "VPCNET_WHOLE_ENIS": "1"}})
	cfg := withFields(t, n, `"mode": "eni"`)
	cfg.Args = named("locked-1").Args
	if _, err := n.TryPod(t, cfg); err == nil || !strings.Contains(err.Error(), "network policies need a pod with a veth pair or a branch ENI") {
		t.Errorf("an isolated pod with an ENI of its own: %v, want it refused", err)
	}
	cfg.Args = named("free-1").Args
	n.AddPodWith(t, cfg)
}
