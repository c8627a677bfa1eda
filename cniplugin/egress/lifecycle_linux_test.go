// SPDX-License-Identifier: Apache-2.0

package egress_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni/vpctest"
	"github.com/vpcnet/vpcnet/internal/nodetest"
	"github.com/vpcnet/vpcnet/internal/steptest"
)

// TestRepeated repeats ADD, which changes nothing, and DEL.
func TestRepeated(t *testing.T) {
	eachFamily(t, func(t *testing.T, family string) {
		n := newNode(t, family)
		defer n.wantAsBefore()
		p, first := n.add(nil)
		before := n.state()
		again := n.must(invocation{command: "ADD", id: p.Name(), netns: p.Path()})
		if first != again || before != n.state() {
			t.Errorf("second ADD:\n%s\nwant\n%s%s", again, first, cmp.Diff(before, n.state()))
		}
		host, _ := links(t, first)
		n.Run(t, "ip", "link", "del", host)
		if again := n.must(invocation{command: "ADD", id: p.Name(), netns: p.Path()}); again != first {
			t.Errorf("ADD after damage:\n%s\nwant\n%s", again, first)
		}
		wantSource(t, p, families[family].internet, n.addr())
		for range 2 {
			n.del(p)
			n.must(invocation{command: "DEL", id: p.Name()})
		}
	})
}

// TestWithoutSandbox ends a sandbox before DEL, and another one that gets no DEL but a GC.
func TestWithoutSandbox(t *testing.T) {
	eachFamily(t, func(t *testing.T, family string) {
		n := newNode(t, family)
		defer n.wantAsBefore()
		p, _ := n.add(nil)
		q, _ := n.add(nil)
		valid, result := n.add(nil)
		p.Delete(t)
		n.must(invocation{command: "DEL", id: p.Name(), netns: p.Path(), fields: map[string]any{"enabled": "false"}})
		q.Delete(t)
		n.gc(valid)
		if out := n.check(valid, result, nil); out != "" {
			t.Errorf("CHECK after GC: %s", out)
		}
		wantSource(t, valid, families[family].internet, n.addr())
		n.del(valid)
	})
}

// gc runs GC with a list of pods.
func (n *node) gc(valid ...*vpctest.Pod) {
	n.t.Helper()
	list := []map[string]string{}
	for _, p := range valid {
		list = append(list, map[string]string{"containerID": p.Name(), "ifname": "eth0"})
	}
	n.must(invocation{command: "GC", fields: map[string]any{"cni.dev/valid-attachments": list}})
}

// TestGCWithoutRecords deletes the state directory: GC finds links by their alias, addresses
// by host-local, and translations by the missing routes. A pod in the list keeps all.
func TestGCWithoutRecords(t *testing.T) {
	n := newNode(t, "IPv6")
	defer n.wantAsBefore()
	n.add(nil)
	gone, _ := n.add(nil)
	valid, _ := n.add(nil)
	gone.Delete(t)
	if err := os.RemoveAll(filepath.Join(n.dir, "state")); err != nil {
		t.Fatal(err)
	}
	n.gc(valid)
	wantSource(t, valid, vpctest.InternetAddr6, n.Addr6)
	if got := n.podAddr(valid.Name()); !strings.Contains(n.state(), got.String()+" : jump to-") {
		t.Errorf("after GC:\n%s\nwant a translation of %s", n.state(), got)
	}
	if left, err := filepath.Glob(filepath.Join(n.dir, "ipam/net/fd00*")); err != nil || len(left) != 1 {
		t.Errorf("host-local has %v, %v, want one address", left, err)
	}
	n.gc()
	if out, ok := n.run(invocation{command: "GC"}); ok || !strings.Contains(out, "missing cni.dev/valid-attachments") {
		t.Errorf("GC without a list: %v, %s", ok, out)
	}
}

// TestFlushed deletes all of nftables: the ADD of another pod restores the translations.
func TestFlushed(t *testing.T) {
	n := newNode(t, "IPv6")
	defer n.wantAsBefore()
	p, _ := n.add(nil)
	n.Run(t, "nft", "flush", "ruleset")
	q, _ := n.add(nil)
	for _, pod := range []*vpctest.Pod{p, q} {
		wantSource(t, pod, vpctest.InternetAddr6, n.Addr6)
		n.del(pod)
	}
}

// TestCheck damages each part of what ADD has made. CHECK must name it, and an ADD repair it.
func TestCheck(t *testing.T) {
	eachFamily(t, func(t *testing.T, family string) {
		n := newNode(t, family)
		defer n.wantAsBefore()
		f := families[family]
		p, result := n.add(nil)
		host, inside := links(t, result)
		var addr string
		table, gateway := "vpcnet-egress-ip6", "fe80::1"
		conf := "net/ipv6/conf/" + host + "/accept_ra"
		damaged := "1"
		if f.four {
			table, gateway, conf, damaged = "vpcnet-egress-ip", "169.254.1.1", "net/ipv4/conf/"+host+"/forwarding", "0"
		}
		const pod = "POD" // stands for the pod's address, which each ADD changes
		in := func(h *vpctest.Host, args []string) func() {
			return func() {
				line := slices.Clone(args)
				for i, arg := range line {
					line[i] = strings.ReplaceAll(arg, pod, addr)
				}
				h.Run(t, line[0], line[1:]...)
			}
		}
		onNode := func(args ...string) func() { return in(n.Host, args) }
		inPod := func(args ...string) func() { return in(p.Host, args) }
		for _, tt := range []struct {
			name   string
			damage func()
			want   string
		}{
			{"node's end deleted", onNode("ip", "link", "del", host), "link " + host},
			{"node's end down", onNode("ip", "link", "set", host, "down"), host + " is down"},
			{"sandbox's end down", inPod("ip", "link", "set", inside, "down"), inside + " is down"},
			{"MTU", inPod("ip", "link", "set", inside, "mtu", "1400"), inside + " has MTU 1400, want 9001"},
			{"MAC", onNode("ip", "link", "set", host, "address", "02:00:00:00:00:01"), host + " has MAC 02:00:00:00:00:01"},
			{"alias", onNode("ip", "link", "set", host, "alias", "mine"), `alias "mine"`},
			{"address", inPod("ip", f.ip, "addr", "flush", "dev", inside, "scope", "global"), "does not have the address " + pod},
			{"route of the sandbox", inPod("ip", f.ip, "route", "del", "default", "dev", inside), "by " + inside},
			{"route of the node", onNode("ip", f.ip, "route", "del", pod, "dev", host), "by " + host},
			{"neighbour of the sandbox", inPod("ip", "neigh", "del", gateway, "dev", inside), "no permanent neighbour " + gateway},
			{"neighbour of the node", onNode("ip", "neigh", "del", pod, "dev", host), "no permanent neighbour " + pod},
			{"setting", onNode("sh", "-c", "echo "+damaged+" > /proc/sys/"+conf), conf + " is " + damaged},
			{"table", onNode("nft", "delete", "table", "inet", table), "does not translate " + pod},
			{"element", onNode("nft", "delete", "element", "inet", table, "pods", "{ "+pod+" }"), "does not translate " + pod},
			{"chain", onNode("nft", "flush", "chain", "inet", table, "source"), "chain source: deleted rule"},
			{"refusal", onNode("nft", "flush", "chain", "inet", table, "links"), "chain links: deleted rule"},
			{"address in host-local", func() {
				if err := os.Remove(filepath.Join(n.dir, "ipam/net", addr)); err != nil {
					t.Fatal(err)
				}
			}, "IPAM plugin host-local"},
			{"record", func() {
				if err := os.RemoveAll(filepath.Join(n.dir, "state")); err != nil {
					t.Fatal(err)
				}
			}, "the attachment does not exist"},
		} {
			addr = n.podAddr(p.Name()).String()
			if out := n.check(p, result, nil); out != "" {
				t.Fatalf("CHECK before the damage of %s: %s", tt.name, out)
			}
			tt.damage()
			if out := n.check(p, result, nil); !strings.Contains(unquoted(out), strings.ReplaceAll(tt.want, pod, addr)) {
				t.Errorf("%s: CHECK says %s, want %q", tt.name, out, tt.want)
			}
			n.del(p)
			if again := n.must(invocation{command: "ADD", id: p.Name(), netns: p.Path()}); again != result {
				t.Errorf("%s: ADD again: %s, want %s", tt.name, again, result)
			}
		}
		other := n.must(invocation{command: "ADD", id: p.Name(), netns: p.Path(), fields: map[string]any{"prevResult": map[string]any{"cniVersion": "1.1.0"}}})
		if out := n.check(p, `{"cniVersion":"1.1.0"}`, nil); !strings.Contains(out, "prevResult has no interface "+host) {
			t.Errorf("CHECK with another prevResult: %s, after %s", out, other)
		}
		for field, value := range map[string]any{"mtu": "1500", "randomizeSNAT": "none"} {
			if out := n.check(p, result, map[string]any{field: value}); out == "" {
				t.Errorf("CHECK with another %s finds nothing", field)
			}
		}
		n.del(p)
	})
}

// unquoted returns the text of a CNI error.
func unquoted(out string) string {
	var e struct{ Msg, Details string }
	_ = json.Unmarshal([]byte(out), &e)
	return e.Msg + " " + e.Details
}

// TestManyAtOnce adds fifty pods at the same time, and deletes them at the same time.
func TestManyAtOnce(t *testing.T) {
	eachFamily(t, func(t *testing.T, family string) {
		n := newNode(t, family)
		defer n.wantAsBefore()
		const count = 50
		var pods []*vpctest.Pod
		for range count {
			pods = append(pods, n.Pod(t))
		}
		each := func(command string) {
			var wg sync.WaitGroup
			for _, p := range pods {
				wg.Go(func() {
					if out, ok := n.run(invocation{command: command, id: p.Name(), netns: p.Path()}); !ok {
						t.Errorf("%s: %s", command, out)
					}
				})
			}
			wg.Wait()
			if t.Failed() {
				t.FailNow()
			}
		}
		each("ADD")
		seen := map[string]bool{}
		for _, p := range pods {
			seen[n.podAddr(p.Name()).String()] = true
			if got := p.Ask(t, "udp", echoAt(families[family].internet)).Addr(); got != n.addr() {
				t.Errorf("the internet sees %v, want %v", got, n.addr())
			}
		}
		if len(seen) != count {
			t.Errorf("%d addresses, want %d", len(seen), count)
		}
		each("DEL")
	})
}

// TestKilledAtEveryStep kills the plugin before each step of ADD and DEL, for three pods.
// Afterwards one gets a DEL without its sandbox, one an ADD, a CHECK and a DEL, and one is
// left to GC. Then everything must be gone.
func TestKilledAtEveryStep(t *testing.T) {
	for _, command := range []string{"ADD", "DEL"} {
		t.Run(command, func(t *testing.T) {
			n := newNode(t, "IPv6")
			defer n.wantAsBefore()
			deleted, again, left := n.Pod(t), n.Pod(t), n.Pod(t)
			for i := 0; ; i++ {
				var last steptest.Step
				killed := 0
				for _, p := range []*vpctest.Pod{deleted, again, left} {
					if command == "DEL" {
						n.must(invocation{command: "ADD", id: p.Name(), netns: p.Path()})
					}
					if n.kill(invocation{command: command, id: p.Name(), netns: p.Path()}, func(s steptest.Step) bool { last = s; return s.Number < i }) {
						killed++
					}
				}
				n.must(invocation{command: "DEL", id: deleted.Name()})
				result := n.must(invocation{command: "ADD", id: again.Name(), netns: again.Path()})
				if out := n.check(again, result, nil); out != "" {
					t.Errorf("killed before step %d, %s: CHECK: %s", i, last.Name, out)
				}
				n.del(again)
				n.gc()
				if diff := cmp.Diff(n.before, n.state()); diff != "" {
					t.Fatalf("killed before step %d, %s: left behind: -before +after:\n%s", i, last.Name, diff)
				}
				if killed == 0 {
					const fewest = 10
					if i < fewest {
						t.Errorf("%s has %d steps, want at least %d", command, i, fewest)
					}
					t.Logf("killed before each of %d steps", i)
					return
				}
			}
		})
	}
}

// kill executes an invocation until at returns false, and reports whether it did.
func (n *node) kill(i invocation, at func(steptest.Step) bool) (killed bool) {
	n.t.Helper()
	files := make([]*os.File, 3)
	for j, content := range []string{n.stdin(i), "", ""} {
		path := filepath.Join(n.t.TempDir(), fmt.Sprint(j))
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			n.t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			n.t.Fatal(err)
		}
		defer f.Close()
		files[j] = f
	}
	program := nodetest.Program("egress-cni")
	n.Do(n.t, func() error {
		// A process group of its own, so that Follow waits for its threads only.
		p, err := os.StartProcess(program, []string{program}, &os.ProcAttr{
			Env: n.cmd(i).Env, Files: files, Sys: &syscall.SysProcAttr{Ptrace: true, Setpgid: true},
		})
		if err != nil {
			return err
		}
		defer func() { _ = p.Release() }()
		status, err := steptest.Follow(p.Pid, at)
		killed = status == -1
		return err
	})
	return killed
}
